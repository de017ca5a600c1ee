//! The decoder: which parameters an architecture has, and how they make hidden states of tokens.

use spo_api::Result;

use crate::block::{Block, Cache, Projections, Trace, Wiring};
use crate::config::{Architecture, Family};
use crate::engine::{Cluster, Engine, Heads, Norm, NormKind, Precision, Rotation};
use crate::linear::{Linear, LowRank};
use crate::mlp::Mlp;
use crate::parameters::{Id, Parameters, Role, Spec};

pub(crate) struct Decoder {
    pub architecture: Architecture,
    pub specs: Vec<Spec>,
    pub blocks: Vec<Block>,
    tokens: Id,
    positions: Option<Id>,
    norm: Norm<Id>,
    /// The head: the embedding table itself where they are tied.
    pub head: Id,
    /// The adapters that were attached, each with the weight it is added to.
    pub adapted: Vec<(Id, LowRank)>,
}

/// What a forward pass reads: packed rows, a token each.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Rows {
    pub ids: Vec<u32>,
    pub positions: Vec<u32>,
    pub clusters: Vec<Cluster>,
}

/// What the backward pass of the blocks needs.
pub(crate) enum Traces<E: Engine> {
    /// Every block's.
    All(Vec<Trace<E::Tensor>>),
    /// The blocks' inputs only: each block is computed again.
    Inputs(Vec<E::Tensor>),
}

/// What a forward pass keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    Nothing,
    Inputs,
    All,
}

impl Decoder {
    pub fn new(architecture: Architecture) -> Self {
        let a = &architecture;
        let mut specs = Vec::new();
        let mut names = Names { specs: &mut specs, epsilon: a.epsilon, family: a.family };
        let (tokens, positions, blocks, norm) = match a.family {
            Family::Llama => {
                let tokens = names.matrix("model.embed_tokens.weight", a.vocabulary, a.hidden);
                let blocks = (0..a.layers).map(|i| names.llama_block(a, i)).collect();
                (tokens, None, blocks, names.norm("model.norm", a.hidden))
            }
            Family::Gpt2 => {
                let tokens = names.matrix("transformer.wte.weight", a.vocabulary, a.hidden);
                let positions = names.matrix("transformer.wpe.weight", a.context, a.hidden);
                let blocks = (0..a.layers).map(|i| names.gpt2_block(a, i)).collect();
                (tokens, Some(positions), blocks, names.norm("transformer.ln_f", a.hidden))
            }
        };
        let head = if a.tied { tokens } else { names.matrix("lm_head.weight", a.vocabulary, a.hidden) };
        Decoder { architecture, specs, blocks, tokens, positions, norm, head, adapted: Vec::new() }
    }

    pub fn heads(&self) -> Heads {
        let a = &self.architecture;
        Heads { heads: a.heads, kv_heads: a.kv_heads, dim: a.head_dim }
    }

    /// Numbers that the backward pass needs of each token, over all blocks.
    pub fn traced_per_token(&self) -> usize {
        let a = &self.architecture;
        let (q, kv) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
        let mlp = |block: &Block| a.intermediate * if block.mlp.gate.is_some() { 2 } else { 1 };
        self.blocks.iter().map(|block| 2 * a.hidden + 2 * q + 2 * kv + mlp(block)).sum()
    }

    pub fn wiring<E: Engine>(&self, e: &E, rows: &Rows) -> Result<Wiring<E>> {
        let rotation = match &self.architecture.rope {
            None => None,
            Some(rope) => {
                let dim = self.architecture.head_dim;
                let [cos, sin] = rope.tables(&rows.positions, dim);
                let upload = |table| e.upload(table, &[rows.ids.len(), dim / 2], Precision::Full);
                Some(Rotation { cos: upload(cos)?, sin: upload(sin)? })
            }
        };
        Ok(Wiring { heads: self.heads(), rotation, clusters: rows.clusters.clone() })
    }

    /// The last block's output.
    pub fn forward<E: Engine>(
        &self,
        e: &E,
        p: &Parameters<E>,
        rows: &Rows,
        wiring: &Wiring<E>,
        keep: Keep,
    ) -> Result<(E::Tensor, Traces<E>)> {
        let mut x = self.embed(e, p, rows)?;
        let (mut traces, mut inputs) = (Vec::new(), Vec::new());
        for block in &self.blocks {
            if keep == Keep::Inputs {
                inputs.push(x.clone());
            }
            let trace;
            (x, trace) = block.forward(e, p, x, wiring, None)?;
            if keep == Keep::All {
                traces.push(trace);
            }
        }
        Ok((x, if keep == Keep::Inputs { Traces::Inputs(inputs) } else { Traces::All(traces) }))
    }

    /// As [`forward`](Self::forward), reading and extending the caches of all blocks.
    pub fn extend<E: Engine>(
        &self,
        e: &E,
        p: &Parameters<E>,
        rows: &Rows,
        caches: &[Cache<E::Tensor>],
        cached: &[u32],
    ) -> Result<E::Tensor> {
        let wiring = self.wiring(e, rows)?;
        let mut x = self.embed(e, p, rows)?;
        for (block, cache) in self.blocks.iter().zip(caches) {
            (x, _) = block.forward(e, p, x, &wiring, Some((cache, cached)))?;
        }
        Ok(x)
    }

