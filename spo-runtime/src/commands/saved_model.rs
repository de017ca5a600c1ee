//! A saved model, for the commands that use one.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use spo_api::{Adapter, ModelSource, ModelSpec, Registry, Session};
use spo_data::Tokenizer;

use crate::error::BadInput;
use crate::plan::libraries;

/// A Hugging Face folder, perhaps with an adapter in PEFT's layout.
#[derive(clap::Args)]
pub(crate) struct SavedModel {
    /// Hugging Face folder of the model.
    model: PathBuf,
    /// Folder of an adapter for it, in PEFT's layout.
    #[arg(long)]
    adapter: Option<PathBuf>,
    /// The engine.
    #[arg(long, default_value = "candle")]
    backend: String,
    /// Where it runs.
    #[arg(long, default_value = "auto")]
    device: String,
}

impl SavedModel {
    pub(crate) fn open(&self, registry: &mut Registry) -> anyhow::Result<(Tokenizer, Box<dyn Session>)> {
        let tokenizer = Tokenizer::open(&self.model).map_err(|e| BadInput(format!("error: {e}")))?;
        libraries::load_if_unknown(registry, &[("backend", &self.backend)], None)?;
        let backend = registry.backend(&self.backend, &json!({}))?;
        let session = backend.open(&ModelSpec {
            source: ModelSource::Folder(self.model.clone()),
            adapter: self.adapter.as_deref().map(adapter).transpose()?,
            seed: 0,
            device: self.device.clone(),
            dtype: "f32".into(),
        })?;
        Ok((tokenizer, session))
    }
}

/// Reads an adapter's configuration from its folder.
fn adapter(folder: &Path) -> Result<Adapter, BadInput> {
    let file = folder.join("adapter_config.json");
    let bad = |what: String| BadInput(format!("error: {}: {what}", file.display()));
    let text = std::fs::read_to_string(&file).map_err(|e| bad(e.to_string()))?;
    let config: Value = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
    let number = |key: &str| config[key].as_f64().ok_or_else(|| bad(format!("`{key}` must be a number")));
    let targets = match &config["target_modules"] {
        Value::String(name) => vec![name.clone()],
        Value::Array(names) => names.iter().filter_map(|n| n.as_str().map(str::to_owned)).collect(),
        _ => return Err(bad("`target_modules` must be a list of names".into())),
    };
    Ok(Adapter {
        rank: number("r")? as usize,
        alpha: number("lora_alpha")?,
        targets,
        path: Some(folder.to_owned()),
    })
}
