use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{Answer, Pair, PairLoss, Part, Scalar, register};

use super::options::tenth;

/// `L = -ln sigmoid(m) + (s_w - r_w - 1/(2 beta))^2 + (s_l - r_l + 1/(2 beta))^2`.
///
/// Calibrated DPO: a contrast, and a calibration that pulls each log-ratio to the scale of the true
/// reward, taken to be 1/2 for the preferred answer and -1/2 for the other.
///
/// Reduction: log-probs are summed over tokens, losses averaged over pairs. Beta is in the targets only:
/// `+-1/(2 beta)` nats, 5 at `beta = 0.1`. Losses are in nats squared, large for small beta. Raises the
/// preferred answer's probability to a finite target above the reference's.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CalDpo {
    /// Half the inverse of the target log-ratio, per nat. TRL's default for `dpo`.
    #[serde(default = "tenth")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub beta: f64,
}

impl Part for CalDpo {}

impl PairLoss for CalDpo {
    fn loss<S: Scalar>(&self, pair: &Pair<S>) -> S {
        let target = 0.5 / self.beta;
        -pair.margin().log_sigmoid()
            + (pair.chosen.log_ratio() - target).squared()
            + (pair.rejected.log_ratio() + target).squared()
    }

    fn reward(&self, answer: &Answer<f64>) -> f64 {
        self.beta * answer.log_ratio()
    }
}

register!(objective CalDpo {
    name: "cal-dpo",
    summary: "contrast plus square calibration of both log-ratios",
    source: "Xiao et al. 2024, Cal-DPO",
});

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::losses::testing::{loss, objective, slopes};

    #[test]
    fn at_the_targets_only_the_contrast_is_left() {
        let cal: CalDpo = objective(json!({"beta": 0.1}));
        assert_eq!(loss(&cal, [5.0, -5.0]), -10f64.log_sigmoid());
        assert!(slopes(&cal, [6.0, -5.0])[0] > 0.0, "the chosen answer is not raised without end");
    }
}
