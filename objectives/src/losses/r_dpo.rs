use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{Answer, Pair, PairLoss, Part, Scalar, register};

use super::options::tenth;

/// `L = -ln sigmoid(beta m + alpha (|y_w| - |y_l|))`.
///
/// Length-regularised DPO: the reward is taken to hold a penalty of `alpha` per token, so a pair whose
/// preferred answer is the longer one is already explained in part, and is pushed less.
///
/// Reduction: log-probs are summed over tokens, losses averaged over pairs. Effective shift of the margin:
/// `alpha / beta` nats per token of difference in length, 0.1 at the defaults. Nothing holds the
/// preferred answer's own probability.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RDpo {
    /// Inverse temperature, per nat. TRL's default for `dpo`.
    #[serde(default = "tenth")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub beta: f64,
    /// Penalty per token. The paper's values are 0.005 to 0.05.
    #[serde(default = "hundredth")]
    #[schemars(range(min = 0))]
    pub alpha: f64,
}

fn hundredth() -> f64 {
    0.01
}

impl Part for RDpo {}

impl PairLoss for RDpo {
    fn loss<S: Scalar>(&self, pair: &Pair<S>) -> S {
        let longer = pair.chosen.tokens - pair.rejected.tokens;
        -(pair.margin() * self.beta + self.alpha * longer).log_sigmoid()
    }

    fn reward(&self, answer: &Answer<f64>) -> f64 {
        self.beta * answer.log_ratio()
    }
}

register!(objective RDpo {
    name: "r-dpo",
    summary: "DPO with a penalty on length",
    source: "Park et al. 2024, Disentangling length from quality in DPO",
});

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::losses::testing::objective;

    #[test]
    fn a_longer_chosen_answer_is_explained_in_part() {
        let r_dpo: RDpo = objective(json!({"beta": 0.1, "alpha": 0.02}));
        let answer = |tokens| Answer { policy: -10.0, reference: -10.0, tokens };
        let loss =
            |w, l| r_dpo.loss(&Pair { chosen: answer(w), rejected: answer(l), gap: 0.0, columns: &[] });
        assert!(loss(9.0, 4.0) < loss(4.0, 4.0) && loss(4.0, 4.0) < loss(4.0, 9.0));
        assert_eq!(loss(9.0, 4.0), -0.1f64.log_sigmoid());
    }
}
