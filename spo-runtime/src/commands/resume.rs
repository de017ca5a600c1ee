//! `spo-run resume`: continues an interrupted run.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::Value;
use spo_api::{Registry, read_small};

use super::options::{MemoryArguments, SpeechArguments, TrustArguments};
use crate::error::{BadInput, bad};
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
    trust: TrustArguments,
    #[command(flatten)]
    memory: MemoryArguments,
    #[command(flatten)]
    speech: SpeechArguments,
}

impl ResumeArguments {
    pub(crate) fn run(&self, registry: &mut Registry) -> anyhow::Result<()> {
        self.resume(registry, self.speech.reporter())
    }

    /// Continues the run or the sweep in a folder. Changes to the folder it was started in, because the recipe's
    /// relative paths refer to it.
    ///
    /// # Errors
    /// [`BadInput`] if there is no run, or if its inputs have changed; otherwise those of [`run::run`].
    fn resume(&self, registry: &mut Registry, reporter: Reporter) -> anyhow::Result<()> {
        let (folder, trusted, force) = (&*self.run, self.trust.trust_plugins, self.memory.force);
        if folder.join("sweep.json").exists() {
            let document = open(registry, folder, ["sweep.json", "sweep.toml"], &[], trusted)?;
            return sweep::run(registry, &document, &reporter, force);
        }
        let document = enter(registry, folder, trusted)?;
        run::run(registry, &document, reporter, force)
    }
}

/// Opens the recipe of the run in a folder, changes to the folder it was started in, and loads its plugins.
///
/// # Errors
/// [`BadInput`] if there is no run, or if a plugin has changed or is not trusted.
pub(crate) fn enter(registry: &mut Registry, folder: &Path, trusted: bool) -> anyhow::Result<Document> {
    let own = ["run.resume=auto", "run.overwrite=false"];
    open(registry, folder, ["run.json", "recipe.toml"], &own, trusted)
}

/// Opens the recipe that is stored next to a record.
fn open(
    registry: &mut Registry,
    folder: &Path,
    [record, recipe]: [&str; 2],
    overrides: &[&str],
    trusted: bool,
) -> anyhow::Result<Document> {
    let record = read_small(&folder.join(record)).map_err(|error| {
        let folder = folder.display();
        BadInput(match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => {
                format!("error: there is no run in {folder}: no {record}")
            }
            _ => format!("error: there is no run in {folder}: {record}: {error}"),
        })
    })?;
    let folder = folder.canonicalize().with_context(|| format!("cannot enter {}", folder.display()))?;
    let record: Value = serde_json::from_slice(&record).unwrap_or_default();
    if let Some(started) = record["started_in"].as_str().map(Path::new).filter(|path| path.is_dir()) {
        std::env::set_current_dir(started).with_context(|| format!("cannot enter {}", started.display()))?;
    }
    // The folder may have been moved since, and the stored recipe file does not have its original name.
    let output = folder.to_str().ok_or_else(|| {
        bad(format!("the name of {} is not UTF-8, which a recipe cannot hold: rename it", folder.display()))
    })?;
    let own = [("output", Some(output)), ("name", record["name"].as_str())];
    let own = own.into_iter().filter_map(|(key, value)| Some((key, toml::Value::from(value?))));
    let own = own.map(|(key, value)| format!("run.{key}={value}"));
    let overrides: Vec<String> = overrides.iter().map(std::string::ToString::to_string).chain(own).collect();
    let document = Document::read(&folder.join(recipe), &overrides)?;
    libraries::load_again(registry, &document, &record, trusted)?;
    Ok(document)
}
