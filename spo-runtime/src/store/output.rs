//! The output folder of a run. Only one process writes to it, and its record identifies the run.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;
use serde_json::{Value, json};
use spo_api::{open_regular, read_small};
use spo_data::{Moment, hash};
use spo_report::tensorboard;

use crate::error::BadInput;
use crate::recipe::{Recipe, Resume};
use crate::shell::word;
use crate::store::bundle;
use crate::store::events;
use crate::store::logs;
use crate::store::write::{write_json, write_text};

/// A run's output folder, locked against other processes.
pub(crate) struct Output {
    folder: PathBuf,
    /// The record of the planned run.
    planned: Value,
    _lock: File,
}

/// What the folder contained when it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// No run, or one that is to be replaced.
    Nothing,
    /// The same run, unfinished.
    Unfinished,
    /// The same run, complete.
    Finished,
}

pub(super) const RECORD: &str = "run.json";
pub(super) const RECIPE: &str = "recipe.toml";
const SUMMARY: &str = "summary.json";

/// The files that a run writes beside the folders of its stages.
pub(super) const FILES: [&str; 6] = {
    let [metrics, held_out, diagnostics] = logs::FILES;
    [RECORD, RECIPE, SUMMARY, metrics, held_out, diagnostics]
};

/// The folder of a run's checkpoints.
pub(crate) const CHECKPOINTS: &str = "checkpoints";
/// The folder of batches that were not finite.
pub(crate) const NONFINITE: &str = "nonfinite";

/// The folders that a run writes beside those of its stages.
pub(super) const FOLDERS: [&str; 3] = [CHECKPOINTS, NONFINITE, events::FOLDER];

impl Output {
    /// Creates the folder and writes what is known before training: the resolved recipe, versions and hashes
    /// of the data.
    ///
    /// # Errors
    /// [`BadInput`] if another process is writing to the folder, or if it holds an earlier run that the
    /// recipe does not allow to be continued or replaced.
    pub(crate) fn open(folder: &Path, recipe: &Recipe, planned: Value) -> anyhow::Result<(Self, Before)> {
        let folder = folder.to_owned();
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let output = Output { _lock: lock(&folder)?, folder, planned };
        let folder = &output.folder;
        if let Some(message) = in_the_way(folder, recipe) {
            return Err(BadInput(format!("error: {message}")).into());
        }
        if folder.join(RECORD).exists() {
            let run = &recipe.run;
            let other = output.difference(recipe);
            match (run.resume, &other) {
                (Resume::Auto, None) => {
                    let finished = folder.join(SUMMARY).exists();
                    return Ok((output, if finished { Before::Finished } else { Before::Unfinished }));
                }
                (Resume::Auto, Some(difference)) if !run.overwrite => {
                    return Err(BadInput(format!(
                        "error: {} holds another run, which cannot be continued: {difference}; choose another \
                         `run.output`, or set `run.overwrite = true`",
                        folder.display()
                    ))
                    .into());
                }
                _ => {}
            }
            // Removes only what a run writes, because the folder may contain other files.
            for name in FOLDERS {
                bundle::remove_all(&folder.join(name), &[tensorboard::FILE])
                    .with_context(|| format!("cannot replace the run in {}", folder.display()))?;
            }
            for name in FILES {
                let _ = std::fs::remove_file(folder.join(name));
            }
        }
        let recipe = toml::to_string_pretty(recipe).context("cannot write the resolved recipe as TOML")?;
        write_text(&folder.join(RECIPE), &recipe)?;
        // Written last: this file marks the folder as a run.
        output.json(RECORD, &output.planned)?;
        Ok((output, Before::Nothing))
    }

    /// How the run in the folder differs from the planned one.
    fn difference(&self, recipe: &Recipe) -> Option<String> {
        let now = &self.planned;
        let kept = ["data", "tokenizer_sha256", "model"];
        other_recipe(&self.folder, recipe).or_else(|| match self.record() {
            Ok(record) => other_rows(&record["data"], &now["data"])
                .or_else(|| kept.iter().find_map(|key| difference(&record[key], &now[key], key)))
                .or_else(|| difference(&libraries(&record), &libraries(now), "plugins")),
            Err(error) => Some(format!("its {RECORD} cannot be read: {error:#}")),
        })
    }

    /// A change since the run began that may affect the last digits of its results.
    pub(crate) fn drift(&self) -> Option<String> {
        let (record, now) = (self.record().ok()?, &self.planned);
        ["spo", "threads", "cpu", "device"].iter().find_map(|key| difference(&record[key], &now[key], key))
    }

    /// A hash of everything that the planned run's results depend on, except versions and the machine.
    pub(crate) fn fingerprint(&self) -> String {
        let of = ["recipe", "data", "tokenizer_sha256", "model"].map(|key| &self.planned[key]);
        hash::of_bytes(json!(of).to_string())
    }

    fn record(&self) -> anyhow::Result<Value> {
        read(&self.folder.join(RECORD))
    }

