//! OLMo 2 and OLMo 3: norms after the layers instead of before them, and of all of q and k together. OLMo 3
//! adds layers that slide, with a rotation that is not scaled.

use spo_api::Result;

use super::architecture::{Architecture, HeadNorm, ModelType};
use super::fields::Fields;
use super::layers::{every, sliding_layers, window};
use super::llama::{Defaults, HEAD_NORMS, attention_bias, base};
use super::rotary::{Rope, RopeKeys};

pub(super) fn read(fields: &Fields<'_>, model_type: ModelType) -> Result<Architecture> {
    let mut defaults = Defaults { epsilon: 1e-5, ..Defaults::default() };
    if model_type == ModelType::Olmo3 {
        defaults.rope = |fields, keys| Ok(rotations(fields, keys)?.0);
    }
    let mut a = base(fields, model_type, defaults)?;
    attention_bias(fields, &mut a)?;
    a.block.head_norms = Some((HEAD_NORMS, HeadNorm::All));
    a.block.attention_norm = None;
    a.block.attention_post_norm = Some("post_attention_layernorm");
    a.block.mlp_norm = None;
    a.block.mlp_post_norm = Some("post_feedforward_layernorm");
    if model_type == ModelType::Olmo3 {
        sliding_layers(fields, &mut a.layers, window(fields, Some(4096))?, every(4))?;
        let (_, sliding) = rotations(fields, RopeKeys::new(10_000.0, a.heads.dim))?;
        for layer in a.layers.iter_mut().filter(|layer| layer.window.is_some()) {
            layer.rope = Some(sliding.clone());
        }
    }
    Ok(a)
}

/// The rotations of the layers of OLMo 3 that attend to everything, and of those that slide.
fn rotations(fields: &Fields<'_>, keys: RopeKeys) -> Result<(Rope, Rope)> {
    let full = RopeKeys { theta: 500_000.0, ..keys };
    // As in transformers, `rope_theta` of an older file is not for these.
    Rope::by_layer_type(fields, &full, &RopeKeys { theta_key: None, ..full })
}
