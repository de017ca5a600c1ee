//! The configurations of Llama and related models.

use spo_api::Result;

use super::architecture::{Architecture, Family, Layer, ModelType};
use super::fields::Fields;
use super::rotary::Rope;
use crate::engine::{Activation, Heads};

pub(super) fn read(fields: &Fields<'_>, model_type: ModelType) -> Result<Architecture> {
    fields.only_text("hidden_act", &["silu"])?;
    let (hidden, heads) = (fields.size("hidden_size")?, fields.size("num_attention_heads")?);
    let dim = match fields.maybe_size("head_dim")? {
        Some(dim) => dim,
        // Qwen3 is the only type whose default is not hidden / heads.
        None if model_type == ModelType::Qwen3 => 128,
        None => fields.head_width(hidden, heads, "num_attention_heads")?,
    };
    let attention_bias = match model_type {
        ModelType::Llama | ModelType::Qwen3 => fields.flag("attention_bias", false)?,
        _ => false,
    };
    let windowed = match model_type {
        ModelType::Mistral => true,
        ModelType::Qwen2 | ModelType::Qwen3 => fields.flag("use_sliding_window", false)?,
        _ => false,
    };
    let layer = Layer {
        rope: Some(Rope::parse(fields)?),
        window: if windowed { fields.maybe_size("sliding_window")? } else { None },
    };
    Ok(Architecture {
        model_type,
        family: Family::Llama,
        vocabulary: fields.size("vocab_size")?,
        hidden,
        layers: vec![layer; fields.layers("num_hidden_layers")?],
        heads: Heads { heads, kv_heads: fields.maybe_size("num_key_value_heads")?.unwrap_or(heads), dim },
        intermediate: fields.size("intermediate_size")?,
        context: fields.context("max_position_embeddings")?,
        epsilon: fields.maybe_number("rms_norm_eps")?.unwrap_or(1e-6),
        qkv_bias: attention_bias || model_type == ModelType::Qwen2,
        output_bias: attention_bias,
        mlp_bias: model_type == ModelType::Llama && fields.flag("mlp_bias", false)?,
        activation: Activation::Silu,
        qk_norm: model_type == ModelType::Qwen3,
        tied: fields.flag("tie_word_embeddings", false)?,
        initializer_range: fields.maybe_number("initializer_range")?.unwrap_or(0.02),
        dtype: fields.dtype()?,
    })
}
