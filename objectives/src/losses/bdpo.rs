use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{Answer, Pair, PairLoss, Part, Scalar, register};

use super::options::{half, tenth};

/// `L = -ln sigmoid(beta (s_w - r_w) - beta ln(lambda e^(s_l - r_l) + 1 - lambda))`.
///
/// Bounded DPO: the dispreferred answer's probability is replaced by that of a mixture, `lambda` policy
/// and `1 - lambda` reference, so that lowering it pays `-beta ln(1 - lambda)` at most.
///
/// Reduction: log-probs are summed over tokens, losses averaged over pairs. Effective bound on the
/// dispreferred answer's part of the margin: `-ln(1 - lambda)` nats, 0.69 at `lambda = 0.5`. What is left
/// of the loss can only be had by raising the preferred answer's probability above the reference's.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bdpo {
    /// Inverse temperature, per nat. TRL's default for `dpo`.
    #[serde(default = "tenth")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub beta: f64,
    /// Share of the policy in the mixture. Towards 1 the loss becomes `dpo`.
    #[serde(default = "half")]
    #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
    pub lambda: f64,
}

impl Part for Bdpo {}

impl PairLoss for Bdpo {
    fn loss<S: Scalar>(&self, pair: &Pair<S>) -> S {
        let rest = 1.0 - self.lambda;
        let mixture = (pair.rejected.log_ratio() + (self.lambda / rest).ln()).softplus() + rest.ln();
        -((pair.chosen.log_ratio() - mixture) * self.beta).log_sigmoid()
    }

    fn reward(&self, answer: &Answer<f64>) -> f64 {
        self.beta * answer.log_ratio()
    }
}

register!(objective Bdpo {
    name: "bdpo",
    summary: "DPO whose gain from the rejected answer is bounded",
    source: "Cho et al. 2025, Rethinking DPO: Bounded-DPO",
});

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::losses::testing::{loss, objective, slopes};

    #[test]
    fn the_rejected_answer_can_yield_no_more_than_the_bound() {
        let bdpo: Bdpo = objective(json!({"beta": 0.5, "lambda": 0.3}));
        let mixture = 0.3 * f64::exp(-2.0) + 0.7;
        assert!((loss(&bdpo, [1.5, -2.0]) + (0.75 - 0.5 * mixture.ln()).log_sigmoid()).abs() < 1e-15);
        assert!((loss(&bdpo, [0.0, -1e4]) + (-0.5 * 0.7f64.ln()).log_sigmoid()).abs() < 1e-15);
        assert_eq!(slopes(&bdpo, [0.0, -1e4])[1], 0.0);
    }
}
