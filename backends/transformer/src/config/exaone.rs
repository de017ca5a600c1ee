//! EXAONE 4: norms after the layers instead of before them, and of q and k for each head. Where layers slide, only those have
//! rotary positions.

use spo_api::Result;

use super::architecture::{Architecture, HeadNorm, ModelType};
use super::fields::Fields;
use super::layers::{every, sliding_layers, window};
use super::llama::{Defaults, HEAD_NORMS, base};

pub(super) fn read(fields: &Fields<'_>, model_type: ModelType) -> Result<Architecture> {
    let mut a = base(fields, model_type, Defaults { epsilon: 1e-5, ..Defaults::default() })?;
    a.block.head_norms = Some((HEAD_NORMS, HeadNorm::Each));
    a.block.attention_norm = None;
    a.block.attention_post_norm = Some("post_attention_layernorm");
    a.block.mlp_norm = None;
    a.block.mlp_post_norm = Some("post_feedforward_layernorm");
    let Some(window) = window(fields, Some(4096))? else {
        sliding_layers(fields, &mut a.layers, None, |_| false)?;
        return Ok(a);
    };
    // Beside `layer_types` it may be a word, such as "LLLG".
    let pattern = match fields.get("layer_types") {
        Some(_) => None,
        None => fields.maybe_size("sliding_window_pattern")?,
    };
    sliding_layers(fields, &mut a.layers, Some(window), every(pattern.unwrap_or(4)))?;
    for layer in a.layers.iter_mut().filter(|layer| layer.window.is_none()) {
        layer.rope = None;
    }
    Ok(a)
}