    /// The record of the run.
    pub(crate) fn planned(&self) -> &Value {
        &self.planned
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder for a stage's model.
    pub(crate) fn stage(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes the run's summary, which marks the run as complete.
    pub(crate) fn finish(&self, summary: &impl Serialize) -> anyhow::Result<()> {
        self.json(SUMMARY, summary)
    }

    fn json(&self, name: &str, value: &impl Serialize) -> anyhow::Result<()> {
        write_json(&self.folder.join(name), value)
    }
}

/// What stands in the way of a new run in this folder.
pub(crate) fn in_the_way(folder: &Path, recipe: &Recipe) -> Option<String> {
    let replaced = recipe.run.resume == Resume::Auto || recipe.run.overwrite;
    if replaced || !folder.join(RECORD).exists() {
        return None;
    }
    let how = match folder.join(SUMMARY).exists() {
        true => ":".to_owned(),
        false => format!(" that is not finished: `spo-run resume {}` continues it; or", word(folder)),
    };
    Some(format!(
        "{} already holds a run{how} choose another `run.output`, or set `run.overwrite = true`",
        folder.display()
    ))
}

/// How the recipe of the run in a folder differs from this one; `None` also if there is no run. The recipe is that of
/// the record: `recipe.toml` may have been edited since.
pub(crate) fn other_recipe(folder: &Path, recipe: &Recipe) -> Option<String> {
    let path = folder.join(RECORD);
    if !path.exists() {
        return None;
    }
    match read(&path) {
        Ok(record) if record["recipe"].is_null() => Some("an earlier version of spo has made it".to_owned()),
        Ok(record) => difference(&record["recipe"], &recipe.essence(), ""),
        Err(error) => Some(format!("its {RECORD} cannot be read: {error:#}")),
    }
}

fn read(record: &Path) -> anyhow::Result<Value> {
    Ok(serde_json::from_slice(&read_small(record)?)?)
}

/// The moment of the run in a folder, if this recipe continues it.
pub(crate) fn moment(folder: &Path, recipe: &Recipe) -> Option<Moment> {
    let mut record = read(&folder.join(RECORD)).ok().filter(|_| recipe.run.resume == Resume::Auto)?;
    let same = difference(&record["recipe"], &recipe.essence(), "").is_none();
    same.then(|| serde_json::from_value(record["moment"].take()).ok()).flatten()
}

/// The recipe of the run in a folder, as it was recorded, if this recipe is to continue it.
pub(crate) fn recorded_recipe(folder: &Path, recipe: &Recipe) -> Option<Value> {
    let mut record = read(&folder.join(RECORD)).ok().filter(|_| recipe.run.resume == Resume::Auto)?;
    Some(record["recipe"].take())
}

/// The closing message of a finished run or sweep.
pub(crate) fn closing(folder: &Path) -> String {
    format!("`spo-run report {}` tells and draws what came of it", word(folder))
}

/// Whether a folder holds the complete run of a recipe.
pub(crate) fn is_complete(folder: &Path, recipe: &Recipe) -> bool {
    folder.join(SUMMARY).exists() && other_recipe(folder, recipe).is_none()
}

/// What the error says of a folder that another process writes to.
pub(crate) const IN_USE: &str = "is in use by process";

/// Locks a folder so that only this process writes to it. The lock is released when the process ends, even if
/// it crashes.
///
/// # Errors
/// [`BadInput`] naming the process that holds the lock.
pub(crate) fn lock(folder: &Path) -> anyhow::Result<File> {
    let path = folder.join(".lock");
    let opened = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
    let mut file = opened.with_context(|| format!("cannot write {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {
            let noted = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
            noted.with_context(|| format!("cannot write {}", path.display()))?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let holder = read_small(&path).unwrap_or_default();
            let holder = String::from_utf8_lossy(&holder);
            Err(BadInput(format!("error: {} {IN_USE} {holder}", folder.display())).into())
        }
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

/// Whether another process is writing to a folder.
pub(crate) fn in_use(folder: &Path) -> bool {
    let file = open_regular(&folder.join(".lock"));
    file.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

/// The hashes of a record's plugins, by name. Their location and load order do not matter.
fn libraries(record: &Value) -> Value {
    let libraries = record["plugins"].as_array().into_iter().flatten();
    let named = libraries.filter_map(|library| {
        Some((library["name"].as_str()?.to_owned(), json!({ "sha256": library["sha256"] })))
    });
    Value::Object(named.collect())
}

/// Names the first rows of the planned run that are others than they were, in words and not by their hashes.
fn other_rows(old: &Value, new: &Value) -> Option<String> {
    let both = old.as_array()?.iter().zip(new.as_array()?);
    let (old, new) = both.into_iter().find(|(old, new)| old["source"] == new["source"] && old != new)?;
    let source = old["source"].as_str()?;
    Some(match (&old["rows"], &new["rows"]) {
        (was, is) if was != is => format!("{source}: there were {was} rows, now there are {is}"),
        _ => format!("{source}: the rows have other tokens than when the run began"),
    })
}

/// Describes the first difference between two values.
fn difference(old: &Value, new: &Value, path: &str) -> Option<String> {
    let inner = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
            keys.into_iter().find_map(|key| {
                let (a, b) = (a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null));
                difference(a, b, &inner(key))
            })
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            let mut both = a.iter().zip(b).enumerate();
            both.find_map(|(i, (a, b))| difference(a, b, &format!("{path}[{i}]")))
        }
        (Value::Null, new) if !new.is_null() => Some(format!("`{path}` was not there, now it is {new}")),
        (old, Value::Null) if !old.is_null() => Some(format!("`{path}` was {old}, now it is not there")),
        (old, new) if old != new => Some(format!("`{path}` was {old}, now it is {new}")),
        _ => None,
    }
}
