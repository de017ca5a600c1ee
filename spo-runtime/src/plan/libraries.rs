//! Plugin loading: libraries named explicitly, and those in the search path when a part is otherwise unknown.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;
use spo_api::{Library, Registry};
use spo_data::hash;
use spo_loader::library::{self, Refusal};
use spo_loader::{libtorch, search};

use crate::error::{BadInput, bad};
use crate::recipe::Recipe;
use crate::recipe::document::Document;
use crate::reporter::complain;
use crate::store::trust::{Code, Trusted};

/// Loads the plugins named on the command line.
pub(crate) fn load(registry: &mut Registry, specs: &[String]) -> Result<(), BadInput> {
    for spec in specs {
        find_and_load(registry, spec, None).map_err(bad)?;
    }
    Ok(())
}

/// What a document lists under `[plugins]`: libraries, and perhaps a folder of libtorch.
fn listed(document: &Document) -> (Vec<PathBuf>, Option<&Path>) {
    let specs = document.get("plugins").and_then(|plugins| plugins["load"].as_array()).into_iter().flatten();
    let found = specs.filter_map(|spec| search::resolve(spec.as_str()?).ok());
    (found.collect(), libtorch_of(document))
}

/// Notes that this user has made a run of a recipe with these libraries, so that its folder can be used without
/// `--trust-plugins`.
pub(crate) fn remember(document: &Document, used: &[Library]) {
    let (libraries, libtorch) = listed(document);
    let used = used.iter().map(|library| library.path.as_path());
    let code = libraries.iter().map(PathBuf::as_path).chain(used).map(Code::library);
    let all: BTreeSet<Code> = code.chain(libtorch.map(Code::libtorch)).filter_map(Result::ok).collect();
    if let Err(error) = Trusted::read().add(&all) {
        complain(&format!(
            "warning: the libraries of this run could not be noted as yours ({error}): commands on its folder will ask for \
             --trust-plugins"
        ));
    }
}

/// Checks that everything that a run's folder names to be loaded is trusted: this user has made a run with it, it was
/// loaded by the command line, or it is in the search path.
fn check_trust(registry: &Registry, document: &Document, recorded: &[PathBuf]) -> Result<(), BadInput> {
    let (libraries, libtorch) = listed(document);
    let (trusted, installed) = (Trusted::read(), search::libraries());
    // What cannot be read cannot be loaded.
    let noted = |code: std::io::Result<Code>| code.map_or(true, |code| trusted.has(&code));
    let loaded = |path: &Path| {
        let sha256 = hash::of_file(path).unwrap_or_default();
        registry.libraries().any(|known| known.sha256 == sha256)
    };
    let known = |path: &&PathBuf| installed.contains(path) || loaded(path) || noted(Code::library(path));
    let strange = libraries.iter().chain(recorded).find(|path| !known(path)).map(PathBuf::as_path);
    match strange.or(libtorch.filter(|folder| !noted(Code::libtorch(folder)))) {
        None => Ok(()),
        Some(path) => Err(bad(format!(
            "the run's folder names a library, {}, with which you have made no run yourself. Loading it runs its \
             code. If you trust it, add `--trust-plugins`",
            path.display()
        ))),
    }
}

/// Loads the libraries that a run used when its record was written. They must be identical, and trusted.
///
/// # Errors
/// [`BadInput`] if one is missing, has changed, or is not trusted; also if one that the recipe lists is not.
pub(crate) fn load_again(
    registry: &mut Registry,
    document: &Document,
    record: &Value,
    trusted: bool,
) -> Result<(), BadInput> {
    let libraries: Vec<Library> = serde_json::from_value(record["plugins"].clone()).unwrap_or_default();
    let started_in = Path::new(record["started_in"].as_str().unwrap_or_default());
    let here = std::env::current_dir().unwrap_or_default();
    let place = |path: &Path| if here == started_in { path.to_owned() } else { started_in.join(path) };
    let unchanged =
        |library: &&Library| hash::of_file(&place(&library.path)).is_ok_and(|now| now == library.sha256);
    let recorded: Vec<_> = libraries.iter().filter(unchanged).map(|library| place(&library.path)).collect();
    if !trusted {
        check_trust(registry, document, &recorded)?;
    }
    for Library { name, version, path, sha256 } in libraries {
        if registry.libraries().any(|known| known.sha256 == sha256) {
            continue;
        }
        let path = place(&path);
        let at = path.display();
        let refused = |problem: &str| {
            let remedy = "bring it back, or say with `--plugin LIBRARY` where it is now";
            bad(format!("the run was made with plugin {name} {version}, {at}, {problem}: {remedy}"))
        };
        match hash::of_file(&path) {
            Err(_) => return Err(refused("which is not there any more")),
            Ok(now) if now != sha256 => {
                return Err(refused("which is another file now (its SHA-256 differs)"));
            }
            Ok(_) => library::load(registry, &path, libtorch_of(document)).map_err(bad)?,
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
        Err(Refusal::Clash(problem)) => Err(bad(problem)),
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
