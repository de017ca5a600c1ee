//! What losses on unpaired answers share.

use spo_api::{Dual, Error, Evaluation, Layout, PreferenceBatch, Result};

/// What the data say of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Label {
    Desirable,
    Undesirable,
}

/// `beta (s - r)` of every answer, desirable ones first.
pub(super) fn rewards(batch: &PreferenceBatch<'_>, beta: f64) -> Result<Vec<f64>> {
    let mut rewards = Vec::with_capacity(batch.rows());
    for side in batch.sides() {
        let reference = side.reference()?;
        rewards.extend((0..reference.rows()).map(|i| beta * (side.policy.sum(i) - reference.sum(i))));
    }
    Ok(rewards)
}

/// Evaluates a formula on each answer's log-ratio.
pub(super) fn evaluate_each(
    batch: &PreferenceBatch<'_>,
    out: &mut Evaluation,
    beta: f64,
    loss: impl Fn(Dual<1>, Label) -> Dual<1>,
) -> Result<()> {
    if batch.layout != Layout::Unpaired {
        return Err(Error::Batch(format!("this objective needs unpaired answers, got {:?}", batch.layout)));
    }
    let mut row = 0;
    for (side, label, gradient, rewards) in [
        (&batch.chosen, Label::Desirable, &mut out.grad_chosen, &mut out.rewards.chosen),
        (&batch.rejected, Label::Undesirable, &mut out.grad_rejected, &mut out.rewards.rejected),
    ] {
        let reference = side.reference()?;
        for i in 0..reference.rows() {
            let log_ratio = side.policy.sum(i) - reference.sum(i);
            let loss = loss(Dual::input(log_ratio, 0), label);
            rewards.push(beta * log_ratio);
            out.losses[row] = loss.value;
            gradient[side.policy.range(i)].fill(loss.partials[0] / batch.whole.rows as f64);
            row += 1;
        }
    }
    Ok(())
}
