//! The parameters of an architecture, in the order of their ids.

use std::ops::Range;

use super::block::{Block, Projections};
use super::experts::Experts;
use super::feed_forward::FeedForward;
use super::mlp::Mlp;
use super::names::Names;
use crate::config::{Architecture, ExpertsShape, HeadNorm, MlpShape, Projected};
use crate::engine::{Head, Norm};
use crate::parameters::Id;

/// The parameters of a decoder, and its blocks.
pub(super) struct Layout {
    /// The embedding table.
    pub tokens: Id,
    /// The table of learned positions.
    pub positions: Option<Id>,
    pub blocks: Vec<Block>,
    /// The ids of each block's parameters.
    pub spans: Vec<Range<Id>>,
    /// The final norm.
    pub norm: Norm<Id>,
    pub head: Head<Id>,
}

impl Layout {
    pub fn new(names: &mut Names, a: &Architecture) -> Self {
        let tokens = names.matrix(a.names.table, a.vocabulary, a.hidden);
        let positions = a.names.positions.map(|name| names.matrix(name, a.context, a.hidden));
        let (mut blocks, mut spans) = (Vec::new(), Vec::new());
        for index in 0..a.layers.len() {
            let begin = names.specs.len();
            blocks.push(block(names, a, index));
            spans.push(begin..names.specs.len());
        }
        let norm = names.norm(a.names.norm, a.hidden, &a.norm);
        let weight = if a.tied { tokens } else { names.matrix(a.names.head, a.vocabulary, a.hidden) };
        let bias = a.head_bias.then(|| names.bias(a.names.head, a.vocabulary));
        Layout {
            tokens,
            positions,
            blocks,
            spans,
            norm,
            head: Head { weight, blocks: None, bias, low_rank: None, cap: a.logits_cap },
        }
    }
}

fn block(names: &mut Names, a: &Architecture, index: usize) -> Block {
    let shape = &a.block;
    let at = |name: &str| format!("{}.{index}.{name}", a.names.blocks);
    let (q, kv) = (a.heads.heads * a.heads.dim, a.heads.kv_heads * a.heads.dim);
    let attention_norm = shape.attention_norm.map(|name| names.norm(&at(name), a.hidden, &a.norm));
    // Fields are evaluated in this order, and so are ids given.
    Block {
        attention_norm,
        projections: {
            let mut linear = |name: &str, width| {
                names.linear(at(name), [a.hidden, width], shape.qkv_bias, shape.transposed)
            };
            match shape.projections {
                Projected::Separate([of_q, of_k, of_v]) => {
                    Projections::Separate(Box::new([linear(of_q, q), linear(of_k, kv), linear(of_v, kv)]))
                }
                Projected::Joint(name) => Projections::Joint { linear: linear(name, q + 2 * kv), groups: 1 },
                Projected::JointByHead(name) => {
                    Projections::Joint { linear: linear(name, q + 2 * kv), groups: a.heads.kv_heads }
                }
            }
        },
        head_norms: shape.head_norms.map(|(both, together)| {
            let widths = match together {
                HeadNorm::Each => [a.heads.dim; 2],
                HeadNorm::All => [q, kv],
            };
            [0, 1].map(|i| names.norm(&at(both[i]), widths[i], &a.norm))
        }),
        output: names.linear(at(shape.output), [q, a.hidden], shape.output_bias, shape.transposed),
        attention_post_norm: shape.attention_post_norm.map(|name| names.norm(&at(name), a.hidden, &a.norm)),
        mlp_norm: match shape.mlp_norm {
            // One norm for both.
            name if name == shape.attention_norm => attention_norm,
            name => name.map(|name| names.norm(&at(name), a.hidden, &a.norm)),
        },
        mlp: match a.experts.filter(|_| a.layers[index].sparse) {
            Some(shape) => FeedForward::Sparse(experts(names, a, shape, at)),
            None => FeedForward::Dense(mlp(names, a, at)),
        },
        mlp_post_norm: shape.mlp_post_norm.map(|name| names.norm(&at(name), a.hidden, &a.norm)),
        parallel: shape.parallel,
        residual_scale: a.residual_scale,
        hidden: a.hidden,
    }
}

fn mlp(names: &mut Names, a: &Architecture, at: impl Fn(&str) -> String) -> Mlp {
    let (hidden, inner) = (a.hidden, a.intermediate);
    let mut linear = |name: &str, width| names.linear(at(name), width, a.block.mlp_bias, a.block.transposed);
    let (projections, down) = match a.block.mlp {
        MlpShape::Plain { up, down } => (vec![linear(up, [hidden, inner])], down),
        MlpShape::Gated { gate, up, down } => {
            (vec![linear(gate, [hidden, inner]), linear(up, [hidden, inner])], down)
        }
        MlpShape::JointGated { gate_up, down } => (vec![linear(gate_up, [hidden, 2 * inner])], down),
    };
    Mlp {
        activation: a.block.activation,
        width: inner,
        inner: projections,
        joint: matches!(a.block.mlp, MlpShape::JointGated { .. }),
        down: linear(down, [inner, hidden]),
    }
}

fn experts(names: &mut Names, a: &Architecture, shape: ExpertsShape, at: impl Fn(&str) -> String) -> Experts {
    let (inward, outward) = ([a.hidden, shape.width], [shape.width, a.hidden]);
    let expert = |names: &mut Names, index: usize| {
        let mut linear = |name: &str, width| {
            names.linear(at(&format!("{}.{index}.{name}", shape.experts)), width, false, false)
        };
        let [gate, up, down] = shape.projections;
        Mlp {
            activation: a.block.activation,
            width: shape.width,
            inner: vec![linear(gate, inward), linear(up, inward)],
            joint: false,
            down: linear(down, outward),
        }
    };
    Experts {
        router: names.linear(at(shape.router), [a.hidden, shape.count], false, false),
        experts: (0..shape.count).map(|index| expert(names, index)).collect(),
        chosen: shape.chosen,
        normalised: shape.normalised,
        hidden: a.hidden,
        #[cfg(feature = "conformance")]
        held: None,
    }
}
