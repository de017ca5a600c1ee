//! A saved model, for the commands that use one.

use std::path::{Path, PathBuf};

use serde_json::json;
use spo_api::{Adapter, ModelSource, ModelSpec, Quantize, Registry, Session};
use spo_data::Tokenizer;

use crate::error::bad;
use crate::plan::{folders, generation, libraries};
use crate::reporter::complain;

/// A Hugging Face folder or a GGUF file, perhaps with an adapter in PEFT's layout.
#[derive(Clone, clap::Args)]
pub(crate) struct SavedModel {
    /// Hugging Face folder of the model, a GGUF file, or the folder of an adapter whose base model is where its
    /// configuration says.
    pub(super) model: PathBuf,
    /// Folder of an adapter for it, in PEFT's layout.
    #[arg(long)]
    pub(super) adapter: Option<PathBuf>,
    /// The engine.
    #[arg(long, default_value = "candle")]
    backend: String,
    /// Where it runs.
    #[arg(long, default_value = "auto")]
    device: String,
}

impl SavedModel {
    /// Opens the model, and tells on standard error what should be known about its files.
    ///
    /// # Errors
    /// [`BadInput`](crate::error::BadInput) if the model, the adapter, the backend or the device cannot be used.
    pub(crate) fn open(&self, registry: &mut Registry) -> anyhow::Result<(Tokenizer, Box<dyn Session>)> {
        if self.adapter.is_none()
            && let Some(base) = folders::local_base(&self.model)
        {
            return self.based(base).open(registry);
        }
        folders::model(&self.model, false).map_err(bad)?;
        if let Some(adapter) = &self.adapter {
            folders::adapter(adapter).map_err(|e| bad(format!("--adapter: {e}")))?;
        }
        let mut tokenizer = Tokenizer::open(&self.model).map_err(bad)?;
        let stop = generation::stop_tokens(&self.model).map_err(bad)?;
        tokenizer.stop_at(&stop);
        libraries::load_if_unknown(registry, &[("backend", &self.backend)], None)?;
        let backend = registry.backend(&self.backend, &json!({}))?;
        let spec = ModelSpec {
            source: ModelSource::Folder(self.model.clone()),
            adapter: self.adapter.clone().map(|path| Adapter::Saved { path }),
            quantize: Some(Quantize::Off),
            allow_pickle: false,
            seed: 0,
            device: self.device.clone(),
            dtype: "f32".into(),
        };
        let session = backend.open(&spec).map_err(bad)?;
        let info = session.info();
        tokenizer
            .check_vocabulary(info.vocabulary)
            .map_err(|e| bad(format!("{}: {e}", self.model.display())))?;
        info.remarks.iter().for_each(|remark| complain(&format!("note: {remark}")));
        Ok((tokenizer, session))
    }

    /// Another model on the same engine.
    pub(crate) fn other(&self, model: &Path) -> Self {
        let (backend, device) = (self.backend.clone(), self.device.clone());
        SavedModel { model: model.to_owned(), adapter: None, backend, device }
    }

    /// The same folder as an adapter on this base model.
    fn based(&self, base: PathBuf) -> Self {
        SavedModel { adapter: Some(self.model.clone()), ..self.other(&base) }
    }
}
