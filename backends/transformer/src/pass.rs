//! A pass over a batch: forward to the log-probs, and back from their gradient.

use spo_api::{LogProbs, Result, Statistics, Upstream};

use crate::decoder::{Keep, Traces, Wiring};
use crate::engine::{Engine, HeadScores, Memory, Precision};
use crate::model::Model;
use crate::packing::Packed;

/// A forward pass, with what the way back needs of it.
pub(crate) struct Pass<E: Engine> {
    pub packed: Packed,
    wiring: Wiring<E::Tensor>,
    traces: Traces<E::Tensor>,
    last: E::Tensor,
    /// Hidden states of the scored rows before the final norm, and after.
    hidden: [E::Tensor; 2],
    pub scores: HeadScores,
}

impl<E: Engine> Pass<E> {
    /// Forward, of a batch that has something to score.
    pub fn forward(
        e: &E,
        model: &Model<E>,
        packed: Packed,
        keep: Keep,
        statistics: Statistics,
    ) -> Result<Self> {
        let decoder = &model.decoder;
        let wiring = decoder.wiring(e, &packed.rows)?;
        let (last, traces) = decoder.forward(e, &model.parameters, &packed.rows, &wiring, keep)?;
        let hidden = hidden(e, model, &last, &packed.scored)?;
        let scores = e.score(&hidden[1], model.head(), &packed.targets, statistics)?;
        Ok(Pass { packed, wiring, traces, last, hidden, scores })
    }

    /// Forgets the scored rows but these.
    pub fn narrow(&mut self, e: &E, model: &Model<E>, rows: &[usize]) -> Result<()> {
        let Pass { packed, scores, .. } = self;
        packed.scored = rows.iter().map(|&i| packed.scored[i]).collect();
        packed.targets = rows.iter().map(|&i| packed.targets[i]).collect();
        scores.log_normalizers = rows.iter().map(|&i| scores.log_normalizers[i]).collect();
        self.hidden = hidden(e, model, &self.last, &self.packed.scored)?;
        Ok(())
    }

    /// Back, from the gradient of what the head read. That of the head itself is collected already.
    pub fn back(self, e: &E, model: &Model<E>, d_hidden: E::Tensor) -> Result<()> {
        let (decoder, p) = (&model.decoder, &model.parameters);
        let Pass { packed, wiring, traces, last, hidden, .. } = self;
        let d_before = decoder.norm.backward(e, p, &hidden[0], &d_hidden)?;
        let d_last =
            e.memory().zeros(&[packed.rows.ids.len(), decoder.architecture.hidden], Precision::Compute)?;
        e.scatter_add(&d_last, &packed.scored, &d_before)?;
        drop((last, hidden, d_hidden, d_before));
        decoder.backward(e, p, &packed.rows, &wiring, traces, d_last)
    }

    /// What the head read.
    pub fn hidden(&self) -> &E::Tensor {
        &self.hidden[1]
    }

    pub fn log_probs(&self) -> LogProbs {
        log_probs_of(&self.scores, &self.packed)
    }

    /// The upstream gradient, gathered: the weight of each scored token.
    pub fn weights(&self, log_probs: &LogProbs, upstream: &mut Upstream<'_>) -> Result<Vec<f64>> {
        let given = log_probs.upstream(upstream)?;
        let mut weights = vec![0.0; self.packed.targets.len()];
        for (&place, weight) in self.packed.places.iter().zip(given) {
            weights[place] += weight;
        }
        Ok(weights)
    }
}

/// Hidden states of some rows of the last block's output, before and after the final norm.
fn hidden<E: Engine>(e: &E, model: &Model<E>, last: &E::Tensor, rows: &[u32]) -> Result<[E::Tensor; 2]> {
    let before = e.gather(last, rows)?;
    let after = model.decoder.norm.forward(e, &model.parameters, &before)?;
    Ok([before, after])
}

pub(crate) fn log_probs_of(scores: &HeadScores, packed: &Packed) -> LogProbs {
    let mut found = LogProbs::new(packed.spread(&scores.log_probs), packed.offsets.clone());
    found.entropy = packed.spread(&scores.entropy);
    found.collision = packed.spread(&scores.collision);
    found.greedy = packed.spread(&scores.greedy);
    found
}
