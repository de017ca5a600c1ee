//! The parameters of Llama and related models.

use super::block::{Block, Projections};
use super::mlp::Mlp;
use super::names::{Layout, Names};
use crate::config::Architecture;

pub(super) fn layout(names: &mut Names, a: &Architecture) -> Layout {
    Layout {
        tokens: names.matrix("model.embed_tokens.weight", a.vocabulary, a.hidden),
        positions: None,
        blocks: (0..a.layers.len()).map(|index| block(names, a, index)).collect(),
        norm: names.rms_norm("model.norm", a.hidden, a.epsilon),
    }
}

fn block(names: &mut Names, a: &Architecture, index: usize) -> Block {
    let at = |name: &str| format!("model.layers.{index}.{name}");
    let (q, kv) = (a.heads.heads * a.heads.dim, a.heads.kv_heads * a.heads.dim);
    Block {
        attention_norm: names.rms_norm(&at("input_layernorm"), a.hidden, a.epsilon),
        projections: Projections::Separate(Box::new([
            names.linear(at("self_attn.q_proj"), [a.hidden, q], a.qkv_bias),
            names.linear(at("self_attn.k_proj"), [a.hidden, kv], a.qkv_bias),
            names.linear(at("self_attn.v_proj"), [a.hidden, kv], a.qkv_bias),
        ])),
        head_norms: a.qk_norm.then(|| {
            ["self_attn.q_norm", "self_attn.k_norm"]
                .map(|name| names.rms_norm(&at(name), a.heads.dim, a.epsilon))
        }),
        output: names.linear(at("self_attn.o_proj"), [q, a.hidden], a.output_bias),
        mlp_norm: names.rms_norm(&at("post_attention_layernorm"), a.hidden, a.epsilon),
        mlp: Mlp {
            activation: a.activation,
            gate: Some(names.linear(at("mlp.gate_proj"), [a.hidden, a.intermediate], a.mlp_bias)),
            up: names.linear(at("mlp.up_proj"), [a.hidden, a.intermediate], a.mlp_bias),
            down: names.linear(at("mlp.down_proj"), [a.intermediate, a.hidden], a.mlp_bias),
        },
    }
}
