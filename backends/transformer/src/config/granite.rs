//! Granite 3: Llama with a factor for embeddings, attention scores, layers and logits each.

use spo_api::Result;

use super::architecture::{Architecture, ModelType};
use super::fields::Fields;
use super::llama::{Defaults, attention_bias, base};

pub(super) fn read(fields: &Fields<'_>, model_type: ModelType) -> Result<Architecture> {
    let mut a = base(fields, model_type, Defaults::default())?;
    attention_bias(fields, &mut a)?;
    a.block.mlp_bias = fields.flag("mlp_bias", false)?;
    let factor = |key: &str| Ok::<_, spo_api::Error>(fields.maybe_positive(key)?.unwrap_or(1.0));
    a.embedding_scale = factor("embedding_multiplier")?;
    a.attention_scale = factor("attention_multiplier")?;
    a.residual_scale = factor("residual_multiplier")?;
    a.logits_scale = 1.0 / factor("logits_scaling")?;
    Ok(a)
}
