use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{Answer, Pair, PairLoss, Part, Scalar, register};

use super::dpo::smoothed_logistic;
use super::options::{half, tenth};

/// `L = -(1 - e) ln sigmoid(z) - e ln sigmoid(-z)`, with `z = beta (s_w/|y_w| - s_l/|y_l|) - gamma` and
/// `e` the label smoothing.
///
/// Simple preference optimization: no reference; the implicit reward is the mean log-prob per token.
///
/// GAMMA IS ABSOLUTE, as in the paper and in TRL (`simpo_gamma`): it is subtracted after the
/// multiplication by beta. Tools that take a ratio `gamma_beta_ratio` subtract `beta * ratio`: their
/// ratio 0.5 at beta 2 is `gamma = 1` here.
///
/// Reduction: log-probs are means per token, losses averaged over pairs. Effective target margin:
/// `gamma / beta` nats per token: 5 at the defaults, which are TRL's; the paper uses beta 2 to 2.5 and
/// gamma 0.3 to 1.6 (0.12 to 0.8 nats per token). Nothing holds the preferred answer's own probability.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SimPo {
    /// Scale of the reward, per nat per token.
    #[serde(default = "tenth")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub beta: f64,
    /// Target margin of the rewards, absolute.
    #[serde(default = "half")]
    #[schemars(range(min = 0))]
    pub gamma: f64,
    /// Probability that a preference label is wrong.
    #[serde(default)]
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 0.5))]
    pub label_smoothing: f64,
}

impl Part for SimPo {}

impl PairLoss for SimPo {
    fn needs_reference(&self) -> bool {
        false
    }

    fn reads_means(&self) -> bool {
        true
    }

    fn loss<S: Scalar>(&self, pair: &Pair<S>) -> S {
        let margin = pair.chosen.mean() - pair.rejected.mean();
        smoothed_logistic(margin * self.beta - self.gamma, self.label_smoothing)
    }

    fn reward(&self, answer: &Answer<f64>) -> f64 {
        self.beta * answer.mean()
    }
}

register!(objective SimPo {
    name: "simpo",
    summary: "logistic loss on mean log-probs with a target margin; no reference",
    source: "Meng et al. 2024, SimPO, eq. 6",
});

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::losses::testing::{loss, objective};

    #[test]
    fn gamma_is_absolute() {
        let simpo: SimPo = objective(json!({"beta": 2.0, "gamma": 1.0}));
        // Four tokens, 5 nats apart: 2 * 1.25 - 1.
        assert_eq!(loss(&simpo, [3.0, -2.0]), -1.5f64.log_sigmoid());
    }
}
