//! Code shared by the losses on unpaired answers.

use spo_api::{Dual, Error, EvaluationMut, Layout, PreferenceBatch, Result, Side};

/// The log-ratios of the desirable and of the undesirable answers.
pub(super) struct LogRatios {
    desirable: Vec<f64>,
    undesirable: Vec<f64>,
}

impl LogRatios {
    pub(super) fn new(batch: &PreferenceBatch<'_>) -> Result<Self> {
        if batch.layout != Layout::Unpaired {
            return Err(Error::Batch(format!(
                "this objective needs unpaired answers, got {:?}",
                batch.layout
            )));
        }
        let ratios = |side: &Side<'_>| -> Result<Vec<f64>> {
            let reference = side.reference()?;
            Ok((0..reference.rows()).map(|i| side.policy.sum(i) - reference.sum(i)).collect())
        };
        Ok(LogRatios { desirable: ratios(&batch.chosen)?, undesirable: ratios(&batch.rejected)? })
    }

    pub(super) fn mean(&self) -> f64 {
        let sum: f64 = self.desirable.iter().chain(&self.undesirable).sum();
        sum / (self.desirable.len() + self.undesirable.len()) as f64
    }

    /// Applies one formula to the log-ratio of each desirable answer and another to those of the undesirable
    /// ones. Rewards are `beta` times the log-ratios.
    pub(super) fn evaluate(
        &self,
        batch: &PreferenceBatch<'_>,
        out: &mut EvaluationMut<'_>,
        beta: f64,
        desirable: impl Fn(Dual<1>) -> Dual<1>,
        undesirable: impl Fn(Dual<1>) -> Dual<1>,
    ) {
        let rows = batch.whole.rows as f64;
        let (upper, lower) = out.losses.split_at_mut(self.desirable.len());
        for (i, &ratio) in self.desirable.iter().enumerate() {
            let loss = desirable(Dual::input(ratio, 0));
            upper[i] = loss.value;
            out.grad_chosen[batch.chosen.policy.range(i)].fill(loss.partials[0] / rows);
        }
        for (i, &ratio) in self.undesirable.iter().enumerate() {
            let loss = undesirable(Dual::input(ratio, 0));
            lower[i] = loss.value;
            out.grad_rejected[batch.rejected.policy.range(i)].fill(loss.partials[0] / rows);
        }
        out.rewards.chosen.extend(self.desirable.iter().map(|r| beta * r));
        out.rewards.rejected.extend(self.undesirable.iter().map(|r| beta * r));
    }
}
