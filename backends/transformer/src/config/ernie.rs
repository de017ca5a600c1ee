//! ERNIE 4.5 without experts: Llama with rotation of neighbours, and biases everywhere or nowhere.

use spo_api::Result;

use super::architecture::{Architecture, ModelType};
use super::fields::Fields;
use super::llama::{Defaults, base};
use super::rotary::{Rope, RopeKeys};
use crate::engine::Pairs;

pub(super) fn read(fields: &Fields<'_>, model_type: ModelType) -> Result<Architecture> {
    let rope = |fields: &Fields<'_>, keys| {
        Rope::parse(fields, &RopeKeys { theta: 500_000.0, pairs: Pairs::Neighbours, ..keys })
    };
    let mut a = base(fields, model_type, Defaults { epsilon: 1e-5, tied: true, head_dim: Some(128), rope })?;
    let bias = fields.flag("use_bias", false)?;
    (a.block.qkv_bias, a.block.output_bias, a.block.mlp_bias) = (bias, bias, bias);
    Ok(a)
}
