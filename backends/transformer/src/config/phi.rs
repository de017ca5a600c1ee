//! Phi-1, Phi-1.5 and Phi-2: attention and MLP side by side behind one layer norm, rotation of a part of each
//! head, and biases everywhere, also in the head.

use spo_api::Result;

use super::architecture::{Architecture, MlpShape, ModelType, NormShape};
use super::fields::Fields;
use super::llama::{Defaults, base};
use super::rotary::{Rope, RopeKeys};
use crate::engine::Activation;

pub(super) fn read(fields: &Fields<'_>, model_type: ModelType) -> Result<Architecture> {
    let rope = |fields: &Fields<'_>, keys| Rope::parse(fields, &RopeKeys { partial: Some(0.5), ..keys });
    let mut a = base(fields, model_type, Defaults { rope, ..Defaults::default() })?;
    fields.only_flag("qk_layernorm", false)?;
    a.names.norm = "model.final_layernorm";
    a.norm = NormShape::layer(fields.epsilon("layer_norm_eps", 1e-5)?);
    let block = &mut a.block;
    (block.qkv_bias, block.output_bias, block.mlp_bias) = (true, true, true);
    block.output = "self_attn.dense";
    block.mlp = MlpShape::Plain { up: "mlp.fc1", down: "mlp.fc2" };
    block.activation = fields.activation("hidden_act", Activation::GeluTanh)?;
    block.parallel = true;
    block.mlp_norm = block.attention_norm;
    a.head_bias = true;
    Ok(a)
}
