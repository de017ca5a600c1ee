use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{Answer, Pair, PairLoss, Part, Scalar, register};

use super::options::tenth;

/// `L = -ln sigmoid(beta (m - lambda max(0, r_w - s_w)))`.
///
/// DPO-Positive: DPO's margin, less a penalty for every nat that the preferred answer has lost since the
/// reference.
///
/// Reduction: log-probs are summed over tokens, losses averaged over pairs. While the preferred answer is
/// below its reference probability it is pushed up `1 + lambda` times as hard as by `dpo`; above it, the
/// loss is `dpo`. Holds the preferred answer's probability at the reference's or above.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dpop {
    /// Inverse temperature, per nat. TRL's default for `dpo`; the paper uses 0.3.
    #[serde(default = "tenth")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub beta: f64,
    /// Price of a lost nat, in nats of margin. The paper's value.
    #[serde(default = "fifty")]
    #[schemars(range(min = 0))]
    pub lambda: f64,
}

fn fifty() -> f64 {
    50.0
}

impl Part for Dpop {}

impl PairLoss for Dpop {
    fn loss<S: Scalar>(&self, pair: &Pair<S>) -> S {
        let lost = (-pair.chosen.log_ratio()).relu();
        -((pair.margin() - lost * self.lambda) * self.beta).log_sigmoid()
    }

    fn reward(&self, answer: &Answer<f64>) -> f64 {
        self.beta * answer.log_ratio()
    }
}

register!(objective Dpop {
    name: "dpop",
    summary: "DPO with a penalty on the chosen answer's loss of probability",
    source: "Pal et al. 2024, Smaug: DPO-Positive, eq. 3",
});

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::losses::testing::{loss, objective, slopes};

    #[test]
    fn it_is_dpo_until_the_chosen_answer_loses_probability() {
        let dpop: Dpop = objective(json!({"lambda": 5.0}));
        let dpo: crate::losses::Dpo = objective(json!({}));
        assert_eq!(loss(&dpop, [1.0, -2.0]), loss(&dpo, [1.0, -2.0]));
        // A margin of 1 nat, less 5 for each of the 2 that were lost.
        assert!((loss(&dpop, [-2.0, -3.0]) - loss(&dpo, [-9.0, 0.0])).abs() < 1e-15);
        let [chosen, rejected] = slopes(&dpop, [-2.0, -3.0]);
        assert!((chosen / rejected + 6.0).abs() < 1e-12);
    }
}
