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
