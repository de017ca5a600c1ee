//! Helpers for the unit tests of losses.

use spo_api::{
    Answer, Dual, Evaluation, Layout, Objective, Pair, PairLoss, PreferenceBatch, Ragged, Side, parse,
};

/// Builds an objective from its configuration.
pub(super) fn objective<P: spo_api::Part>(config: serde_json::Value) -> P {
    parse(&config).unwrap()
}

/// A pair of four-token answers with these log-ratios.
pub(super) fn pair(log_ratios: [f64; 2]) -> Pair<'static, f64> {
    let [chosen, rejected] =
        log_ratios.map(|ratio| Answer { policy: ratio - 10.0, reference: -10.0, tokens: 4.0 });
    Pair { chosen, rejected, gap: 0.0, columns: &[] }
}

/// The loss at these log-ratios.
pub(super) fn loss(of: &impl PairLoss, log_ratios: [f64; 2]) -> f64 {
    of.loss(&pair(log_ratios))
}

/// The derivatives of the loss with respect to the two sequence log-probs.
pub(super) fn slopes(of: &impl PairLoss, log_ratios: [f64; 2]) -> [f64; 2] {
    let pair = pair(log_ratios);
    let lift = |a: Answer<f64>, input| Answer {
        policy: Dual::<2>::input(a.policy, input),
        reference: a.reference,
        tokens: a.tokens,
    };
    let (chosen, rejected) = (lift(pair.chosen, 0), lift(pair.rejected, 1));
    of.loss(&Pair { chosen, rejected, gap: pair.gap, columns: pair.columns }).partials
}

/// Evaluates an objective on single-token answers with these log-ratios; reference log-probs are 0. The
/// mismatched answers are the chosen ones.
pub(super) fn evaluate(
    objective: &mut impl Objective,
    layout: Layout,
    chosen: &[f64],
    rejected: &[f64],
) -> Evaluation {
    let n = chosen.len().max(rejected.len());
    let (offsets, zeros): (Vec<_>, Vec<_>) = (0..=n).map(|i| (i, 0.0)).unzip();
    let [chosen, rejected] = [chosen, rejected].map(|values| {
        let ragged = |figures| Ragged::new(figures, &offsets[..=values.len()]).unwrap();
        Side { reference: Some(ragged(&zeros[..values.len()])), ..Side::policy_only(ragged(values)) }
    });
    let batch = PreferenceBatch::new(layout, chosen, rejected).unwrap();
    let batch = PreferenceBatch { mismatched: Some(chosen), ..batch };
    let mut out = Evaluation::default();
    out.compute(objective, &batch).unwrap();
    out
}
