//! A saved model, for the commands that use one.

use std::path::{Path, PathBuf};

use serde_json::json;
use spo_api::{Adapter, ModelSource, ModelSpec, Quantize, Registry, Session};
use spo_data::Tokenizer;

use crate::error::bad;
use crate::plan::{fetch, folders, generation, libraries};
use crate::reporter::complain;

/// A Hugging Face folder or a GGUF file, perhaps with an adapter in PEFT's layout.
#[derive(Clone, clap::Args)]
pub(crate) struct SavedModel {
    /// Hugging Face folder of the model, a GGUF file, an id on the hub (`owner/name`, `owner/name@revision`), or the
    /// folder of an adapter whose base model is where its configuration says.
    pub(super) model: PathBuf,
    /// Folder of an adapter for it, in PEFT's layout, or an id on the hub.
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
        let model = fetch::model(&self.model).map_err(bad)?;
        if let Some(whole) = self.with_base(&model) {
            return whole.open(registry);
        }
        folders::model(&model, false).map_err(bad)?;
        let of_adapter = |e: String| bad(format!("--adapter: {e}"));
        let adapter = self.adapter.as_deref().map(fetch::model).transpose().map_err(of_adapter)?;
        if let Some(adapter) = &adapter {
            folders::adapter(adapter, false).map_err(of_adapter)?;
        }
        let mut tokenizer = Tokenizer::open(&model).map_err(bad)?;
        let stop = generation::stop_tokens(&model).map_err(bad)?;
        tokenizer.stop_at(&stop);
        libraries::load_if_unknown(registry, &[("backend", &self.backend)], None)?;
        let backend = registry.backend(&self.backend, &json!({}))?;
        let spec = ModelSpec {
            source: ModelSource::Folder(model),
            adapter: adapter.map(|path| Adapter::Saved { path }),
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

    /// If this, found at `model`, is an adapter alone: the adapter on the base model that it names.
    pub(super) fn with_base(&self, model: &Path) -> Option<Self> {
        let base = folders::base(model).filter(|_| self.adapter.is_none())?;
        Some(SavedModel { adapter: Some(self.model.clone()), ..self.other(&base) })
    }
}
