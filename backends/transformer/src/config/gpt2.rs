//! GPT-2: learned positions, layer norms, biases everywhere, and weights stored transposed.

use spo_api::Result;

use super::architecture::{
    Architecture, BlockShape, Layer, MlpShape, ModelType, Names, NormShape, Projected,
};
use super::fields::Fields;
use crate::engine::{Activation, Heads};

pub(super) fn read(fields: &Fields<'_>, model_type: ModelType) -> Result<Architecture> {
    fields.only_text("activation_function", &["gelu_new", "gelu_pytorch_tanh"])?;
    fields.only_flag("add_cross_attention", false)?;
    fields.only_flag("scale_attn_weights", true)?;
    fields.only_flag("scale_attn_by_inverse_layer_idx", false)?;
    let (hidden, heads) = (fields.size("n_embd")?, fields.size("n_head")?);
    let dim = fields.head_width(hidden, heads, "n_head")?;
    Ok(Architecture {
        model_type,
        names: Names {
            table: "transformer.wte",
            positions: Some("transformer.wpe"),
            blocks: "transformer.h",
            norm: "transformer.ln_f",
            head: "lm_head",
        },
        vocabulary: fields.size("vocab_size")?,
        hidden,
        experts: None,
        layers: vec![Layer::default(); fields.layers("n_layer")?],
        heads: Heads { heads, kv_heads: heads, dim },
        intermediate: fields.maybe_size("n_inner")?.unwrap_or(4 * hidden),
        context: fields.size("n_positions")?,
        context_key: "n_positions",
        norm: NormShape::layer(fields.epsilon("layer_norm_epsilon", 1e-5)?),
        block: BlockShape {
            attention_norm: Some("ln_1"),
            projections: Projected::Joint("attn.c_attn"),
            qkv_bias: true,
            head_norms: None,
            output: "attn.c_proj",
            output_bias: true,
            attention_post_norm: None,
            mlp_norm: Some("ln_2"),
            mlp: MlpShape::Plain { up: "mlp.c_fc", down: "mlp.c_proj" },
            mlp_bias: true,
            activation: Activation::GeluTanh,
            mlp_post_norm: None,
            parallel: false,
            transposed: true,
        },
        embedding_scale: 1.0,
        attention_scale: 1.0 / (dim as f64).sqrt(),
        attention_cap: None,
        residual_scale: 1.0,
        logits_scale: 1.0,
        logits_cap: None,
        head_bias: false,
        tied: fields.flag("tie_word_embeddings", true)?,
        initializer_range: fields.initializer_range()?,
        dtype: fields.dtype()?,
    })
}
