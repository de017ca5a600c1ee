//! StarCoder2: layer norms, biases everywhere, a plain MLP, and a window on every layer.

use spo_api::Result;

use super::architecture::{Architecture, MlpShape, ModelType, NormShape};
use super::fields::Fields;
use super::layers::window;
use super::llama::{Defaults, base};
use crate::engine::Activation;

pub(super) fn read(fields: &Fields<'_>, model_type: ModelType) -> Result<Architecture> {
    let mut a = base(fields, model_type, Defaults { tied: true, ..Defaults::default() })?;
    a.norm = NormShape::layer(fields.epsilon("norm_epsilon", 1e-5)?);
    let bias = fields.flag("use_bias", true)?;
    (a.block.qkv_bias, a.block.output_bias, a.block.mlp_bias) = (bias, bias, bias);
    a.block.mlp = MlpShape::Plain { up: "mlp.c_fc", down: "mlp.c_proj" };
    a.block.activation = fields.activation("hidden_act", Activation::GeluTanh)?;
    let window = window(fields, None)?;
    a.layers.iter_mut().for_each(|layer| layer.window = window);
    Ok(a)
}
