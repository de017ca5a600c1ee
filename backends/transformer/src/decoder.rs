//! The decoder: the parameters of an architecture, and the pass from tokens to hidden states.

mod balance;
mod block;
mod dropout;
mod ends;
mod experts;
mod feed_forward;
mod layout;
mod linear;
mod mlp;
mod names;
mod norm;
mod routing;
mod row_norms;
mod wiring;

use std::ops::Range;

use half::bf16;
use spo_api::Result;

pub(crate) use balance::Balance;
pub(crate) use block::KvCache;
use block::{Block, Trace};
pub(crate) use dropout::{Dropout, Dropping, follow};
use ends::Ends;
use layout::Layout;
pub(crate) use linear::{LowRank, Scaled};
pub(crate) use row_norms::RowNorms;
pub(crate) use wiring::{Rows, Wiring};

use crate::config::{Architecture, Names};
use crate::engine::{Engine, Head, Memory, Norm};
use crate::parameters::{Id, Parameters, Role, Spec};

pub(crate) struct Decoder {
    pub architecture: Architecture,
    pub specs: Vec<Spec>,
    blocks: Vec<Block>,
    /// The ids of each block's parameters.
    spans: Vec<Range<Id>>,
    tokens: Id,
    positions: Option<Id>,
    /// The final norm.
    norm: Norm<Id>,
    /// The head. If tied, its weight is the embedding table.
    pub head: Head<Id>,
    /// The adapters, each with the id of the weight it is added to.
    pub adapted: Vec<(Id, LowRank)>,
    /// Those of the embedding table and the head.
    ends: Ends,
}

/// What the backward pass of the blocks needs from the forward pass.
pub(crate) enum Traces<T> {
    /// The traces of all blocks.
    All(Vec<Trace<T>>),
    /// Only the inputs of the blocks: each block is recomputed in the backward pass.
    Inputs(Vec<T>),
}

/// What a forward pass found.
pub(crate) struct Forward<T> {
    /// The output of the last block.
    pub last: T,
    pub traces: Traces<T>,
    /// For the routers' loss, where [`Rows::copies`] are counted.
    pub balance: Option<Balance>,
}

/// What a forward pass keeps for the backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    Nothing,
    Inputs,
    All,
}

/// Called when the gradients of a group of parameters are complete.
pub(crate) type Completed<'a> = dyn FnMut() -> Result<()> + 'a;

impl Decoder {
    pub fn new(architecture: Architecture) -> Self {
        let a = &architecture;
        let mut names = names::Names::default();
        let Layout { tokens, positions, blocks, spans, norm, head } = Layout::new(&mut names, a);
        let specs = names.specs;
        Decoder {
            architecture,
            specs,
            blocks,
            spans,
            tokens,
            positions,
            norm,
            head,
            adapted: Vec::new(),
            ends: Ends::default(),
        }
    }

    /// Freezes all parameters, and adds an adapter to every linear layer for which `wanted` returns one, and to the embedding
    /// table and the head, which are not tied then.
    pub fn adapt(&mut self, mut wanted: impl FnMut(&str) -> Option<Scaled>) {
        self.specs.iter_mut().for_each(|spec| spec.trained = false);
        for linear in self.blocks.iter_mut().flat_map(Block::linears_mut) {
            let Some(scaled) = wanted(&linear.name) else { continue };
            let low_rank = LowRank::of_linear(&mut self.specs, linear.weight, &linear.name, scaled);
            self.adapted.push((linear.weight, low_rank));
            linear.adapter = Some(low_rank);
        }
        let Names { table, head, .. } = self.architecture.names;
        if let Some(scaled) = wanted(table) {
            let low_rank = LowRank::of_embedding(&mut self.specs, self.tokens, table, scaled);
            self.adapted.push((self.tokens, low_rank));
            self.ends.table = Some(low_rank);
        }
        if let Some(scaled) = wanted(head) {
            let low_rank = LowRank::of_linear(&mut self.specs, self.head.weight, head, scaled);
            self.adapted.push((self.head.weight, low_rank));
            self.head.low_rank = Some(low_rank.b);
            self.ends.head = Some(low_rank);
        }
    }

    /// Shows the name of every linear layer of the blocks.
    pub fn visit_linears(&mut self, mut show: impl FnMut(&str)) {
        self.blocks.iter_mut().flat_map(Block::linears_mut).for_each(|linear| show(&linear.name));
    }

    /// The table of learned positions, if there is one.
    pub fn positions(&self) -> Option<Id> {
        self.positions
    }

