//! `spo-run generate` and `spo-run export`: a saved model by itself.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::{Map, Value, json};
use spo_api::{Adapter, Export, ModelSource, ModelSpec, Registry, Sampling, Session};
use spo_data::Tokenizer;

use crate::error::BadInput;
use crate::plugins;

/// A saved model: a Hugging Face folder, perhaps with an adapter in PEFT's layout.
#[derive(clap::Args)]
pub struct SavedModel {
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

/// How to answer.
#[derive(clap::Args)]
pub struct Answering {
    /// Most tokens to add.
    #[arg(long, default_value_t = 128)]
    max_new_tokens: usize,
    /// 0 takes the most probable token every time.
    #[arg(long, default_value_t = 0.0)]
    temperature: f64,
    /// Sample from the smallest set of tokens with at least this probability.
    #[arg(long, default_value_t = 1.0)]
    top_p: f64,
    /// Seed of the sampling.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Take prompts as they stand, even where the model has a chat template.
    #[arg(long)]
    plain: bool,
}

impl SavedModel {
    fn open(&self, registry: &mut Registry) -> anyhow::Result<(Tokenizer, Box<dyn Session>)> {
        let tokenizer = Tokenizer::open(&self.model).map_err(|e| BadInput(format!("error: {e}")))?;
        plugins::load_if_unknown(registry, &[("backend", &self.backend)], None)?;
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

    /// Continues each prompt; with a chat template, as the user's message.
    ///
    /// # Errors
    /// [`BadInput`] when the model or a prompt cannot be used.
    pub fn generate(
        &self,
        registry: &mut Registry,
        prompts: &[String],
        how: &Answering,
    ) -> anyhow::Result<Vec<String>> {
        if !(how.temperature >= 0.0 && how.top_p > 0.0 && how.top_p <= 1.0) {
            return Err(BadInput("error: --temperature must be at least 0, --top-p in (0, 1]".into()).into());
        }
        let (tokenizer, mut session) = self.open(registry)?;
        let chat = !how.plain && tokenizer.template().is_ok();
        let ids: Result<Vec<_>, _> = prompts
            .iter()
            .map(|prompt| match chat {
                true => {
                    let message = json!({ "role": "user", "content": prompt });
                    let message = message.as_object().cloned().unwrap_or_default();
                    tokenizer.encode_chat(&[message], true, &Map::new())
                }
                false => tokenizer.encode(prompt),
            })
            .collect();
        let sampling = Sampling {
            max_new_tokens: how.max_new_tokens,
            temperature: how.temperature,
            top_p: how.top_p,
            seed: how.seed,
            stop: tokenizer.stop_tokens().to_vec(),
        };
        let answers = session.generate(&ids.map_err(|e| BadInput(format!("error: {e}")))?, &sampling)?;
        let text = |ids: &Vec<u32>| {
            let end = ids.len() - usize::from(ids.last().is_some_and(|id| sampling.stop.contains(id)));
            tokenizer.decode(&ids[..end])
        };
        Ok(answers.iter().map(text).collect::<Result<_, _>>()?)
    }

    /// Writes the model, the adapter merged into its weights, as a Hugging Face folder of its own.
    ///
    /// # Errors
    /// [`BadInput`] when the model cannot be used or the folder holds something already.
    pub fn export(&self, registry: &mut Registry, folder: &Path) -> anyhow::Result<()> {
        if folder.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(BadInput(format!("error: {} is not empty", folder.display())).into());
        }
        let (tokenizer, mut session) = self.open(registry)?;
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        session.save(folder, Export::Model)?;
        tokenizer.save(folder)?;
        Ok(())
    }
}

/// What an adapter's own folder says of it.
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
