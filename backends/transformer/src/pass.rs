//! A pass over a batch: forward to the log-probs, and backward from their gradient.

use spo_api::{LogProbs, Result, Statistics, Upstream};

use crate::decoder::{Balance, Completed, Forward, Keep, Traces, Wiring};
use crate::engine::{Engine, HeadScores, Memory, Precision};
use crate::model::Model;
use crate::packing::Packed;

/// A forward pass, with what the backward pass needs.
pub(crate) struct Pass<E: Engine> {
    pub packed: Packed,
    wiring: Wiring<E::Tensor>,
    traces: Traces<E::Tensor>,
    last: E::Tensor,
    /// Hidden states of the scored rows before the final norm, and as the head reads them.
    hidden: [E::Tensor; 2],
    pub scores: HeadScores,
    /// For the routers' loss, where the batch was packed for it.
    balance: Option<Balance>,
}

impl<E: Engine> Pass<E> {
    /// Runs the forward pass. The batch must have at least one token to score.
    pub fn forward(
        e: &E,
        model: &Model<E>,
        packed: Packed,
        keep: Keep,
        statistics: Statistics,
    ) -> Result<Self> {
        let decoder = &model.decoder;
        let wiring = decoder.wiring(e, &packed.rows)?;
        let Forward { last, traces, balance } =
            decoder.forward(e, &model.parameters, &packed.rows, &wiring, keep)?;
        let hidden = hidden(e, model, &last, &packed.scored)?;
        let scores = e.score(&hidden[1], model.head(), &packed.targets, statistics)?;
        Ok(Pass { packed, wiring, traces, last, hidden, scores, balance })
    }

    /// Keeps only these of the scored rows.
    pub fn narrow(&mut self, e: &E, model: &Model<E>, rows: &[usize]) -> Result<()> {
        let Pass { packed, scores, .. } = self;
        packed.scored = rows.iter().map(|&i| packed.scored[i]).collect();
        packed.targets = rows.iter().map(|&i| packed.targets[i]).collect();
        scores.log_normalizers = rows.iter().map(|&i| scores.log_normalizers[i]).collect();
        self.hidden = hidden(e, model, &self.last, &self.packed.scored)?;
        Ok(())
    }

    /// Lets the backward pass add the gradient of `weight` times the routers' loss. Returns the loss, if there is one.
    pub fn balance(&mut self, weight: f64) -> Option<f64> {
        let balance = self.balance.take()?;
        let loss = balance.loss();
        self.wiring.of_loss = Some(balance.slopes(weight));
        Some(loss)
    }

    /// Runs the backward pass from the gradient of the head's input. The gradient of the head itself must
    /// already have been added. `completed` is called after each [group](crate::decoder::Decoder::completed_together).
    pub fn back(
        self,
        e: &E,
        model: &Model<E>,
        d_hidden: E::Tensor,
        completed: &mut Completed<'_>,
    ) -> Result<()> {
        let (decoder, p) = (&model.decoder, &model.parameters);
        let Pass { packed, wiring, traces, last, hidden, .. } = self;
        let d_before = decoder.head_input_backward(e, p, &hidden, &packed.scored, d_hidden)?;
        let d_last =
            e.memory().zeros(&[packed.rows.ids.len(), decoder.architecture.hidden], Precision::Compute)?;
        e.scatter_add(&d_last, &packed.scored, &d_before)?;
        drop((last, hidden, d_before));
        completed()?;
        decoder.backward(e, p, &packed.rows, &wiring, (traces, d_last), completed)
    }

    /// The input of the head.
    pub fn hidden(&self) -> &E::Tensor {
        &self.hidden[1]
    }

    pub fn log_probs(&self) -> LogProbs {
        log_probs_of(&self.scores, &self.packed)
    }

    /// The weight of each scored token, gathered from the upstream gradient.
    pub fn weights(&self, log_probs: &LogProbs, upstream: &mut Upstream<'_>) -> Result<Vec<f64>> {
        let given = log_probs.upstream(upstream)?;
        let mut weights = vec![0.0; self.packed.targets.len()];
        for (&place, weight) in self.packed.places.iter().zip(given) {
            weights[place] += weight;
        }
        Ok(weights)
    }
}

/// Hidden states of the given rows of the last block's output, before the final norm and as the head reads them.
fn hidden<E: Engine>(e: &E, model: &Model<E>, last: &E::Tensor, rows: &[u32]) -> Result<[E::Tensor; 2]> {
    let before = e.gather(last, rows)?;
    let after = model.decoder.head_input(e, &model.parameters, &before, rows)?;
    Ok([before, after])
}

pub(crate) fn log_probs_of(scores: &HeadScores, packed: &Packed) -> LogProbs {
    let mut found = LogProbs::new(packed.spread(&scores.log_probs), packed.offsets.clone());
    found.entropy = packed.spread(&scores.entropy);
    found.collision = packed.spread(&scores.collision);
    found.greedy = packed.spread(&scores.greedy);
    found
}
