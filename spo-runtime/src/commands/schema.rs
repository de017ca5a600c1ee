//! `spo-run schema`: the JSON Schema of recipes.

use spo_api::Registry;

use crate::plan::libraries;
use crate::recipe::schema::schema;
use crate::reporter::say;

/// Prints the schema with all known parts, including those of plugins in the search path.
pub(crate) fn run(registry: &mut Registry) -> anyhow::Result<()> {
    libraries::load_all(registry)?;
    say(&format!("{:#}", schema(registry)));
    Ok(())
}
