//! GLM-4: rotation of neighbours in half of each head, biases of q, k and v, and gate and up joint. Since `glm4` there are norms
//! after the layers too. Helium is Llama with the same kind of rotation.

use spo_api::Result;

use super::architecture::{Architecture, MlpShape, ModelType};
use super::fields::Fields;
use super::llama::{Defaults, base};
use super::rotary::{Rope, RopeKeys};
use crate::engine::Pairs;

pub(super) fn read(fields: &Fields<'_>, model_type: ModelType) -> Result<Architecture> {
    let rope = |fields: &Fields<'_>, keys| {
        Rope::parse(fields, &RopeKeys { partial: Some(0.5), pairs: Pairs::Neighbours, ..keys })
    };
    let defaults = Defaults { epsilon: 0.000_000_156_25, head_dim: Some(128), rope, ..Defaults::default() };
    let mut a = base(fields, model_type, defaults)?;
    a.block.qkv_bias = fields.flag("attention_bias", true)?;
    a.block.mlp = MlpShape::JointGated { gate_up: "mlp.gate_up_proj", down: "mlp.down_proj" };
    if model_type == ModelType::Glm4 {
        a.block.attention_post_norm = Some("post_self_attn_layernorm");
        a.block.mlp_post_norm = Some("post_mlp_layernorm");
    }
    Ok(a)
}

pub(super) fn read_helium(fields: &Fields<'_>, model_type: ModelType) -> Result<Architecture> {
    let rope = |fields: &Fields<'_>, keys| {
        Rope::parse(fields, &RopeKeys { theta: 100_000.0, pairs: Pairs::Neighbours, ..keys })
    };
    let defaults = Defaults { epsilon: 1e-8, head_dim: Some(128), rope, ..Defaults::default() };
    let mut a = base(fields, model_type, defaults)?;
    a.block.qkv_bias = fields.flag("attention_bias", false)?;
    a.block.mlp_bias = fields.flag("mlp_bias", false)?;
    if a.heads.heads * a.heads.dim != a.hidden {
        let problem = format!(
            "times `num_attention_heads` must be `hidden_size` ({}) in this model, got {} times {}",
            a.hidden, a.heads.dim, a.heads.heads
        );
        return Err(fields.error("head_dim", problem));
    }
    Ok(a)
}
