//! The configuration of GPT-2.

use spo_api::Result;

use super::architecture::{Architecture, Family, Layer, ModelType};
use super::fields::Fields;
use crate::engine::{Activation, Heads};

pub(super) fn read(fields: &Fields<'_>) -> Result<Architecture> {
    fields.only_text("activation_function", &["gelu_new", "gelu_pytorch_tanh"])?;
    fields.only_flag("add_cross_attention", false)?;
    fields.only_flag("scale_attn_weights", true)?;
    fields.only_flag("scale_attn_by_inverse_layer_idx", false)?;
    let (hidden, heads) = (fields.size("n_embd")?, fields.size("n_head")?);
    Ok(Architecture {
        model_type: ModelType::Gpt2,
        family: Family::Gpt2,
        vocabulary: fields.size("vocab_size")?,
        hidden,
        layers: vec![Layer::default(); fields.layers("n_layer")?],
        heads: Heads { heads, kv_heads: heads, dim: fields.head_width(hidden, heads, "n_head")? },
        intermediate: fields.maybe_size("n_inner")?.unwrap_or(4 * hidden),
        context: fields.size("n_positions")?,
        epsilon: fields.epsilon("layer_norm_epsilon", 1e-5)?,
        qkv_bias: true,
        output_bias: true,
        mlp_bias: true,
        activation: Activation::GeluTanh,
        qk_norm: false,
        tied: fields.flag("tie_word_embeddings", true)?,
        initializer_range: fields.initializer_range()?,
        dtype: fields.dtype()?,
    })
}