    /// Whether a parameter is the matrix of a linear layer in a block.
    pub fn is_linear(&self, id: Id) -> bool {
        self.specs[id].role == Role::Matrix
            && ![Some(self.tokens), self.positions, Some(self.head.weight)].contains(&Some(id))
    }

    /// Whether a parameter is the embedding table, or belongs to the head.
    pub fn is_of_ends(&self, spec: &Spec) -> bool {
        let Names { table, head, .. } = self.architecture.names;
        let module = spec.name.rsplit_once('.').map(|(module, _)| module);
        !spec.role.of_adapter() && [Some(table), Some(head)].contains(&module)
    }

    /// Whether a parameter is the matrix of a router.
    pub fn is_router(&self, id: Id) -> bool {
        let router = self.architecture.experts.map(|experts| format!(".{}.weight", experts.router));
        router.is_some_and(|router| self.specs[id].name.ends_with(&router))
    }

    /// Whether a parameter belongs to an expert.
    pub fn is_of_expert(&self, id: Id) -> bool {
        let experts = self.architecture.experts.map(|experts| format!(".{}.", experts.experts));
        experts.is_some_and(|experts| self.specs[id].name.contains(&experts))
    }

    /// Elements per token that the backward pass needs, over all blocks.
    pub fn traced_per_token(&self) -> usize {
        let a = &self.architecture;
        let (q, kv) = (a.heads.heads * a.heads.dim, a.heads.kv_heads * a.heads.dim);
        self.blocks
            .iter()
            .map(|block| block.residuals() * a.hidden + 2 * q + 2 * kv + block.mlp.traced())
            .sum()
    }

    pub fn wiring<E: Engine>(&self, e: &E, rows: &Rows) -> Result<Wiring<E::Tensor>> {
        Wiring::new(e, &self.architecture, rows)
    }

    /// From tokens to the output of the last block.
    pub fn forward<E: Engine>(
        &self,
        e: &E,
        p: &Parameters<E>,
        rows: &Rows,
        wiring: &Wiring<E::Tensor>,
        keep: Keep,
    ) -> Result<Forward<E::Tensor>> {
        let experts = self.architecture.experts.filter(|_| !rows.copies.is_empty());
        let mut balance = experts.map(|experts| Balance::new(experts.count, &rows.copies));
        let mut x = self.embed(e, p, rows)?;
        let (mut traces, mut inputs) = (Vec::new(), Vec::new());
        for (block, wiring) in self.blocks.iter().zip(wiring.blocks()) {
            if keep == Keep::Inputs {
                inputs.push(x.clone());
            }
            let trace;
            (x, trace) = block.forward(e, p, x, &wiring, None)?;
            if let (Some(balance), Some(routing)) = (&mut balance, trace.routing()) {
                balance.add(routing);
            }
            if keep == Keep::All {
                traces.push(trace);
            }
        }
        let traces = if keep == Keep::Inputs { Traces::Inputs(inputs) } else { Traces::All(traces) };
        Ok(Forward { last: x, traces, balance })
    }

    /// Like [`forward`](Self::forward), but reads and extends the caches of all blocks.
    pub fn extend<E: Engine>(
        &self,
        e: &E,
        p: &Parameters<E>,
        rows: &Rows,
        caches: &[KvCache<E::Tensor>],
        cached: &[u32],
    ) -> Result<E::Tensor> {
        let wiring = self.wiring(e, rows)?;
        let mut x = self.embed(e, p, rows)?;
        for ((block, wiring), cache) in self.blocks.iter().zip(wiring.blocks()).zip(caches) {
            (x, _) = block.forward(e, p, x, &wiring, Some((cache, cached)))?;
        }
        Ok(x)
    }

    /// The base parameters in groups whose gradients a backward pass completes at the same time, in the order in which it does:
    /// head and final norm, the blocks from the last to the first, the embeddings.
    pub fn completed_together(&self) -> Vec<Vec<Id>> {
        let embeddings = |&id: &Id| id == self.tokens || Some(id) == self.positions;
        let before = self.spans.first().map_or(0, |span| span.start);
        let after = self.spans.last().map_or(before, |span| span.end);
        let outside: Vec<Id> = (0..before).chain(after..self.specs.len()).collect();
        let (below, above) = outside.into_iter().partition(embeddings);
        let blocks = self.spans.iter().rev().map(|span| span.clone().collect());
        std::iter::once(above).chain(blocks).chain([below]).collect()
    }

