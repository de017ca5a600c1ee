//! Parts of recipes on the command line: an objective, and files of rows.

use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{Objective, Part, Registry};
use spo_data::Source;

use crate::error::{BadInput, bad};
use crate::plan::{fetch, libraries};
use crate::recipe::compose;
use crate::recipe::data::Rows;
use crate::recipe::document::Document;
use crate::recipe::objective::ObjectiveSpec;
use crate::recipe::part::PartSpec;

#[derive(Deserialize, JsonSchema)]
struct InlineObjective {
    objective: ObjectiveSpec,
}

impl Part for InlineObjective {}

#[derive(Deserialize, JsonSchema)]
struct InlineRows {
    rows: Rows,
}

impl Part for InlineRows {}

/// An objective as in a recipe: a name, or inline TOML. Loads the library that has it.
///
/// # Errors
/// [`BadInput`] if there is none of this name, or its keys are wrong.
pub(crate) fn objective(registry: &mut Registry, text: &str) -> Result<Box<dyn Objective>, BadInput> {
    let value = toml_or_text(text);
    let document = Document::parse("--objective", format!("objective = {value}"), &[])?;
    let InlineObjective { objective: mut spec } = document.read_as()?;
    spec.place("objective");
    let parts: Vec<_> = spec.parts().into_iter().map(PartSpec::identity).collect();
    libraries::load_if_unknown(registry, &parts, None)?;
    compose::objective(registry, &spec, None).map_err(|e| document.locate("", e))
}

/// Files of rows as in a recipe: a path, or inline TOML such as `{ path = "rows.csv", columns = { prompt = "q" } }`.
///
/// # Errors
/// [`BadInput`] if it is no such thing.
pub(crate) fn rows(option: &str, text: &str) -> Result<Vec<Source>, BadInput> {
    let document = Document::parse(option, format!("rows = {}", toml_or_text(text)), &[])?;
    let InlineRows { mut rows } = document.read_as()?;
    fetch::rows(&mut rows.sources).map_err(bad)?;
    Ok(rows.sources)
}

/// A table, a list and a quoted text are TOML; anything else is a text.
fn toml_or_text(text: &str) -> String {
    match text.trim_start().starts_with(['{', '[', '"', '\'']) {
        true => text.to_owned(),
        false => toml::Value::String(text.to_owned()).to_string(),
    }
}
