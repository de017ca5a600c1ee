//! How steep a preference loss is where it prefers neither answer.

use spo_api::{Evaluation, Layout, Objective, PreferenceBatch, Ragged, Result, Side};
use spo_data::Dataset;

/// The slope of DPO with `beta = 0.1`: half of beta on either side.
const DPO: f64 = 0.1;

/// The mean length of the first answers, in tokens, rounded.
pub(super) fn mean_answer(data: &Dataset) -> usize {
    let lengths = data.examples.iter().map(|example| example.lengths.answer as usize);
    let total: usize = lengths.sum();
    (total as f64 / data.examples.len() as f64).round().max(1.0) as usize
}

/// The size of an objective's gradient per token, as a multiple of DPO's, on answers of this length that policy and
/// reference find equally probable; 1 for an objective that is flat there. No model is asked: the figure belongs to the
/// objective and the lengths alone.
pub(super) fn slope(objective: &mut dyn Objective, layout: Layout, tokens: usize) -> Result<f64> {
    // Two rows on either side, because some losses compare rows.
    let values = vec![-1.0; 2 * tokens];
    let offsets = [0, tokens, 2 * tokens];
    let answers = Ragged::new(&values, &offsets)?;
    let side = Side { policy: answers, reference: Some(answers), collision: Some(answers) };
    let nothing = Ragged::empty();
    let absent = Side { policy: nothing, reference: Some(nothing), collision: Some(nothing) };
    let rejected = if layout == Layout::Demonstrations { absent } else { side };
    let needs = objective.requirements();
    let batch = PreferenceBatch {
        mismatched: needs.mismatched.then_some(side),
        gaps: needs.gaps.then_some(&[1.0, 1.0]),
        ..PreferenceBatch::new(layout, side, rejected)?
    };
    // The running values of the objective are none of this batch's business.
    let state = objective.state();
    let mut evaluation = Evaluation::default();
    let outcome = evaluation.compute(objective, &batch);
    objective.restore(&state)?;
    outcome?;
    let Evaluation { grad_chosen, grad_rejected, .. } = &evaluation;
    let size: f64 = grad_chosen.iter().chain(grad_rejected).map(|g| g.abs()).sum();
    let slope = size / tokens as f64 / DPO;
    Ok(if slope.is_finite() && slope > 0.0 { slope } else { 1.0 })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use spo_api::Registry;

    use super::*;

    fn of(name: &str, config: Value, tokens: usize) -> f64 {
        let mut objective = Registry::linked().unwrap().objective(name, &config).unwrap();
        let layout = objective.requirements().data;
        let before = objective.state();
        let slope = slope(&mut *objective, layout, tokens).unwrap();
        assert_eq!(objective.state(), before, "{name}");
        slope
    }

    #[test]
    fn slopes_are_those_of_the_formulas() {
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} is not {b}");
        close(of("dpo", json!({ "beta": 0.1 }), 7), 1.0);
        close(of("dpo", json!({ "beta": 0.5 }), 4), 5.0);
        // beta sigmoid(gamma) / length on either side, gamma = 0.5.
        let sigmoid = 1.0 / (1.0 + (-0.5_f64).exp());
        close(of("simpo", json!({ "beta": 2.0, "gamma": 0.5 }), 4), 2.0 * 2.0 * sigmoid / 4.0 / 0.1);
        // (h - 1/(2 beta))^2 with h per token: 1 / (beta length) on either side.
        close(of("ipo", json!({ "beta": 0.1 }), 4), 2.0 / (0.1 * 4.0) / 0.1);
    }

    #[test]
    fn every_objective_has_one() {
        let registry = Registry::linked().unwrap();
        for entry in registry.of_kind("objective") {
            let mut objective = registry.objective(entry.name, &json!({})).unwrap();
            let layout = objective.requirements().data;
            let slope = slope(&mut *objective, layout, 5).unwrap();
            assert!((1e-3..1e4).contains(&slope), "{}: {slope}", entry.name);
        }
    }
}
