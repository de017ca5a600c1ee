use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use spo_api::{ConfigError, Error, Kernel, Optimizer, Part, Result, Update, Vector, VectorSpace, register};

use super::AdamW;

/// `adamw` whose two running means are kept in 8 bits: block by block, each number is one of 256 values (finer near
/// 0) times the greatest magnitude in its block. A quarter of the memory that means in f32 take.
///
/// The backend must have it: there is no other way to run it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct AdamW8bit(pub AdamW);

impl Part for AdamW8bit {
    fn validate(&self) -> Result<(), ConfigError> {
        self.0.validate()
    }
}

impl Optimizer for AdamW8bit {
    fn kernel(&self) -> Option<Kernel> {
        Some(Kernel { name: "adamw-8bit".into(), config: json!(self) })
    }

    fn needs_kernel(&self) -> bool {
        true
    }

    fn step(&self, _space: &mut dyn VectorSpace, _state: &[Vector], _update: &Update) -> Result<()> {
        Err(Error::Engine("the backend has no 8-bit optimizer states: use `adamw`".into()))
    }
}

register!(optimizer AdamW8bit {
    name: "adamw-8bit",
    aliases: ["adamw_8bit"],
    summary: "adamw with its running means in 8 bits",
    source: "Dettmers et al. 2022, block-wise quantization",
});
