//! How steep a preference loss is where it prefers neither answer.

use spo_api::{Columns, Evaluation, Layout, Objective, PreferenceBatch, Ragged, Result, Side};
use spo_data::Dataset;

/// The slope of DPO with `beta = 0.1`: half of beta on either side.
const DPO: f64 = 0.1;

/// What the rows of data are on average.
pub(super) struct MeanRow<'a> {
    /// The length of the first answer, in tokens, rounded.
    tokens: usize,
    columns: &'a [String],
    /// The number in each column.
    numbers: Vec<f64>,
}

impl<'a> MeanRow<'a> {
    pub(super) fn of(data: &'a Dataset) -> Self {
        let rows = data.examples.len() as f64;
        let scored =
            data.examples.iter().flat_map(|example| example.scored(0, example.lengths.answer as usize));
        let tokens: usize = scored.map(|span| span.len()).sum();
        let mean = |column: usize| data.examples.iter().map(|example| example.columns[column] / rows).sum();
        MeanRow {
            tokens: (tokens as f64 / rows).round().max(1.0) as usize,
            columns: &data.columns,
            numbers: (0..data.columns.len()).map(mean).collect(),
        }
    }
}

/// The size of an objective's gradient per token, as a multiple of DPO's, on answers of this length that policy and
/// reference find equally probable; 1 for an objective that is flat there. No model is asked: the figure belongs to the
/// objective and the data alone.
pub(super) fn slope(objective: &mut dyn Objective, layout: Layout, row: &MeanRow<'_>) -> Result<f64> {
    let tokens = row.tokens;
    // Two rows on either side, because some losses compare rows.
    let values = vec![-1.0; 2 * tokens];
    let offsets = [0, tokens, 2 * tokens];
    let answers = Ragged::new(&values, &offsets)?;
    let side = Side { policy: answers, reference: Some(answers), collision: Some(answers) };
    let nothing = Ragged::empty();
    let absent = Side { policy: nothing, reference: Some(nothing), collision: Some(nothing) };
    let rejected = if layout == Layout::Demonstrations { absent } else { side };
    let needs = objective.requirements();
    let rows = if layout == Layout::Unpaired { 4 } else { 2 };
    let numbers: Vec<f64> = row.numbers.iter().flat_map(|x| std::iter::repeat_n(*x, rows)).collect();
    let batch = PreferenceBatch {
        columns: Columns::new(row.columns, &numbers)?,
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

    /// A row of this length, with 0 in each column.
    fn mean(columns: &[String], tokens: usize) -> MeanRow<'_> {
        MeanRow { tokens, columns, numbers: vec![0.0; columns.len()] }
    }

    fn of(name: &str, config: Value, tokens: usize) -> f64 {
        let mut objective = Registry::linked().unwrap().objective(name, &config).unwrap();
        let layout = objective.requirements().data;
        let before = objective.state();
        let slope = slope(&mut *objective, layout, &mean(&[], tokens)).unwrap();
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
            let columns: Vec<_> = objective.requirements().columns.into_iter().map(|c| c.name).collect();
            let slope = slope(&mut *objective, layout, &mean(&columns, 5)).unwrap();
            assert!((1e-3..1e4).contains(&slope), "{}: {slope}", entry.name);
        }
    }
}
