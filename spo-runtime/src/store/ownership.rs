//! Whether what a run would write over is a run's own. Nothing else is ever replaced.

use std::path::{Path, PathBuf};

use serde_json::Value;
use spo_api::{ConfigError, read_small};

use crate::hub;
use crate::recipe::{External, Recipe, Reference};
use crate::store::output::{FILES, FOLDERS, RECIPE, RECORD};

/// Checks that a run of this recipe replaces nothing but an earlier run, and in no case what it reads.
///
/// # Errors
/// Naming the key of the recipe, and the file or folder that is in the way.
pub(crate) fn check(folder: &Path, recipe: &Recipe) -> Result<(), ConfigError> {
    if folder.exists() && !folder.is_dir() {
        return Err(ConfigError::at("run.output", format!("{} is a file", folder.display())));
    }
    let stages = recipe.stage.iter().enumerate().map(|(i, stage)| (format!("stage[{i}].name"), &*stage.name));
    let own = FILES.into_iter().chain(FOLDERS).map(|name| ("run.output".to_owned(), name));
    let targets: Vec<(String, &str)> = stages.chain(own).collect();
    let sources = sources(recipe);
    for (key, name) in &targets {
        let path = folder.join(name);
        if let Some(source) = sources.iter().find(|source| holds(&path, source)) {
            let source = source.display();
            let message =
                format!("the run would write over {source}, which it reads: choose another `run.output`");
            return Err(ConfigError::at(key, message));
        }
    }
    let recorded = recorded_stages(folder);
    for (key, name) in &targets {
        let path = folder.join(name);
        let ours = match &recorded {
            Some(stages) => {
                FILES.contains(name) || FOLDERS.contains(name) || stages.iter().any(|stage| stage == name)
            }
            // A run that died between its first two files has left the first.
            None => *name == RECIPE && is_begun(&path, recipe),
        };
        if !ours && path.symlink_metadata().is_ok() && !is_empty_folder(&path) {
            let message = format!(
                "{} is there already, and no run in {} has made it: choose another name, or move it away",
                path.display(),
                folder.display()
            );
            return Err(ConfigError::at(key, message));
        }
    }
    Ok(())
}

/// The names of the stages of the run in a folder; `None` if it holds no run.
fn recorded_stages(folder: &Path) -> Option<Vec<String>> {
    let record = record(&folder.join(RECORD))?;
    // A person may edit `recipe.toml`. Only runs of early versions have no other.
    let recipe = match &record["recipe"] {
        Value::Null => toml::from_str(&text(&folder.join(RECIPE))).unwrap_or_default(),
        recorded => recorded.clone(),
    };
    let stages = recipe["stage"].as_array().into_iter().flatten();
    Some(stages.filter_map(|stage| Some(stage["name"].as_str()?.to_owned())).collect())
}

/// Whether a file is the record of a run or a sweep, and not one that merely has its name.
pub(crate) fn is_record(file: &Path) -> bool {
    record(file).is_some()
}

fn record(file: &Path) -> Option<Value> {
    let record: Value = serde_json::from_str(&text(file)).ok()?;
    (record["name"].is_string() && record["started_in"].is_string()).then_some(record)
}

/// The text of a small file; empty if it cannot be read.
fn text(file: &Path) -> String {
    read_small(file).ok().and_then(|text| String::from_utf8(text).ok()).unwrap_or_default()
}

/// Whether a file is the recipe of such a run, as the program writes it: then nothing of a person's is in it.
fn is_begun(file: &Path, recipe: &Recipe) -> bool {
    let text = text(file);
    toml::from_str::<Recipe>(&text).is_ok_and(|written| {
        written.essence() == recipe.essence()
            && toml::to_string_pretty(&written).is_ok_and(|again| again == text)
    })
}

/// Whether writing to `target` would change `source`.
fn holds(target: &Path, source: &Path) -> bool {
    match (target.canonicalize(), source.canonicalize()) {
        (Ok(target), Ok(source)) => source.starts_with(target),
        _ => false,
    }
}

fn is_empty_folder(path: &Path) -> bool {
    path.read_dir().is_ok_and(|mut entries| entries.next().is_none())
}

/// The files and folders that a recipe reads. A pattern stands for what it matches.
fn sources(recipe: &Recipe) -> Vec<PathBuf> {
    let model = &recipe.model;
    let adapter = model.adapter.as_ref().and_then(|adapter| adapter.path.as_ref());
    let references = recipe.stage.iter().flat_map(|stage| match &stage.reference {
        Reference::External(External { path, adapter }) => [Some(path), adapter.as_ref()],
        _ => [None, None],
    });
    let named = [model.tokenizer.as_ref(), adapter].into_iter().chain(references);
    let named = named.flatten().map(|path| hub::folder(path, None)).chain(model.folder());
    let sources = recipe.rows().into_iter().flat_map(|rows| &rows.sources);
    let rows =
        sources.flat_map(|source| [vec![source.path.clone()], source.files().unwrap_or_default()].concat());
    named.chain(rows).collect()
}
