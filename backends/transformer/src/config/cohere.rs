//! Command R: attention and MLP side by side behind one layer norm without bias, rotation of neighbours, and a
//! factor for the logits. In Command R7B (`cohere2`) most layers slide, and only those have rotary positions.

use spo_api::Result;

use super::architecture::{Architecture, ModelType, NormShape};
use super::fields::Fields;
use super::layers::{every, sliding_layers, window};
use super::llama::{Defaults, attention_bias, base};
use super::rotary::{Rope, RopeKeys};
use crate::engine::Pairs;

pub(super) fn read(fields: &Fields<'_>, model_type: ModelType) -> Result<Architecture> {
    let rope = |fields: &Fields<'_>, keys| {
        Rope::parse(fields, &RopeKeys { theta: 500_000.0, pairs: Pairs::Neighbours, ..keys })
    };
    let mut a = base(fields, model_type, Defaults { tied: true, rope, ..Defaults::default() })?;
    fields.only_flag("use_qk_norm", false)?;
    attention_bias(fields, &mut a)?;
    let epsilon = fields.epsilon("layer_norm_eps", 1e-5)?;
    a.norm = NormShape { bias: false, ..NormShape::layer(epsilon) };
    a.block.parallel = true;
    a.block.mlp_norm = a.block.attention_norm;
    a.logits_scale = fields.maybe_positive("logit_scale")?.unwrap_or(0.0625);
    if model_type == ModelType::Cohere2 {
        let pattern = fields.maybe_size("sliding_window_pattern")?.unwrap_or(4);
        sliding_layers(fields, &mut a.layers, window(fields, Some(4096))?, every(pattern))?;
        for layer in a.layers.iter_mut().filter(|layer| layer.window.is_none()) {
            layer.rope = None;
        }
    }
    Ok(a)
}
