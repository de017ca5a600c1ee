//! The folder that a finished run left: its recipe, and the models of its stages.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::Value;
use spo_api::{Backend, ModelSource, ModelSpec, Registry, Session};

use crate::error::BadInput;
use crate::plan::libraries;
use crate::plan::{Plan, model_spec};
use crate::recipe::document::Document;

/// A run's recipe with everything it names, ready to look at what its stages made.
pub(crate) struct SavedRun {
    /// What the recipe comes to; its session is the model as it was opened.
    pub(crate) plan: Plan,
    backend: Box<dyn Backend>,
    folder: PathBuf,
}

impl SavedRun {
    /// Opens the folder of a run.
    ///
    /// # Errors
    /// [`BadInput`] when it holds no run, or what its recipe names is not there any more.
    pub(crate) fn open(registry: &mut Registry, folder: &Path) -> anyhow::Result<Self> {
        let recipe = folder.join("recipe.toml");
        if !recipe.exists() {
            let message = format!("error: {} holds no run: it has no recipe.toml", folder.display());
            return Err(BadInput(message).into());
        }
        let record = std::fs::read(folder.join("run.json")).unwrap_or_default();
        let record: Value = serde_json::from_slice(&record).unwrap_or_default();
        let document = Document::read(&recipe, &[])?;
        libraries::load_again(registry, &document, &record)?;
        let plan = Plan::new(registry, &document)?;
        let choice = &plan.recipe.backend;
        let backend = registry.backend(&choice.name, &Value::Object(choice.options.clone()))?;
        Ok(SavedRun { plan, backend, folder: folder.to_owned() })
    }

    /// The model that a stage left; `model` is the model as it was opened.
    ///
    /// # Errors
    /// [`BadInput`] when the stage saved none.
    pub(crate) fn model(&self, stage: &str) -> anyhow::Result<Box<dyn Session>> {
        let spec = model_spec(&self.plan.recipe, &self.plan.tokenizer);
        if stage == "model" {
            return Ok(self.backend.open(&spec)?);
        }
        let saved = self.folder.join(stage);
        // The folder alone may hold no more than the best model so far.
        if !["config.json", "adapter_config.json"].iter().any(|name| saved.join(name).exists()) {
            let message = format!(
                "error: there is no model in {}: stage `{stage}` has saved no model",
                saved.display()
            );
            return Err(BadInput(message).into());
        }
        let spec = match spec.adapter {
            Some(adapter) => {
                ModelSpec { adapter: Some(spo_api::Adapter { path: Some(saved.clone()), ..adapter }), ..spec }
            }
            None => ModelSpec { source: ModelSource::Folder(saved.clone()), ..spec },
        };
        self.backend.open(&spec).with_context(|| format!("the model of stage `{stage}`"))
    }
}
