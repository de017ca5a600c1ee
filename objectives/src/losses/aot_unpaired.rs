use spo_api::{
    Dual, EvaluationMut, Layout, Objective, Part, PreferenceBatch, Reading, Requirements, Result, register,
};

use super::aot::order;
use super::dpo::smoothed_logistic;
use super::options::tenth;

options! {
    [ld_alpha]
    /// `L = mean over k of -(1 - e) ln sigmoid(z_k) - e ln sigmoid(-z_k)`, with
    /// `z_k = beta (sort(s_w - r_w)_k - sort(s_l - r_l)_k)` and `e` the label smoothing.
    ///
    /// Alignment by optimal transport: the *distribution* of the preferred answers' log-ratios is to
    /// dominate that of the dispreferred ones, quantile by quantile. Who answers which prompt plays no
    /// part.
    ///
    /// Reduction: log-probs are summed over tokens. The loss couples the pairs of the optimizer batch: it
    /// sorts both sides, so its value depends on what the batch is made of. It is taken over the whole
    /// batch however that is split for memory, where TRL sorts each micro-batch by itself. The loss of a
    /// pair is that of its preferred answer's quantile. Nothing holds the preferred answer's own
    /// probability.
    pub struct AotUnpaired {
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

impl Part for AotUnpaired {}

impl Objective for AotUnpaired {
    fn requirements(&self) -> Requirements {
        Requirements::of(Layout::Pairs).reference(true).whole_batch(true).least_rows(2)
    }

    fn evaluate(&mut self, batch: &PreferenceBatch<'_>, out: &mut EvaluationMut<'_>) -> Result<()> {
        let reading = Reading::default().ld_alpha(self.ld_alpha);
        let (mut chosen, mut rejected) = (Vec::new(), Vec::new());
        for i in 0..batch.rows_of_whole()? {
            let pair = reading.pair(batch, i, true)?;
            chosen.push(pair.chosen.log_ratio());
            rejected.push(pair.rejected.log_ratio());
        }
        let mut gradients = vec![[0.0; 2]; chosen.len()];
        for (&i, &j) in order(&chosen).iter().zip(&order(&rejected)) {
            let z = (Dual::<1>::input(chosen[i], 0) - rejected[j]) * self.beta;
            let loss = smoothed_logistic(z, self.label_smoothing);
            out.losses[i] = loss.value;
            gradients[i][0] = loss.partials[0] / batch.whole.rows as f64;
            gradients[j][1] = -gradients[i][0];
        }
        for (i, gradient) in gradients.into_iter().enumerate() {
            reading.spread(batch, i, gradient, out);
        }
        out.rewards.chosen.extend(chosen.iter().map(|r| self.beta * r));
        out.rewards.rejected.extend(rejected.iter().map(|r| self.beta * r));
        reading.log(batch, false, out.metrics)
    }
}

register!(objective AotUnpaired {
    name: "aot_unpaired",
    summary: "logistic loss between sorted chosen and rejected log-ratios",
    source: "Melnyk et al. 2024, AOT, unpaired",
});

#[cfg(test)]
mod tests {
    use serde_json::json;
    use spo_api::Layout;

    use super::*;
    use crate::losses::testing::{evaluate, objective};

    #[test]
    fn who_answers_which_prompt_plays_no_part() {
        let mut aot: AotUnpaired = objective(json!({"beta": 1.0}));
        let chosen = [-1.0, -5.0, -2.0];
        let one = evaluate(&mut aot, Layout::Pairs, &chosen, &[-3.0, -4.0, -9.0]);
        let other = evaluate(&mut aot, Layout::Pairs, &chosen, &[-9.0, -3.0, -4.0]);
        assert_eq!((one.losses, one.grad_chosen), (other.losses, other.grad_chosen));
        let gradient = one.grad_rejected;
        assert_eq!(vec![gradient[2], gradient[0], gradient[1]], other.grad_rejected);
    }
}