    /// Lets the experts of later passes be those of a pass over the same rows, of which all traces were kept.
    #[cfg(feature = "conformance")]
    pub fn hold_choices<T>(&mut self, traces: &Traces<T>) {
        if let Traces::All(traces) = traces {
            self.blocks.iter_mut().zip(traces).for_each(|(block, trace)| block.hold_choices(trace));
        }
    }

    /// Adds the gradients of all parameters below the final norm, given the gradient of the last block's output.
    /// `completed` is called after each of the [groups](Self::completed_together) but the first.
    pub fn backward<E: Engine>(
        &self,
        e: &E,
        p: &Parameters<E>,
        rows: &Rows,
        wiring: &Wiring<E::Tensor>,
        (traces, mut upstream): (Traces<E::Tensor>, E::Tensor),
        completed: &mut Completed<'_>,
    ) -> Result<()> {
        let blocks = self.blocks.iter().zip(wiring.blocks());
        match traces {
            Traces::All(traces) => {
                for ((block, wiring), trace) in blocks.zip(traces).rev() {
                    upstream = block.backward(e, p, trace, upstream, &wiring)?;
                    completed()?;
                }
            }
            Traces::Inputs(inputs) => {
                for ((block, wiring), input) in blocks.zip(inputs).rev() {
                    let (_, trace) = block.forward(e, p, input, &wiring, None)?;
                    upstream = block.backward(e, p, trace, upstream, &wiring)?;
                    completed()?;
                }
            }
        }
        if let Some(gradient) = self.positions.and_then(|id| p.gradient(id)) {
            e.scatter_add(gradient, &rows.positions, &upstream)?;
        }
        let gradient = p.gradient(self.tokens);
        if gradient.is_some() || self.ends.table.is_some() {
            self.scale_embeddings(e, &upstream)?;
        }
        if let Some(gradient) = gradient {
            e.scatter_add(gradient, &rows.ids, &upstream)?;
        }
        self.ends.table_backward(e, p, &rows.ids, &upstream)?;
        completed()
    }

    fn embed<E: Engine>(&self, e: &E, p: &Parameters<E>, rows: &Rows) -> Result<E::Tensor> {
        let x = p.rows(e, self.tokens, &rows.ids)?;
        self.ends.add_to_embeddings(e, p, &rows.ids, &x)?;
        self.scale_embeddings(e, &x)?;
        if let Some(id) = self.positions {
            e.axpy(&x, 1.0, &p.rows(e, id, &rows.positions)?)?;
        }
        Ok(x)
    }

    fn scale_embeddings<E: Engine>(&self, e: &E, x: &E::Tensor) -> Result<()> {
        match self.architecture.embedding_scale {
            1.0 => Ok(()),
            scale if e.memory().dtype() == "bf16" => e.scale(x, bf16::from_f64(scale).to_f64()),
            scale => e.scale(x, f64::from(scale as f32)),
        }
    }

    /// The rank of the head's adapter.
    pub fn head_rank(&self) -> Option<usize> {
        self.ends.head.map(|low_rank| low_rank.rank)
    }

    /// What the head reads, given rows of the output of the last block: normalised, and with the factor of the logits; beside
    /// it, what its adapter makes of it. `scored` says which of the rows of the pass they are.
    pub fn head_input<E: Engine>(
        &self,
        e: &E,
        p: &Parameters<E>,
        x: &E::Tensor,
        scored: &[u32],
    ) -> Result<E::Tensor> {
        let normed = self.norm.forward(e, p, x)?;
        self.scale_logits(e, &normed)?;
        self.ends.reduced(e, p, normed, scored)
    }

    /// The gradient of the output of the last block, given those rows of it, what the head read of them, and the gradient of
    /// that, which may be overwritten.
    pub fn head_input_backward<E: Engine>(
        &self,
        e: &E,
        p: &Parameters<E>,
        [before, read]: &[E::Tensor; 2],
        scored: &[u32],
        upstream: E::Tensor,
    ) -> Result<E::Tensor> {
        let upstream = self.ends.reduced_backward(e, p, read, scored, upstream)?;
        self.scale_logits(e, &upstream)?;
        self.norm.backward(e, p, before, &upstream)
    }

    fn scale_logits<E: Engine>(&self, e: &E, x: &E::Tensor) -> Result<()> {
        match self.architecture.logits_scale {
            1.0 => Ok(()),
            scale => e.scale(x, scale),
        }
    }
}
