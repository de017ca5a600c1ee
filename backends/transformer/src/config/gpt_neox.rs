//! GPT-NeoX and Pythia: attention and MLP side by side, layer norms, one projection for q, k and v of each
//! head, and rotation of a part of each head.

use spo_api::Result;

use super::architecture::{Architecture, MlpShape, ModelType, Names, NormShape, Projected};
use super::fields::Fields;
use super::llama::{Defaults, base};
use super::rotary::{Rope, RopeKeys};
use crate::engine::Activation;

pub(super) fn read(fields: &Fields<'_>, model_type: ModelType) -> Result<Architecture> {
    let rope = |fields: &Fields<'_>, keys| {
        let (theta_key, partial_key) = (Some("rotary_emb_base"), "rotary_pct");
        Rope::parse(fields, &RopeKeys { theta_key, partial_key, partial: Some(0.25), ..keys })
    };
    let mut a = base(fields, model_type, Defaults { rope, ..Defaults::default() })?;
    a.heads.kv_heads = a.heads.heads;
    a.names = Names {
        table: "gpt_neox.embed_in",
        positions: None,
        blocks: "gpt_neox.layers",
        norm: "gpt_neox.final_layer_norm",
        head: "embed_out",
    };
    a.norm = NormShape::layer(fields.epsilon("layer_norm_eps", 1e-5)?);
    let bias = fields.flag("attention_bias", true)?;
    let block = &mut a.block;
    block.projections = Projected::JointByHead("attention.query_key_value");
    block.output = "attention.dense";
    (block.qkv_bias, block.output_bias, block.mlp_bias) = (bias, bias, true);
    block.mlp = MlpShape::Plain { up: "mlp.dense_h_to_4h", down: "mlp.dense_4h_to_h" };
    block.activation = fields.activation("hidden_act", Activation::Gelu)?;
    block.parallel = fields.flag("use_parallel_residual", true)?;
    Ok(a)
}
