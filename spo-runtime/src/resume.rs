//! `spo-run resume`: a run goes on where it was interrupted.

use std::path::Path;

use anyhow::Context;
use serde_json::Value;
use spo_api::Registry;

use crate::document::Document;
use crate::error::BadInput;
use crate::reporter::Reporter;
use crate::run;

/// Continues the run in a folder, from the folder it was started in: its relative paths begin there.
///
/// # Errors
/// [`BadInput`] when there is no run, or what it was made from has changed; otherwise as [`run::run`].
pub fn resume(registry: &Registry, folder: &Path, reporter: Reporter) -> anyhow::Result<()> {
    let document = enter(folder)?;
    run::run(registry, &document, reporter)
}

/// Opens the recipe of the run in a folder, and goes to the folder it was started in.
///
/// # Errors
/// [`BadInput`] when there is no run.
pub fn enter(folder: &Path) -> anyhow::Result<Document> {
    let none = || BadInput(format!("error: there is no run in {}: no run.json", folder.display()));
    let record = std::fs::read(folder.join("run.json")).map_err(|_| none())?;
    let folder = folder.canonicalize().with_context(|| format!("cannot enter {}", folder.display()))?;
    let record: Value = serde_json::from_slice(&record).unwrap_or_default();
    if let Some(started) = record["started_in"].as_str().map(Path::new).filter(|path| path.is_dir()) {
        std::env::set_current_dir(started).with_context(|| format!("cannot enter {}", started.display()))?;
    }
    // The folder may have been moved since.
    let output = Value::from(folder.display().to_string());
    let overrides = ["run.resume=auto".into(), "run.overwrite=false".into(), format!("run.output={output}")];
    Ok(Document::read(&folder.join("recipe.toml"), &overrides)?)
}
