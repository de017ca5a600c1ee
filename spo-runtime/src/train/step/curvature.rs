//! Hessian-vector products of a loss on demonstrations.
//!
//! Let `l` be the log-probs, `J` their Jacobian and `L` the objective. Then
//! `H v = sum_i L'_i (Hessian of l_i) v + J^T L'' J v`. The session computes the first term and `J v`. The
//! second term needs the derivative of the objective's gradient along `J v`, which takes no pass through the
//! model, and one more backward pass with that derivative as upstream gradient. For losses that are linear in
//! log-probs, such as SFT, the second term is 0 and costs nothing.

use spo_api::{LogProbs, Objective, Result, Session, Statistics, Tangent, Vector};
use spo_data::Dataset;

use crate::train::step::loss::evaluate;
use crate::train::step::rows::{Assembled, Batch};

/// Adds `H v` to `into`, where H is the Hessian of the objective on a batch of `rows`. The objective's state
/// is restored before every evaluation and at the end.
pub(crate) fn hessian_vector(
    session: &mut dyn Session,
    objective: &mut dyn Objective,
    (batch, rows): (&Batch, &Dataset),
    v: Vector,
    into: Vector,
) -> Result<()> {
    let state = objective.state();
    let done = batch.passes.iter().try_for_each(|pass| {
        let mut gradient = |seen: &LogProbs| -> Result<Vec<f64>> {
            objective.restore(&state)?;
            let assembled = Assembled::new(batch, [(pass, seen)], None, rows);
            let evaluation = evaluate(objective, &assembled, rows)?;
            Ok(assembled.upstream(|chosen, i| if chosen { evaluation.grad_chosen[i] } else { 0.0 }))
        };
        let tangent = session.hessian_vector(&pass.tokens, &mut gradient, v, into)?;
        let second = derivative(&mut gradient, &tangent)?;
        if second.iter().all(|w| *w == 0.0) {
            return Ok(());
        }
        session.vectors().zero(Vector::GRADIENT)?;
        session.backward(&pass.tokens, Statistics::default(), &mut |_| Ok(second.clone()))?;
        session.vectors().axpy(1.0, Vector::GRADIENT, into)
    });
    objective.restore(&state)?;
    done
}

/// The derivative of a function of log-probs along a tangent, by fourth-order central differences.
///
/// Losses vary on the scale of one nat of an answer's log-prob. With a displacement of a thousandth of a nat,
/// the relative errors of truncation and of rounding are both about 1e-12.
fn derivative(
    function: &mut dyn FnMut(&LogProbs) -> Result<Vec<f64>>,
    tangent: &Tangent,
) -> Result<Vec<f64>> {
    /// The smaller of the two displacements, in nats, of the answer that moves most.
    const DISPLACEMENT: f64 = 1e-3;
    let Tangent { log_probs, derivatives } = tangent;
    let moved = |answer: &[usize]| derivatives[answer[0]..answer[1]].iter().map(|d| d.abs()).sum::<f64>();
    let fastest = log_probs.offsets.windows(2).map(moved).fold(0.0, f64::max);
    let mut slopes = vec![0.0; derivatives.len()];
    if fastest == 0.0 {
        return Ok(slopes);
    }
    // No displaced log-prob may exceed 0, where formulas in terms of probabilities are undefined.
    let room = log_probs.values.iter().zip(derivatives).filter(|(l, d)| **l < 0.0 && **d != 0.0);
    let step = room.map(|(l, d)| -l / (4.0 * d.abs())).fold(DISPLACEMENT / fastest, f64::min);
    for (displacement, factor) in [(1.0, 8.0), (-1.0, -8.0), (2.0, -1.0), (-2.0, 1.0)] {
        let mut displaced = log_probs.clone();
        let values = displaced.values.iter_mut().zip(derivatives);
        values.for_each(|(l, d)| *l += displacement * step * d);
        let found = function(&displaced)?;
        slopes.iter_mut().zip(found).for_each(|(s, x)| *s += factor * x);
    }
    slopes.iter_mut().for_each(|s| *s /= 12.0 * step);
    Ok(slopes)
}
