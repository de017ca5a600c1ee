//! Which plugins a command loads: those it is told to, and those in the search path when a part is asked
//! for that nothing else has.

use serde_json::Value;
use spo_api::Registry;
use spo_plugins::library::{self, Refusal};
use spo_plugins::search;

use crate::document::Document;
use crate::error::BadInput;

/// Loads what the command line names.
///
/// # Errors
/// When a library cannot be found or loaded.
pub fn load(registry: &mut Registry, specs: &[String]) -> Result<(), BadInput> {
    for spec in specs {
        find_and_load(registry, spec).map_err(|problem| BadInput(format!("error: {problem}")))?;
    }
    Ok(())
}

fn find_and_load(registry: &mut Registry, spec: &str) -> Result<(), String> {
    library::load(registry, &search::resolve(spec)?).map_err(|refusal| refusal.to_string())
}

/// Loads what a recipe names under `plugins.load`; and if it uses a part that is then still unknown, what
/// the search path holds.
///
/// # Errors
/// [`BadInput`] with the place in the recipe.
pub fn load_for(registry: &mut Registry, document: &Document) -> Result<(), BadInput> {
    let listed = document.get("plugins").and_then(|plugins| plugins.get("load")).and_then(Value::as_array);
    for (i, spec) in listed.into_iter().flatten().enumerate() {
        // What is no string is refused when the recipe as a whole is read.
        let Some(spec) = spec.as_str() else { continue };
        find_and_load(registry, spec)
            .map_err(|problem| document.error(&format!("plugins.load[{i}]"), problem))?;
    }
    if parts(document).into_iter().any(|(kind, name)| registry.get(kind, name).is_err()) {
        load_all(registry)?;
    }
    Ok(())
}

/// Loads all libraries of the search path. One that cannot be loaded is passed over, with a warning.
///
/// # Errors
/// When two parts have one name.
pub fn load_all(registry: &mut Registry) -> Result<(), BadInput> {
    for path in search::libraries() {
        match library::load(registry, &path) {
            Ok(()) => {}
            Err(Refusal::Unusable(problem)) => eprintln!("warning: {problem}"),
            Err(Refusal::Clash(problem)) => return Err(BadInput(format!("error: {problem}"))),
        }
    }
    Ok(())
}

/// The kinds and names of all parts a recipe uses, so far as it is well-formed.
fn parts(document: &Document) -> Vec<(&'static str, &str)> {
    fn objectives<'a>(spec: &'a Value, found: &mut Vec<(&'static str, &'a str)>) {
        match spec {
            Value::String(name) => found.push(("objective", name)),
            Value::Object(table) => {
                found.extend(table.get("name").and_then(Value::as_str).map(|name| ("objective", name)));
            }
            Value::Array(items) => items.iter().for_each(|item| objectives(item, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    let backend = document.get("backend").and_then(|backend| backend.get("name")?.as_str());
    found.extend(backend.map(|name| ("backend", name)));
    for stage in document.get("stage").and_then(Value::as_array).into_iter().flatten() {
        stage.get("objective").into_iter().for_each(|spec| objectives(spec, &mut found));
        match stage.get("bilevel") {
            Some(Value::String(name)) => found.push(("step", name)),
            Some(Value::Object(table)) => {
                found.extend(table.get("step").and_then(Value::as_str).map(|name| ("step", name)));
                table.get("lower").into_iter().for_each(|spec| objectives(spec, &mut found));
            }
            _ => {}
        }
    }
    found
}
