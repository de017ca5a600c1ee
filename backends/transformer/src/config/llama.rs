//! Llama, and what other families have in common with it.

use spo_api::Result;

use super::architecture::{
    Architecture, BlockShape, HeadNorm, Layer, MlpShape, ModelType, Names, NormShape, Projected,
};
use super::fields::Fields;
use super::layers::{sliding_layers, window};
use super::rotary::{Rope, RopeKeys};
use crate::engine::{Activation, Heads};

/// What a family takes for keys that its `config.json` does not have.
#[derive(Clone, Copy)]
pub(super) struct Defaults {
    pub epsilon: f64,
    pub tied: bool,
    /// `None` for the hidden size over the number of heads.
    pub head_dim: Option<usize>,
    /// The rotation of the layers, given what most families call its settings.
    pub rope: fn(&Fields<'_>, RopeKeys) -> Result<Rope>,
}

impl Default for Defaults {
    fn default() -> Self {
        let rope = |fields: &Fields<'_>, keys| Rope::parse(fields, &keys);
        Defaults { epsilon: 1e-6, tied: false, head_dim: None, rope }
    }
}

/// Llama, Mistral, Ministral, Qwen2, Qwen3 and Seed-OSS.
pub(super) fn read(fields: &Fields<'_>, model_type: ModelType) -> Result<Architecture> {
    let defaults = match model_type {
        ModelType::Qwen3 | ModelType::SeedOss => Defaults { head_dim: Some(128), ..Defaults::default() },
        _ => Defaults::default(),
    };
    let mut a = base(fields, model_type, defaults)?;
    match model_type {
        ModelType::Qwen2 => a.block.qkv_bias = true,
        ModelType::Qwen3 => {
            attention_bias(fields, &mut a)?;
            a.block.head_norms = Some((HEAD_NORMS, HeadNorm::Each));
        }
        ModelType::Mistral | ModelType::Ministral => {}
        ModelType::SeedOss => {
            a.block.qkv_bias = fields.flag("attention_bias", true)?;
            a.block.output_bias = fields.flag("attention_out_bias", false)?;
            a.block.mlp_bias = fields.flag("mlp_bias", false)?;
        }
        _ => {
            attention_bias(fields, &mut a)?;
            a.block.mlp_bias = fields.flag("mlp_bias", false)?;
        }
    }
    match model_type {
        // Every layer slides, whatever `layer_types` says.
        ModelType::Mistral => {
            let window = window(fields, Some(4096))?;
            a.layers.iter_mut().for_each(|layer| layer.window = window);
        }
        ModelType::Ministral => {
            let window = window(fields, Some(4096))?;
            sliding_layers(fields, &mut a.layers, window, |_| window.is_some())?;
        }
        ModelType::Qwen2 | ModelType::Qwen3 => {
            let window =
                if fields.flag("use_sliding_window", false)? { window(fields, Some(4096))? } else { None };
            let first = fields.maybe_count("max_window_layers")?.unwrap_or(28);
            sliding_layers(fields, &mut a.layers, window, |layer| window.is_some() && layer >= first)?;
        }
        _ => {}
    }
    Ok(a)
}

/// The names of norms of q and k.
pub(super) const HEAD_NORMS: [&str; 2] = ["self_attn.q_norm", "self_attn.k_norm"];

/// A bias on all projections of the attention, or on none.
pub(super) fn attention_bias(fields: &Fields<'_>, a: &mut Architecture) -> Result<()> {
    let bias = fields.flag("attention_bias", false)?;
    (a.block.qkv_bias, a.block.output_bias) = (bias, bias);
    Ok(())
}

/// What the keys say that most families share: a decoder with RMS norms before each layer, rotary positions,
/// separate q, k and v, a gated MLP with SiLU, and no biases.
pub(super) fn base(fields: &Fields<'_>, model_type: ModelType, defaults: Defaults) -> Result<Architecture> {
    let (hidden, heads) = (fields.size("hidden_size")?, fields.size("num_attention_heads")?);
    let dim = match fields.maybe_size("head_dim")?.or(defaults.head_dim) {
        Some(dim) => dim,
        None => fields.head_width(hidden, heads, "num_attention_heads")?,
    };
    let context = fields.context("max_position_embeddings")?;
    let rope = (defaults.rope)(fields, RopeKeys::new(10_000.0, dim))?;
    let layers = fields.layers("num_hidden_layers")?;
    Ok(Architecture {
        model_type,
        names: Names {
            table: "model.embed_tokens",
            positions: None,
            blocks: "model.layers",
            norm: "model.norm",
            head: "lm_head",
        },
        vocabulary: fields.size("vocab_size")?,
        hidden,
        context: rope.context(context),
        context_key: "max_position_embeddings",
        layers: vec![Layer { rope: Some(rope), ..Layer::default() }; layers],
        heads: Heads { heads, kv_heads: fields.maybe_size("num_key_value_heads")?.unwrap_or(heads), dim },
        intermediate: fields.size("intermediate_size")?,
        norm: NormShape::rms(fields.epsilon("rms_norm_eps", defaults.epsilon)?),
        block: BlockShape {
            attention_norm: Some("input_layernorm"),
            projections: Projected::Separate(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
            qkv_bias: false,
            head_norms: None,
            output: "self_attn.o_proj",
            output_bias: false,
            attention_post_norm: None,
            mlp_norm: Some("post_attention_layernorm"),
            mlp: MlpShape::Gated { gate: "mlp.gate_proj", up: "mlp.up_proj", down: "mlp.down_proj" },
            mlp_bias: false,
            activation: fields.activation("hidden_act", Activation::Silu)?,
            mlp_post_norm: None,
            parallel: false,
            transposed: false,
        },
        experts: None,
        embedding_scale: 1.0,
        attention_scale: 1.0 / (dim as f64).sqrt(),
        attention_cap: None,
        residual_scale: 1.0,
        logits_scale: 1.0,
        logits_cap: None,
        head_bias: false,
        tied: fields.flag("tie_word_embeddings", defaults.tied)?,
        initializer_range: fields.initializer_range()?,
        dtype: fields.dtype()?,
    })
}