    /// Adds the gradients of everything below the final norm, given that of the last block's output.
    pub fn backward<E: Engine>(
        &self,
        e: &E,
        p: &Parameters<E>,
        rows: &Rows,
        wiring: &Wiring<E>,
        traces: Traces<E>,
        mut upstream: E::Tensor,
    ) -> Result<()> {
        match traces {
            Traces::All(traces) => {
                for (block, trace) in self.blocks.iter().zip(traces).rev() {
                    upstream = block.backward(e, p, trace, upstream, wiring)?;
                }
            }
            Traces::Inputs(inputs) => {
                for (block, input) in self.blocks.iter().zip(inputs).rev() {
                    let (_, trace) = block.forward(e, p, input, wiring, None)?;
                    upstream = block.backward(e, p, trace, upstream, wiring)?;
                }
            }
        }
        if let Some(gradient) = p.gradient(self.tokens) {
            e.scatter_add(gradient, &rows.ids, &upstream)?;
        }
        if let Some(gradient) = self.positions.and_then(|id| p.gradient(id)) {
            e.scatter_add(gradient, &rows.positions, &upstream)?;
        }
        Ok(())
    }

    /// The final norm, for rows of the last block's output.
    pub fn norm(&self) -> &Norm<Id> {
        &self.norm
    }

    fn embed<E: Engine>(&self, e: &E, p: &Parameters<E>, rows: &Rows) -> Result<E::Tensor> {
        let x = e.gather(p.value(self.tokens), &rows.ids)?;
        if let Some(id) = self.positions {
            e.axpy(&x, 1.0, &e.gather(p.value(id), &rows.positions)?)?;
        }
        Ok(x)
    }
}

/// Hands out ids while it writes down what the parameters are.
struct Names<'a> {
    specs: &'a mut Vec<Spec>,
    epsilon: f64,
    family: Family,
}

impl Names<'_> {
    fn add(&mut self, name: String, shape: Vec<usize>, role: Role, transposed: bool) -> Id {
        self.specs.push(Spec { name, shape, role, transposed });
        self.specs.len() - 1
    }

    fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Id {
        self.add(name.to_owned(), vec![rows, columns], Role::Matrix, false)
    }

    fn norm(&mut self, name: &str, width: usize) -> Norm<Id> {
        let weight = self.add(format!("{name}.weight"), vec![width], Role::Gain, false);
        let (kind, biased) = match self.family {
            Family::Llama => (NormKind::Rms, false),
            Family::Gpt2 => (NormKind::Layer, true),
        };
        let bias = biased.then(|| self.add(format!("{name}.bias"), vec![width], Role::Bias, false));
        Norm { kind, epsilon: self.epsilon, weight, bias }
    }

    fn linear(&mut self, name: String, input: usize, output: usize, bias: bool) -> Linear {
        let transposed = self.family == Family::Gpt2;
        let weight = self.add(format!("{name}.weight"), vec![output, input], Role::Matrix, transposed);
        let bias = bias.then(|| self.add(format!("{name}.bias"), vec![output], Role::Bias, false));
        Linear { name, weight, bias, adapter: None }
    }

    fn llama_block(&mut self, a: &Architecture, index: usize) -> Block {
        let at = |name: &str| format!("model.layers.{index}.{name}");
        let (q, kv) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
        Block {
            attention_norm: self.norm(&at("input_layernorm"), a.hidden),
            projections: Projections::Separate(Box::new([
                self.linear(at("self_attn.q_proj"), a.hidden, q, a.qkv_bias),
                self.linear(at("self_attn.k_proj"), a.hidden, kv, a.qkv_bias),
                self.linear(at("self_attn.v_proj"), a.hidden, kv, a.qkv_bias),
            ])),
            head_norms: a.qk_norm.then(|| {
                [
                    self.norm(&at("self_attn.q_norm"), a.head_dim),
                    self.norm(&at("self_attn.k_norm"), a.head_dim),
                ]
            }),
            output: self.linear(at("self_attn.o_proj"), q, a.hidden, a.output_bias),
            mlp_norm: self.norm(&at("post_attention_layernorm"), a.hidden),
            mlp: Mlp {
                activation: a.activation,
                gate: Some(self.linear(at("mlp.gate_proj"), a.hidden, a.intermediate, a.mlp_bias)),
                up: self.linear(at("mlp.up_proj"), a.hidden, a.intermediate, a.mlp_bias),
                down: self.linear(at("mlp.down_proj"), a.intermediate, a.hidden, a.mlp_bias),
            },
        }
    }

    fn gpt2_block(&mut self, a: &Architecture, index: usize) -> Block {
        let at = |name: &str| format!("transformer.h.{index}.{name}");
        Block {
            attention_norm: self.norm(&at("ln_1"), a.hidden),
            projections: Projections::Joint(self.linear(at("attn.c_attn"), a.hidden, 3 * a.hidden, true)),
            head_norms: None,
            output: self.linear(at("attn.c_proj"), a.hidden, a.hidden, true),
            mlp_norm: self.norm(&at("ln_2"), a.hidden),
            mlp: Mlp {
                activation: a.activation,
                gate: None,
                up: self.linear(at("mlp.c_fc"), a.hidden, a.intermediate, true),
                down: self.linear(at("mlp.c_proj"), a.intermediate, a.hidden, true),
            },
        }
    }
}
