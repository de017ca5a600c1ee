//! The folder of a finished run: its recipe and the models of its stages.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::Value;
use spo_api::{Adapter, ModelSource, ModelSpec, Registry, Session, read_small};

use crate::error::BadInput;
use crate::plan::{Plan, folders, libraries, model_spec};
use crate::recipe::document::Document;

/// A finished run, with its recipe's parts loaded, for inspecting the models of its stages.
pub(crate) struct SavedRun {
    /// The plan built from the recipe. Its session holds the model as opened, before training.
    pub(crate) plan: Plan,
    folder: PathBuf,
}

impl SavedRun {
    /// Opens the folder of a run.
    ///
    /// # Errors
    /// [`BadInput`] if it holds no run, or if something its recipe names no longer exists.
    pub(crate) fn open(registry: &mut Registry, folder: &Path, trusted: bool) -> anyhow::Result<Self> {
        let recipe = folder.join("recipe.toml");
        if !recipe.exists() {
            let message = format!("error: {} holds no run: it has no recipe.toml", folder.display());
            return Err(BadInput(message).into());
        }
        let record = read_small(&folder.join("run.json")).unwrap_or_default();
        let record: Value = serde_json::from_slice(&record).unwrap_or_default();
        let document = Document::read(&recipe, &[])?;
        libraries::load_again(registry, &document, &record, trusted)?;
        let plan = Plan::new(registry, &document)?;
        Ok(SavedRun { plan, folder: folder.to_owned() })
    }

    /// The model saved by a stage; `model` is the model as opened, before training.
    ///
    /// # Errors
    /// [`BadInput`] if the stage saved none.
    pub(crate) fn model(&self, stage: &str) -> anyhow::Result<Box<dyn Session>> {
        let spec = model_spec(&self.plan.recipe, &self.plan.tokenizer);
        if stage == "model" {
            return Ok(self.plan.backend.open(&spec)?);
        }
        let saved = self.folder.join(stage);
        // The folder may exist but contain only the best model so far.
        if !folders::holds_model(&saved) {
            let message = format!(
                "error: there is no model in {}: stage `{stage}` has saved no model",
                saved.display()
            );
            return Err(BadInput(message).into());
        }
        let spec = match spec.adapter {
            Some(_) => ModelSpec { adapter: Some(Adapter::Saved { path: saved.clone() }), ..spec },
            None => ModelSpec { source: ModelSource::Folder(saved.clone()), ..spec },
        };
        self.plan.backend.open(&spec).with_context(|| format!("the model of stage `{stage}`"))
    }
}
