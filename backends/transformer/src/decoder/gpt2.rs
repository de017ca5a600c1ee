//! The parameters of GPT-2.

use super::block::{Block, Projections};
use super::mlp::Mlp;
use super::names::{Layout, Names};
use crate::config::Architecture;

pub(super) fn layout(names: &mut Names, a: &Architecture) -> Layout {
    Layout {
        tokens: names.matrix("transformer.wte.weight", a.vocabulary, a.hidden),
        positions: Some(names.matrix("transformer.wpe.weight", a.context, a.hidden)),
        blocks: (0..a.layers.len()).map(|index| block(names, a, index)).collect(),
        norm: names.layer_norm("transformer.ln_f", a.hidden, a.epsilon),
    }
}

fn block(names: &mut Names, a: &Architecture, index: usize) -> Block {
    let at = |name: &str| format!("transformer.h.{index}.{name}");
    Block {
        attention_norm: names.layer_norm(&at("ln_1"), a.hidden, a.epsilon),
        projections: Projections::Joint(names.transposed(at("attn.c_attn"), [a.hidden, 3 * a.hidden])),
        head_norms: None,
        output: names.transposed(at("attn.c_proj"), [a.hidden, a.hidden]),
        mlp_norm: names.layer_norm(&at("ln_2"), a.hidden, a.epsilon),
        mlp: Mlp {
            activation: a.activation,
            gate: None,
            up: names.transposed(at("mlp.c_fc"), [a.hidden, a.intermediate]),
            down: names.transposed(at("mlp.c_proj"), [a.intermediate, a.hidden]),
        },
    }
}
