//! A saved model, for the commands that use one.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use spo_api::{Adapter, ModelSource, ModelSpec, Quantize, Registry, Session, read_small};
use spo_data::Tokenizer;

use crate::error::BadInput;
use crate::plan::{folders, generation, libraries};
use crate::reporter::complain;

/// A Hugging Face folder or a GGUF file, perhaps with an adapter in PEFT's layout.
#[derive(clap::Args)]
pub(crate) struct SavedModel {
    /// Hugging Face folder of the model, or a GGUF file.
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
    /// [`BadInput`] if the model, the adapter, the backend or the device cannot be used.
    pub(crate) fn open(&self, registry: &mut Registry) -> anyhow::Result<(Tokenizer, Box<dyn Session>)> {
        folders::model(&self.model).map_err(|e| BadInput(format!("error: {e}")))?;
        if let Some(adapter) = &self.adapter {
            folders::adapter(adapter).map_err(|e| BadInput(format!("error: --adapter: {e}")))?;
        }
        let mut tokenizer = Tokenizer::open(&self.model).map_err(|e| BadInput(format!("error: {e}")))?;
        let stop = generation::stop_tokens(&self.model).map_err(|e| BadInput(format!("error: {e}")))?;
        tokenizer.stop_at(&stop);
        libraries::load_if_unknown(registry, &[("backend", &self.backend)], None)?;
        let backend = registry.backend(&self.backend, &json!({}))?;
        let spec = ModelSpec {
            source: ModelSource::Folder(self.model.clone()),
            adapter: self.adapter.as_deref().map(adapter).transpose()?,
            quantize: Some(Quantize::Off),
            seed: 0,
            device: self.device.clone(),
            dtype: "f32".into(),
        };
        let session = backend.open(&spec).map_err(|e| BadInput(format!("error: {e}")))?;
        let info = session.info();
        tokenizer
            .check_vocabulary(info.vocabulary)
            .map_err(|e| BadInput(format!("error: {}: {e}", self.model.display())))?;
        info.remarks.iter().for_each(|remark| complain(&format!("note: {remark}")));
        Ok((tokenizer, session))
    }
}

/// Reads an adapter's configuration from its folder. It adapts the layers that it has weights for.
fn adapter(folder: &Path) -> Result<Adapter, BadInput> {
    let file = folder.join("adapter_config.json");
    let bad = |what: String| BadInput(format!("error: {}: {what}", file.display()));
    let text = read_small(&file).map_err(|e| bad(e.to_string()))?;
    let config: Value = serde_json::from_slice(&text).map_err(|e| bad(format!("not valid JSON: {e}")))?;
    let rank = config["r"].as_u64().filter(|rank| *rank > 0);
    let rank =
        rank.ok_or_else(|| bad(format!("`r` must be a positive whole number, got {}", config["r"])))?;
    let alpha = config["lora_alpha"].as_f64().filter(|alpha| *alpha > 0.0);
    let alpha = alpha
        .ok_or_else(|| bad(format!("`lora_alpha` must be a number above 0, got {}", config["lora_alpha"])))?;
    // PEFT then divides by the root of the rank instead of the rank.
    let factor = if config["use_rslora"] == true { (rank as f64).sqrt() } else { 1.0 };
    let path = Some(folder.to_owned());
    Ok(Adapter { rank: rank as usize, alpha: alpha * factor, targets: Vec::new(), path })
}
