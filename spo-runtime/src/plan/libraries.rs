//! Plugin loading: libraries named explicitly, and those in the search path when a part is otherwise unknown.

use std::path::Path;

use serde_json::Value;
use spo_api::{Library, Registry};
use spo_data::hash;
use spo_loader::library::{self, Refusal};
use spo_loader::{libtorch, search};

use crate::error::BadInput;
use crate::recipe::Recipe;
use crate::recipe::document::Document;
use crate::reporter::complain;

/// Loads the plugins named on the command line.
pub(crate) fn load(registry: &mut Registry, specs: &[String]) -> Result<(), BadInput> {
    for spec in specs {
        find_and_load(registry, spec, None).map_err(|problem| BadInput(format!("error: {problem}")))?;
    }
    Ok(())
}

/// Loads the libraries that a run used when its record was written. They must be identical.
///
/// # Errors
/// [`BadInput`] if one is missing or has changed.
pub(crate) fn load_again(
    registry: &mut Registry,
    document: &Document,
    record: &Value,
) -> Result<(), BadInput> {
    let libraries: Vec<Library> = serde_json::from_value(record["plugins"].clone()).unwrap_or_default();
    let started_in = Path::new(record["started_in"].as_str().unwrap_or_default());
    let here = std::env::current_dir().unwrap_or_default();
    for Library { name, version, path, sha256 } in libraries {
        if registry.libraries().any(|known| known.sha256 == sha256) {
            continue;
        }
        let path = if here == started_in { path } else { started_in.join(path) };
        let at = path.display();
        let refused = |problem: &str| {
            let remedy = "bring it back, or say with `--plugin LIBRARY` where it is now";
            BadInput(format!(
                "error: the run was made with plugin {name} {version}, {at}, {problem}: {remedy}"
            ))
        };
        match hash::of_file(&path) {
            Err(_) => return Err(refused("which is not there any more")),
            Ok(now) if now != sha256 => {
                return Err(refused("which is another file now (its SHA-256 differs)"));
            }
            Ok(_) => library::load(registry, &path, libtorch_of(document))
                .map_err(|e| BadInput(format!("error: {e}")))?,
        }
    }
    Ok(())
}

fn find_and_load(registry: &mut Registry, spec: &str, libtorch: Option<&Path>) -> Result<(), String> {
    library::load(registry, &search::resolve(spec)?, libtorch).map_err(|refusal| refusal.to_string())
}

/// Loads the plugins listed under `plugins.load` if the recipe names a part that is not built in, and those in the
/// search path that have a part which is then still unknown. A recipe of built-in parts loads nothing: loading a
/// library runs its code.
///
/// # Errors
/// [`BadInput`] with the location in the recipe.
pub(crate) fn load_for(
    registry: &mut Registry,
    document: &Document,
    recipe: &Recipe,
) -> Result<(), BadInput> {
    let folder = recipe.plugins.libtorch.as_deref();
    let parts = recipe.parts();
    let foreign = !unknown(registry, &parts).is_empty();
    for (i, spec) in recipe.plugins.load.iter().enumerate() {
        let found = match foreign {
            true => find_and_load(registry, spec, folder),
            false => search::resolve(spec).map(drop),
        };
        found.map_err(|problem| document.error(&format!("plugins.load[{i}]"), problem))?;
    }
    load_if_unknown(registry, &parts, folder)?;
    let backend = &recipe.backend.name;
    match libtorch::remedy("backend", backend) {
        Some(remedy) if registry.get("backend", backend).is_err() => {
            Err(document.error("backend.name", format!("the {backend} backend is not installed: {remedy}")))
        }
        _ => Ok(()),
    }
}

/// The parts that the registry does not have.
fn unknown<'a>(registry: &Registry, parts: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    parts.iter().filter(|(kind, name)| registry.get(kind, name).is_err()).copied().collect()
}

/// Loads the libraries in the search path that have one of these parts, given by kind and name, which is unknown so
/// far. Only those are opened whose file has its name in it. Uses the recipe's libtorch folder, if it names one.
pub(crate) fn load_if_unknown(
    registry: &mut Registry,
    parts: &[(&str, &str)],
    libtorch: Option<&Path>,
) -> Result<(), BadInput> {
    let wanted = unknown(registry, parts);
    let names: Vec<&str> = wanted.iter().map(|(_, name)| *name).collect();
    if names.is_empty() {
        return Ok(());
    }
    let candidates = search::libraries().into_iter().filter(|path| library::may_have(path, &names));
    candidates.map(|path| library::load_with(registry, &path, libtorch, &wanted)).try_for_each(or_warn)
}

/// A library of the search path that cannot be loaded is skipped with a warning.
fn or_warn(loaded: Result<(), Refusal>) -> Result<(), BadInput> {
    match loaded {
        Ok(()) => Ok(()),
        Err(Refusal::Unusable(problem)) => {
            complain(&format!("warning: {problem}"));
            Ok(())
        }
        Err(Refusal::Clash(problem)) => Err(BadInput(format!("error: {problem}"))),
    }
}

/// The libtorch folder named by a recipe.
fn libtorch_of(document: &Document) -> Option<&Path> {
    document.get("plugins")?.get("libtorch")?.as_str().map(Path::new)
}

/// Loads all libraries in the search path.
pub(crate) fn load_all(registry: &mut Registry) -> Result<(), BadInput> {
    search::libraries().iter().map(|path| library::load(registry, path, None)).try_for_each(or_warn)
}
