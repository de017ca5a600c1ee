use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{Answer, Pair, PairLoss, Part, Scalar, register};

use super::dpo::smoothed_logistic;
use super::options::{half, tenth};

/// `L = -(1 - e) ln sigmoid(z) - e ln sigmoid(-z)`, with `z = beta (r(y_w) - r(y_l)) - gamma`,
/// `r(y) = (1 - e^(-alpha s/|y|)) / alpha` and `e` the label smoothing.
///
/// SimPO with a reward of another shape: positive alpha bends it so that losing probability costs more
/// than gaining it pays, which counters likelihood displacement; negative alpha does the opposite;
/// towards 0 it is `simpo`.
///
/// Gamma is absolute, as in `simpo`. Reduction: log-probs are means per token, losses averaged over pairs.
/// A positive alpha holds the preferred answer's probability up: its reward falls ever faster. For an
/// answer below `-709/alpha` nats per token the reward overflows, which is an error.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AlphaPo {
    /// Scale of the reward. TRL's default; the paper uses 2.5 and more.
    #[serde(default = "tenth")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub beta: f64,
    /// Target margin of the rewards, absolute. TRL's default.
    #[serde(default = "half")]
    #[schemars(range(min = 0))]
    pub gamma: f64,
    /// Shape of the reward. TRL has no default other than 0, which is SimPO.
    #[serde(default = "quarter")]
    pub alpha: f64,
    /// Probability that a preference label is wrong.
    #[serde(default)]
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 0.5))]
    pub label_smoothing: f64,
}

fn quarter() -> f64 {
    0.25
}

impl Part for AlphaPo {}

impl PairLoss for AlphaPo {
    fn needs_reference(&self) -> bool {
        false
    }

    fn reads_means(&self) -> bool {
        true
    }

    fn loss<S: Scalar>(&self, pair: &Pair<S>) -> S {
        let margin = shaped(pair.chosen.mean(), self.alpha) - shaped(pair.rejected.mean(), self.alpha);
        smoothed_logistic(margin * self.beta - self.gamma, self.label_smoothing)
    }

    fn reward(&self, answer: &Answer<f64>) -> f64 {
        self.beta * shaped(answer.mean(), self.alpha)
    }
}

/// `(1 - e^(-alpha s)) / alpha`, continued to `s` at `alpha = 0`.
pub(super) fn shaped<S: Scalar>(s: S, alpha: f64) -> S {
    if alpha == 0.0 { s } else { -(-s * alpha).exp_m1() / alpha }
}

register!(objective AlphaPo {
    name: "alphapo",
    summary: "SimPO with a bent reward",
    source: "Gupta et al. 2025, AlphaPO",
});

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::losses::testing::{loss, objective};

    #[test]
    fn towards_alpha_zero_it_is_simpo() {
        let simpo: crate::losses::SimPo = objective(json!({"beta": 2.0}));
        let alphapo: AlphaPo = objective(json!({"beta": 2.0, "alpha": 1e-9}));
        assert!((loss(&simpo, [1.0, -2.0]) - loss(&alphapo, [1.0, -2.0])).abs() < 1e-8);
    }

    #[test]
    fn a_positive_alpha_charges_more_for_lost_probability_than_it_pays_for_gained() {
        let reward = |s: f64| shaped(s, 0.25);
        assert!(reward(-2.0) - reward(-3.0) > reward(-1.0) - reward(-2.0));
    }
}
