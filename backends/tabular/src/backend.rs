use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{Backend, Error, ModelSource, ModelSpec, Part, Result, Session, register};

use crate::config::Config;
use crate::session::TabularSession;
use crate::storage;

/// Models so small that every answer's probability can be enumerated, in f64, on one thread of the CPU:
/// for studying objectives and bilevel steps exactly, and for tests.
///
/// `model.config` (or the config.json of a saved model):
///
/// - `model_type = "tabular"`;
/// - `kind`: `"table"`, one row of logits for each window; `"linear"`, each position of the window adds a
///   row of its own table; `"mlp"`, embeddings of the window's tokens and one tanh layer;
/// - `order`: the tokens before a position that the model sees, its window;
/// - `embedding_size` and `hidden_size`: of `mlp`;
/// - `max_position_embeddings`: the longest prompt with answer, 64 unless given;
/// - `initializer_range`: standard deviation of the random weights, 0.1 unless given.
///
/// `backend.dtype` may be `"f64"`, or `"f32"` (what a recipe says by default): it computes in f64 either
/// way.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tabular {}

impl Part for Tabular {}

impl Backend for Tabular {
    fn open(&self, spec: &ModelSpec) -> Result<Box<dyn Session>> {
        if !matches!(spec.device.as_str(), "auto" | "cpu") {
            let message = format!("device {}: the tabular backend runs on the cpu", spec.device);
            return Err(Error::Engine(message));
        }
        if !matches!(spec.dtype.as_str(), "f32" | "f64") {
            return Err(Error::Engine(format!("dtype {}: the tabular backend computes in f64", spec.dtype)));
        }
        if spec.adapter.is_some() {
            return Err(Error::Model("the tabular backend has no adapters: train every parameter".into()));
        }
        Ok(Box::new(match &spec.source {
            ModelSource::Random(config) => {
                let parsed = Config::parse(config, "model.config")?;
                let parameters = parsed.model().random(spec.seed, parsed.initializer_range);
                TabularSession::new(parsed, config.clone(), parameters)
            }
            ModelSource::Folder(folder) => storage::open(folder)?,
        }))
    }
}

register!(backend Tabular {
    name: "tabular",
    summary: "models whose every answer can be enumerated, in f64: for exact studies and tests",
    source: "Bengio et al. 2003 (mlp)",
});
