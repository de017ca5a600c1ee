//! `config.json` of a tabular model.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use spo_api::{ConfigError, Error, Part, Result};

use crate::model::{Kind, Model};

/// Upper limit on the number of parameters; this backend is only meant for tiny models.
const MOST_PARAMETERS: usize = 10_000_000;

/// What makes a model: see [`Tabular`](crate::Tabular) for the keys.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    #[allow(dead_code, reason = "checked before the other keys")]
    model_type: String,
    pub kind: KindName,
    #[schemars(range(min = 1))]
    pub order: usize,
    #[schemars(range(min = 1))]
    pub embedding_size: Option<usize>,
    #[schemars(range(min = 1))]
    pub hidden_size: Option<usize>,
    #[schemars(range(min = 1))]
    pub vocab_size: usize,
    #[serde(default = "default_context")]
    #[schemars(range(min = 2))]
    pub max_position_embeddings: usize,
    #[serde(default = "default_range")]
    #[schemars(range(min = 0))]
    pub initializer_range: f64,
    /// Of the tokenizer; the model has no use for it.
    #[allow(dead_code, reason = "a key that every config.json may have")]
    eos_token_id: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum KindName {
    Table,
    Linear,
    Mlp,
}

fn default_context() -> usize {
    64
}

fn default_range() -> f64 {
    0.1
}

impl Config {
    /// Parses a configuration; `origin` names it in errors.
    pub fn parse(config: &Value, origin: &str) -> Result<Self> {
        if config["model_type"] != "tabular" {
            return Err(Error::Model(format!(
                "{origin}: the tabular backend runs model_type = \"tabular\", got {}",
                config["model_type"]
            )));
        }
        spo_api::parse(config).map_err(|e| {
            let hint = e.suggestion.as_ref().map_or(String::new(), |s| format!("; did you mean `{s}`?"));
            Error::Model(format!("{origin}: {e}{hint}"))
        })
    }

    pub fn model(&self) -> Model {
        let kind = match (self.kind, self.embedding_size, self.hidden_size) {
            (KindName::Table, ..) => Kind::Table,
            (KindName::Mlp, Some(embedding), Some(hidden)) => Kind::Mlp { embedding, hidden },
            _ => Kind::Linear,
        };
        Model { kind, order: self.order, vocabulary: self.vocab_size }
    }
}

impl Part for Config {
    fn validate(&self) -> Result<(), ConfigError> {
        for (key, given) in
            [("embedding_size", self.embedding_size.is_some()), ("hidden_size", self.hidden_size.is_some())]
        {
            match (self.kind, given) {
                (KindName::Mlp, false) => return Err(ConfigError::at(key, "is needed by kind = \"mlp\"")),
                (KindName::Table | KindName::Linear, true) => {
                    return Err(ConfigError::at(key, "has an effect with kind = \"mlp\" only"));
                }
                _ => {}
            }
        }
        match self.model().size() {
            Some(size) if size <= MOST_PARAMETERS => Ok(()),
            size => Err(ConfigError::at(
                "order",
                format!(
                    "makes a model of {} parameters, where {MOST_PARAMETERS} is the limit: take a smaller order or \
                     another kind",
                    size.map_or("countless".into(), |s| s.to_string())
                ),
            )),
        }
    }
}
