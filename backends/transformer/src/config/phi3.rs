//! Phi-3 and Phi-4: joint projections, rotation of a part of each head, and factors for each of its
//! frequencies.

use spo_api::Result;

use super::architecture::{Architecture, MlpShape, ModelType, Projected};
use super::fields::Fields;
use super::layers::window;
use super::llama::{Defaults, base};
use super::rotary::{Rope, RopeKeys};

pub(super) fn read(fields: &Fields<'_>, model_type: ModelType) -> Result<Architecture> {
    let rope = |fields: &Fields<'_>, keys| {
        // Older files call the same scaling by other names.
        let longrope = &["su", "yarn"];
        let keys = RopeKeys { partial: Some(1.0), original_context: Some(4096.0), longrope, ..keys };
        Rope::parse(fields, &keys)
    };
    let mut a = base(fields, model_type, Defaults { epsilon: 1e-5, rope, ..Defaults::default() })?;
    a.block.projections = Projected::Joint("self_attn.qkv_proj");
    a.block.mlp = MlpShape::JointGated { gate_up: "mlp.gate_up_proj", down: "mlp.down_proj" };
    let window = window(fields, None)?;
    a.layers.iter_mut().for_each(|layer| layer.window = window);
    Ok(a)
}
