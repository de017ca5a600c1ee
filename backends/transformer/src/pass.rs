//! A pass over a batch: forward to the log-probs, and back from their gradient.

use spo_api::{LogProbs, Result, Statistics, Upstream};

use crate::block::Wiring;
use crate::decoder::{Keep, Traces};
use crate::engine::{Engine, HeadScores, Precision};
use crate::packing::Packed;
use crate::session::TransformerSession;

/// A forward pass, with what the way back needs of it.
pub(crate) struct Pass<E: Engine> {
    pub packed: Packed,
    wiring: Wiring<E>,
    traces: Traces<E>,
    last: E::Tensor,
    /// Hidden states of the scored rows before the final norm, and after.
    hidden: [E::Tensor; 2],
    pub scores: HeadScores,
}

impl<E: Engine> Pass<E> {
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

pub(crate) fn log_probs_of(scores: &HeadScores, packed: &Packed) -> LogProbs {
    LogProbs {
        values: packed.spread(&scores.log_probs),
        offsets: packed.offsets.clone(),
        entropy: packed.spread(&scores.entropy),
        collision: packed.spread(&scores.collision),
        greedy: packed.spread(&scores.greedy),
    }
}

impl<E: Engine> TransformerSession<E> {
    /// Forward, of a batch that has something to score.
    pub(crate) fn pass(&self, packed: Packed, keep: Keep, statistics: Statistics) -> Result<Pass<E>> {
        let (e, p) = (&self.engine, &self.parameters);
        let wiring = self.decoder.wiring(e, &packed.rows)?;
        let (last, traces) = self.decoder.forward(e, p, &packed.rows, &wiring, keep)?;
        let hidden = self.hidden(&last, &packed.scored)?;
        let scores = e.score(&hidden[1], self.head(), &packed.targets, statistics)?;
        Ok(Pass { packed, wiring, traces, last, hidden, scores })
    }

    /// Forgets the scored rows but these.
    pub(crate) fn narrow(&self, pass: &mut Pass<E>, rows: &[usize]) -> Result<()> {
        let Pass { packed, scores, .. } = pass;
        packed.scored = rows.iter().map(|&i| packed.scored[i]).collect();
        packed.targets = rows.iter().map(|&i| packed.targets[i]).collect();
        scores.log_normalizers = rows.iter().map(|&i| scores.log_normalizers[i]).collect();
        pass.hidden = self.hidden(&pass.last, &pass.packed.scored)?;
        Ok(())
    }

    /// Back, from the gradient of what the head read. That of the head itself is collected already.
    pub(crate) fn back(&self, pass: Pass<E>, d_hidden: E::Tensor) -> Result<()> {
        let (e, p) = (&self.engine, &self.parameters);
        let Pass { packed, wiring, traces, last, hidden, .. } = pass;
        let d_before = self.decoder.norm().backward(e, p, &hidden[0], &d_hidden)?;
        let d_last =
            e.zeros(&[packed.rows.ids.len(), self.decoder.architecture.hidden], Precision::Compute)?;
        e.scatter_add(&d_last, &packed.scored, &d_before)?;
        drop((last, hidden, d_hidden, d_before));
        self.decoder.backward(e, p, &packed.rows, &wiring, traces, d_last)
    }
}
