//! `spo-run export`: writes a saved model with its adapter merged into the weights, or as GGUF.

use std::path::{Path, PathBuf};

use spo_api::{Export, Registry, WeightType};
use spo_gguf::BlockType;
use spo_transformer::gguf;

use super::saved_model::SavedModel;
use crate::error::{BadInput, bad};
use crate::plan::fetch;
use crate::reporter::say;
use crate::store::bundle;
use crate::train::card;
use crate::train::model_folder::save;

#[derive(clap::Args)]
pub(crate) struct ExportArguments {
    #[command(flatten)]
    model: SavedModel,
    /// Write one file for llama.cpp instead of a folder: weights in this type, tokenizer and chat template.
    #[arg(long, value_enum)]
    gguf: Option<GgufType>,
    /// The type of the weights; each keeps its own unless this is given.
    #[arg(long, value_enum, conflicts_with_all = ["gguf", "adapter_gguf"])]
    dtype: Option<Dtype>,
    /// Write the adapter alone, as a GGUF file for llama.cpp's `--lora`.
    #[arg(long, conflicts_with = "gguf")]
    adapter_gguf: bool,
    /// The folder to write, or the file.
    output: PathBuf,
}

/// The type of all weights.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(super) enum Dtype {
    F32,
    F16,
    Bf16,
}

impl From<Dtype> for WeightType {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => WeightType::F32,
            Dtype::F16 => WeightType::F16,
            Dtype::Bf16 => WeightType::Bf16,
        }
    }
}

/// The type of matrices. Embedding table and head have 8 bits at least; norms and biases are f32.
#[derive(Clone, Copy, clap::ValueEnum)]
enum GgufType {
    F32,
    F16,
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "q4_0")]
    Q4_0,
}

impl ExportArguments {
    /// Writes a Hugging Face folder, or a GGUF file. Refuses to write over anything.
    pub(crate) fn run(&self, registry: &mut Registry) -> anyhow::Result<()> {
        self.write(registry)?;
        say(&format!("{} is written", self.output.display()));
        Ok(())
    }

    fn write(&self, registry: &mut Registry) -> anyhow::Result<()> {
        let output = &self.output;
        if self.adapter_gguf {
            self.is_free()?;
            let model = fetch::model(&self.model.model).map_err(bad)?;
            let whole = self.model.with_base(&model).unwrap_or_else(|| self.model.clone());
            let Some(adapter) = &whole.adapter else {
                return Err(
                    bad("--adapter-gguf: there is no adapter: give its folder with `--adapter`").into()
                );
            };
            let [model, adapter] = [&whole.model, adapter].map(|path| fetch::model(path));
            let written = gguf::write_adapter(&model.map_err(bad)?, &adapter.map_err(bad)?, output);
            return Ok(written.map_err(bad)?);
        }
        if let Some(kind) = self.gguf {
            self.is_free()?;
            return self.write_gguf(registry, kind);
        }
        is_free_folder(output)?;
        let (tokenizer, mut session) = self.model.open(registry)?;
        let what = self.dtype.map_or(Export::Model, |dtype| Export::ModelIn(dtype.into()));
        save(&mut *session, output, what, &tokenizer, &self.card()?)?;
        Ok(())
    }

    fn card(&self) -> Result<String, BadInput> {
        let model = fetch::model(&self.model.model).map_err(bad)?;
        let whole = self.model.with_base(&model).unwrap_or_else(|| self.model.clone());
        Ok(card::of_export(&whole.model, whole.adapter.as_deref()))
    }

    fn is_free(&self) -> Result<(), BadInput> {
        match self.output.exists() {
            true => Err(bad(format!("{} exists: give the name of a new file", self.output.display()))),
            false => Ok(()),
        }
    }

    /// The merged model goes into a folder beside the file first: only a session can merge every kind of adapter.
    fn write_gguf(&self, registry: &mut Registry, kind: GgufType) -> anyhow::Result<()> {
        let kind = match kind {
            GgufType::F32 => BlockType::F32,
            GgufType::F16 => BlockType::F16,
            GgufType::Q8_0 => BlockType::Q8_0,
            GgufType::Q4_0 => BlockType::Q4_0,
        };
        let (tokenizer, mut session) = self.model.open(registry)?;
        let metadata = tokenizer.to_gguf(session.info().vocabulary);
        let metadata = metadata.map_err(bad)?;
        let mut name = self.output.file_name().unwrap_or_default().to_owned();
        name.push(".model");
        let folder = self.output.with_file_name(name);
        if folder.exists() {
            return Err(bad(format!("{} is in the way: remove it", folder.display())).into());
        }
        let saved = save(&mut *session, &folder, Export::Model, &tokenizer, &self.card()?);
        let written = saved.and_then(|_| {
            let written = gguf::write_model(&folder, &self.output, kind, metadata);
            Ok(written.map_err(bad)?)
        });
        bundle::remove(&folder)?;
        written
    }
}

/// Checks that nothing is where a folder is to be written.
pub(super) fn is_free_folder(output: &Path) -> Result<(), BadInput> {
    if output.is_file() {
        return Err(bad(format!("{} is a file: give a folder", output.display())));
    }
    match output.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
        true => Err(bad(format!("{} is not empty", output.display()))),
        false => Ok(()),
    }
}
