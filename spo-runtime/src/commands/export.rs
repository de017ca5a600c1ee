//! `spo-run export`: writes a saved model with its adapter merged into the weights.

use std::path::PathBuf;

use spo_api::Registry;

use super::saved_model::SavedModel;
use crate::error::BadInput;
use crate::train::model_folder::save;

#[derive(clap::Args)]
pub(crate) struct ExportArguments {
    #[command(flatten)]
    model: SavedModel,
    /// The folder to write.
    output: PathBuf,
}

impl ExportArguments {
    /// Writes a Hugging Face folder. Refuses to write to a file, or to a folder that is not empty.
    pub(crate) fn run(&self, registry: &mut Registry) -> anyhow::Result<()> {
        let folder = &self.output;
        if folder.is_file() {
            return Err(BadInput(format!("error: {} is a file: give a folder", folder.display())).into());
        }
        if folder.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(BadInput(format!("error: {} is not empty", folder.display())).into());
        }
        let (tokenizer, mut session) = self.model.open(registry)?;
        save(&mut *session, folder, spo_api::Export::Model, &tokenizer)
    }
}
