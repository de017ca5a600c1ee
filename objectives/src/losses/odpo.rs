use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use spo_api::{Answer, Pair, PairLoss, Part, Scalar, register};

use super::options::{one, tenth};

/// `L = -ln sigmoid(beta m - alpha f(gap))`, with `gap` the score of the preferred answer minus that of
/// the other, and `f` the logarithm or the identity.
///
/// DPO with an offset: an answer that is much better must win by more. The data give the scores, of a
/// reward model or of a judge.
///
/// Reduction: log-probs are summed over tokens, losses averaged over pairs. Effective target margin:
/// `alpha f(gap) / beta` nats; a gap of 0 asks for nothing under the logarithm. Nothing holds the preferred
/// answer's own probability.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Odpo {
    /// Inverse temperature, per nat. TRL's default for `dpo`.
    #[serde(default = "tenth")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub beta: f64,
    /// Scale of the offset.
    #[serde(default = "one")]
    #[schemars(range(min = 0))]
    pub alpha: f64,
    /// `f`: how an offset grows with the gap.
    #[serde(default)]
    pub growth: Growth,
}

/// How the offset of [`Odpo`] grows with the gap of the scores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Growth {
    /// `ln gap`: for scores whose unit means little. Negative below 1.
    #[default]
    Log,
    /// `gap` itself.
    Linear,
}

impl Part for Odpo {}

impl PairLoss for Odpo {
    fn needs_gaps(&self) -> bool {
        true
    }

    fn loss<S: Scalar>(&self, pair: &Pair<S>) -> S {
        let offset = match self.growth {
            Growth::Log if self.alpha == 0.0 => 0.0,
            Growth::Log => self.alpha * pair.gap.ln(),
            Growth::Linear => self.alpha * pair.gap,
        };
        -(pair.margin() * self.beta - offset).log_sigmoid()
    }

    fn reward(&self, answer: &Answer<f64>) -> f64 {
        self.beta * answer.log_ratio()
    }
}

register!(objective Odpo {
    name: "odpo",
    summary: "DPO with an offset that grows with the gap of the scores",
    source: "Amini et al. 2024, ODPO",
});

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::losses::testing::{objective, pair};

    #[test]
    fn the_offset_grows_with_the_gap() {
        let loss = |odpo: &Odpo, gap| odpo.loss(&Pair { gap, ..pair([3.0, -2.0]) });
        let log: Odpo = objective(json!({"beta": 1.0, "alpha": 2.0}));
        assert_eq!(loss(&log, 1.0), -5f64.log_sigmoid());
        assert_eq!(loss(&log, 4.0), -(5.0 - 2.0 * 4f64.ln()).log_sigmoid());
        assert_eq!(loss(&log, 0.0), 0.0, "equal scores ask for nothing");
        let linear: Odpo = objective(json!({"beta": 1.0, "growth": "linear"}));
        assert_eq!(loss(&linear, 4.0), -1f64.log_sigmoid());
    }
}
