use spo_api::{Answer, Pair, PairLoss, Part, Reading, Scalar, register};

use super::options::tenth;

options! {
    [ld_alpha, use_weighting]
    /// `L = (s_w - r_w - 1/(2 beta))^2 + (s_l - r_l + 1/(2 beta))^2`.
    ///
    /// Self-play preference optimization with hard labels: the log-ratio of each answer is pulled to its
    /// own finite target.
    ///
    /// Reduction: log-probs are summed over tokens, losses averaged over pairs. Effective targets:
    /// `+-1/(2 beta)` nats, 5 at `beta = 0.1`. Losses are in nats squared, large for small beta. Raises the
    /// preferred answer's probability to `e^(1/(2 beta))` times the reference's, and no further.
    pub struct SppoHard {
        /// Half the inverse of the target log-ratio, per nat. TRL's default.
        #[serde(default = "tenth")]
        #[schemars(extend("exclusiveMinimum" = 0))]
        pub beta: f64,
    }
}

impl Part for SppoHard {}

impl PairLoss for SppoHard {
    fn reading(&self) -> Reading {
        Reading::default().ld_alpha(self.ld_alpha).weighting(self.use_weighting)
    }

    fn loss<S: Scalar>(&self, pair: &Pair<S>) -> S {
        let target = 0.5 / self.beta;
        (pair.chosen.log_ratio() - target).squared() + (pair.rejected.log_ratio() + target).squared()
    }

    fn reward(&self, answer: &Answer<f64>) -> f64 {
        self.beta * answer.log_ratio()
    }
}

register!(objective SppoHard {
    name: "sppo_hard",
    summary: "square loss that pulls each log-ratio to its own target",
    source: "Wu et al. 2024, SPPO, with hard preference labels",
});

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::losses::testing::{loss, objective, slopes};

    #[test]
    fn each_log_ratio_has_its_target() {
        let sppo: SppoHard = objective(json!({"beta": 0.1}));
        assert_eq!((loss(&sppo, [5.0, -5.0]), slopes(&sppo, [5.0, -5.0])), (0.0, [0.0, 0.0]));
        assert_eq!(slopes(&sppo, [6.0, -7.0]), [2.0, -4.0]);
    }
}
