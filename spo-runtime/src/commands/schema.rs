//! `spo-run schema`: the JSON Schema of recipes.

use crate::recipe;
use crate::reporter::say;

pub(crate) fn run() -> anyhow::Result<()> {
    say(&recipe::schema());
    Ok(())
}
