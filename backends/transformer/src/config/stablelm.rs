//! StableLM: Llama with layer norms, and rotation of a part of each head; in some models, attention and MLP side
//! by side behind one norm.

use spo_api::Result;

use super::architecture::{Architecture, ModelType, NormShape};
use super::fields::Fields;
use super::llama::{Defaults, base};
use super::rotary::{Rope, RopeKeys};

pub(super) fn read(fields: &Fields<'_>, model_type: ModelType) -> Result<Architecture> {
    let rope = |fields: &Fields<'_>, keys| Rope::parse(fields, &RopeKeys { partial: Some(0.25), ..keys });
    let mut a = base(fields, model_type, Defaults { rope, ..Defaults::default() })?;
    fields.only_flag("qk_layernorm", false)?;
    a.norm = NormShape::layer(fields.epsilon("layer_norm_eps", 1e-5)?);
    a.block.qkv_bias = fields.flag("use_qkv_bias", false)?;
    if fields.flag("use_parallel_residual", false)? {
        a.block.parallel = true;
        a.block.mlp_norm = a.block.attention_norm;
    }
    Ok(a)
}
