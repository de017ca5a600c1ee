//! `spo-run resume`: continues an interrupted run.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::Value;
use spo_api::Registry;

use super::options::SpeechArguments;
use crate::error::BadInput;
use crate::plan::libraries;
use crate::recipe::document::Document;
use crate::reporter::Reporter;
use crate::sweep;
use crate::train::run;

#[derive(clap::Args)]
pub(crate) struct ResumeArguments {
    /// The run's folder.
    run: PathBuf,
    #[command(flatten)]
    speech: SpeechArguments,
}

impl ResumeArguments {
    pub(crate) fn run(&self, registry: &mut Registry) -> anyhow::Result<()> {
        resume(registry, &self.run, self.speech.reporter())
    }
}

/// Continues the run or the sweep in a folder. Changes to the folder it was started in, because the recipe's
/// relative paths refer to it.
///
/// # Errors
/// [`BadInput`] if there is no run, or if its inputs have changed; otherwise those of [`run::run`].
fn resume(registry: &mut Registry, folder: &Path, reporter: Reporter) -> anyhow::Result<()> {
    if folder.join("sweep.json").exists() {
        let document = open(registry, folder, "sweep.json", "sweep.toml", &[])?;
        return sweep::run(registry, &document, &reporter);
    }
    let document = enter(registry, folder)?;
    run::run(registry, &document, reporter)
}

/// Opens the recipe of the run in a folder, changes to the folder it was started in, and loads its plugins.
///
/// # Errors
/// [`BadInput`] if there is no run, or if a plugin has changed.
pub(crate) fn enter(registry: &mut Registry, folder: &Path) -> anyhow::Result<Document> {
    open(registry, folder, "run.json", "recipe.toml", &["run.resume=auto", "run.overwrite=false"])
}

/// Opens the recipe that is stored next to a record.
fn open(
    registry: &mut Registry,
    folder: &Path,
    record: &str,
    recipe: &str,
    overrides: &[&str],
) -> anyhow::Result<Document> {
    let none = || BadInput(format!("error: there is no run in {}: no {record}", folder.display()));
    let record = std::fs::read(folder.join(record)).map_err(|_| none())?;
    let folder = folder.canonicalize().with_context(|| format!("cannot enter {}", folder.display()))?;
    let record: Value = serde_json::from_slice(&record).unwrap_or_default();
    if let Some(started) = record["started_in"].as_str().map(Path::new).filter(|path| path.is_dir()) {
        std::env::set_current_dir(started).with_context(|| format!("cannot enter {}", started.display()))?;
    }
    // The folder may have been moved since, and the stored recipe file does not have its original name.
    let own = [("output", Value::from(folder.display().to_string())), ("name", record["name"].clone())];
    let own = own.into_iter().filter(|(_, value)| value.is_string());
    let own = own.map(|(key, value)| format!("run.{key}={value}"));
    let overrides: Vec<String> = overrides.iter().map(std::string::ToString::to_string).chain(own).collect();
    let document = Document::read(&folder.join(recipe), &overrides)?;
    libraries::load_again(registry, &document, &record)?;
    Ok(document)
}
