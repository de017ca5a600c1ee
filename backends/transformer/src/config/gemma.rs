//! Gemma: GELU in the MLP, norms whose weights are differences from 1, scaled embeddings. Gemma 2 adds norms
//! after the layers, soft caps, and layers that slide; Gemma 3 norms of q and k, and a rotation of their own
//! for the layers that slide.

use spo_api::Result;

use super::architecture::{Architecture, HeadNorm, ModelType};
use super::fields::Fields;
use super::layers::{every, sliding_layers, window};
use super::llama::{Defaults, HEAD_NORMS, attention_bias, base};
use super::rotary::{Rope, RopeKeys};
use crate::engine::Activation;

pub(super) fn read(fields: &Fields<'_>, model_type: ModelType) -> Result<Architecture> {
    let mut defaults = Defaults { tied: true, head_dim: Some(256), ..Defaults::default() };
    if model_type == ModelType::Gemma3 {
        defaults.rope = |fields, keys| Ok(rotations(fields, keys)?.0);
    }
    let mut a = base(fields, model_type, defaults)?;
    attention_bias(fields, &mut a)?;
    fields.only_flag("use_bidirectional_attention", false)?;
    a.norm.offset = 1.0;
    a.embedding_scale = (a.hidden as f64).sqrt();
    if model_type == ModelType::Gemma {
        // The first files say "gelu" and mean its approximation.
        a.block.activation = match fields.activation("hidden_act", Activation::GeluTanh)? {
            Activation::Gelu => Activation::GeluTanh,
            other => other,
        };
        return Ok(a);
    }
    a.block.activation = fields.activation("hidden_activation", Activation::GeluTanh)?;
    a.block.attention_post_norm = Some("post_attention_layernorm");
    a.block.mlp_norm = Some("pre_feedforward_layernorm");
    a.block.mlp_post_norm = Some("post_feedforward_layernorm");
    let scalar = fields.maybe_positive("query_pre_attn_scalar")?.unwrap_or(256.0);
    a.attention_scale = 1.0 / scalar.sqrt();
    let window = window(fields, Some(4096))?;
    match model_type {
        ModelType::Gemma2 => {
            a.attention_cap = cap(fields, "attn_logit_softcapping", Some(50.0))?;
            a.logits_cap = cap(fields, "final_logit_softcapping", Some(30.0))?;
            sliding_layers(fields, &mut a.layers, window, every_other)?;
        }
        _ => {
            // transformers does not apply it in this model.
            if cap(fields, "attn_logit_softcapping", None)?.is_some() {
                return Err(fields.error("attn_logit_softcapping", "is not supported for gemma3_text"));
            }
            a.logits_cap = cap(fields, "final_logit_softcapping", None)?;
            a.block.head_norms = Some((HEAD_NORMS, HeadNorm::Each));
            let pattern = fields.maybe_size("sliding_window_pattern")?.unwrap_or(6);
            sliding_layers(fields, &mut a.layers, window, every(pattern))?;
            let (_, sliding) = rotations(fields, RopeKeys::new(10_000.0, a.heads.dim))?;
            for layer in a.layers.iter_mut().filter(|layer| layer.window.is_some()) {
                layer.rope = Some(sliding.clone());
            }
        }
    }
    Ok(a)
}

/// The rotations of the layers of Gemma 3 that attend to everything, and of those that slide.
fn rotations(fields: &Fields<'_>, keys: RopeKeys) -> Result<(Rope, Rope)> {
    let full = RopeKeys { theta: 1_000_000.0, ..keys };
    let sliding = RopeKeys { theta: 10_000.0, theta_key: Some("rope_local_base_freq"), ..keys };
    Rope::by_layer_type(fields, &full, &sliding)
}

/// Every other layer slides, beginning with the first.
fn every_other(layer: usize) -> bool {
    layer.is_multiple_of(2)
}

/// A soft cap; null means that there is none.
fn cap(fields: &Fields<'_>, key: &str, default: Option<f64>) -> Result<Option<f64>> {
    match fields.config.get(key) {
        None => Ok(default),
        Some(_) => fields.maybe_positive(key),
    }
}
