//! `spo-run RECIPE`: runs a recipe, or the sweep it describes.

use std::path::PathBuf;

use spo_api::Registry;

use super::options::{MemoryArguments, OverrideArguments, SpeechArguments};
use crate::error::bad;
use crate::recipe::document::Document;
use crate::sweep;
use crate::train::run;

#[derive(clap::Args)]
pub(crate) struct RunArguments {
    /// The recipe to run.
    recipe: Option<PathBuf>,
    #[command(flatten)]
    overrides: OverrideArguments,
    #[command(flatten)]
    memory: MemoryArguments,
    #[command(flatten)]
    speech: SpeechArguments,
}

impl RunArguments {
    pub(crate) fn run(&self, registry: &mut Registry) -> anyhow::Result<()> {
        let recipe = self.recipe.as_ref().ok_or_else(|| bad("which recipe?"))?;
        let document = Document::read(recipe, &self.overrides.set)?;
        match document.get("sweep") {
            Some(_) => sweep::run(registry, &document, &self.speech.reporter(), self.memory.force),
            None => run::run(registry, &document, self.speech.reporter(), self.memory.force),
        }
    }
}
