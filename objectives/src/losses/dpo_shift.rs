use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{Answer, Pair, PairLoss, Part, Scalar, register};

use super::dpo::smoothed_logistic;
use super::options::tenth;

/// `L = -(1 - e) ln sigmoid(z) - e ln sigmoid(-z)`, with `z = beta ((s_w - r_w) - lambda (s_l - r_l))` and `e` the
/// label smoothing.
///
/// DPO-Shift: the rejected answer counts less in the margin. DPO lets both answers lose probability as long as the
/// rejected one loses more; with `lambda < 1`, a nat that the preferred answer loses is no longer paid for by a nat
/// that the other loses. The price is a smaller margin between the two.
///
/// Reduction: log-probs are summed over tokens, losses averaged over pairs. With `lambda = 1` it is `dpo`. The paper
/// also moves `lambda` linearly through training; here it is constant.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DpoShift {
    /// Inverse temperature, per nat. TRL's default for `dpo`.
    #[serde(default = "tenth")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub beta: f64,
    /// How much of a nat of the preferred answer a nat of the rejected one is worth. The paper tries 0.5 to 0.95.
    #[serde(default = "three_quarters")]
    #[schemars(range(min = 0, max = 1))]
    pub lambda: f64,
    /// Probability that a preference label is wrong.
    #[serde(default)]
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 0.5))]
    pub label_smoothing: f64,
}

fn three_quarters() -> f64 {
    0.75
}

impl Part for DpoShift {}

impl PairLoss for DpoShift {
    fn loss<S: Scalar>(&self, pair: &Pair<S>) -> S {
        let margin = pair.chosen.log_ratio() - pair.rejected.log_ratio() * self.lambda;
        smoothed_logistic(margin * self.beta, self.label_smoothing)
    }

    fn reward(&self, answer: &Answer<f64>) -> f64 {
        self.beta * answer.log_ratio()
    }
}

register!(objective DpoShift {
    name: "dpo-shift",
    summary: "DPO in which the rejected answer counts less",
    source: "Yang et al. 2025, DPO-Shift, with a constant f(lambda)",
});

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::losses::Dpo;
    use crate::losses::testing::{loss, objective, slopes};

    #[test]
    fn with_lambda_1_it_is_dpo() {
        let shift: DpoShift = objective(json!({"lambda": 1.0, "label_smoothing": 0.1}));
        let dpo: Dpo = objective(json!({"label_smoothing": 0.1}));
        assert_eq!(loss(&shift, [3.0, -2.0]), loss(&dpo, [3.0, -2.0]));
    }

    #[test]
    fn a_common_fall_of_both_answers_is_no_longer_free() {
        let shift: DpoShift = objective(json!({"lambda": 0.5}));
        assert!(loss(&shift, [-2.0, -2.0]) > loss(&shift, [0.0, 0.0]));
        let [chosen, rejected] = slopes(&shift, [1.0, -1.0]);
        assert!((rejected + 0.5 * chosen).abs() < 1e-15);
    }
}
