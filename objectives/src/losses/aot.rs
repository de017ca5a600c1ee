use spo_api::{
    Dual, EvaluationMut, Layout, Objective, Part, PreferenceBatch, Reading, Requirements, Result, register,
};

use super::dpo::smoothed_logistic;
use super::options::tenth;

options! {
    [ld_alpha]
    /// `L = mean over k of -(1 - e) ln sigmoid(z_k) - e ln sigmoid(-z_k)`, with
    /// `z_k = beta (sort(s_w - s_l)_k - sort(r_w - r_l)_k)` and `e` the label smoothing.
    ///
    /// Alignment by optimal transport: the *distribution* of the policy's log-ratios between preferred
    /// and dispreferred answers is to dominate the reference's, quantile by quantile.
    ///
    /// Reduction: log-probs are summed over tokens. The loss couples the pairs of the optimizer batch: it
    /// sorts them, so its value depends on what the batch is made of. It is taken over the whole batch
    /// however that is split for memory, where TRL sorts each micro-batch by itself. The loss of a pair is
    /// that of its quantile. Nothing holds the preferred answer's own probability.
    pub struct Aot {
        /// Inverse temperature, per nat. TRL's default.
        #[serde(default = "tenth")]
        #[schemars(extend("exclusiveMinimum" = 0))]
        pub beta: f64,
        /// Probability that a preference label is wrong.
        #[serde(default)]
        #[schemars(range(min = 0), extend("exclusiveMaximum" = 0.5))]
        pub label_smoothing: f64,
    }
}

impl Part for Aot {}

impl Objective for Aot {
    fn requirements(&self) -> Requirements {
        Requirements::of(Layout::Pairs).reference(true).whole_batch(true).least_rows(2)
    }

    fn evaluate(&mut self, batch: &PreferenceBatch<'_>, out: &mut EvaluationMut<'_>) -> Result<()> {
        let reading = Reading::default().ld_alpha(self.ld_alpha);
        let (mut policy, mut reference) = (Vec::new(), Vec::new());
        for i in 0..batch.rows_of_whole()? {
            let pair = reading.pair(batch, i, true)?;
            out.rewards.chosen.push(self.beta * pair.chosen.log_ratio());
            out.rewards.rejected.push(self.beta * pair.rejected.log_ratio());
            policy.push(pair.chosen.policy - pair.rejected.policy);
            reference.push(pair.chosen.reference - pair.rejected.reference);
        }
        for (&i, &j) in order(&policy).iter().zip(&order(&reference)) {
            let z = (Dual::<1>::input(policy[i], 0) - reference[j]) * self.beta;
            let loss = smoothed_logistic(z, self.label_smoothing);
            out.losses[i] = loss.value;
            let d = loss.partials[0] / batch.whole.rows as f64;
            reading.spread(batch, i, [d, -d], out);
        }
        reading.log(batch, false, out.metrics)
    }
}

/// Indices in ascending order of the values.
pub(super) fn order(values: &[f64]) -> Vec<usize> {
    let mut indices: Vec<_> = (0..values.len()).collect();
    indices.sort_by(|&i, &j| values[i].total_cmp(&values[j]));
    indices
}

register!(objective Aot {
    name: "aot",
    summary: "logistic loss between sorted policy and reference margins",
    source: "Melnyk et al. 2024, AOT, paired",
});

#[cfg(test)]
mod tests {
    use serde_json::json;
    use spo_api::{Layout, Scalar};

    use super::*;
    use crate::losses::testing::{evaluate, objective};

    #[test]
    fn margins_are_compared_by_quantile_not_by_pair() {
        let mut aot: Aot = objective(json!({"beta": 1.0}));
        // Against a reference that is 0 everywhere, the quantiles are the margins: 1, 3, -2.
        let out = evaluate(&mut aot, Layout::Pairs, &[-1.0, -1.0, -4.0], &[-2.0, -4.0, -2.0]);
        assert_eq!(out.losses, [1.0, 3.0, -2.0].map(|m: f64| -m.log_sigmoid()));
    }
}
