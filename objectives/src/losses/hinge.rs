use spo_api::{Answer, Pair, PairLoss, Part, Reading, Scalar, register};

use super::options::tenth;

options! {
    [f_divergence, ld_alpha, use_weighting]
    /// `L = max(0, 1 - beta m)`.
    ///
    /// The hinge of SLiC-HF on DPO's margin: a pair that is apart by more than `1/beta` nats costs
    /// nothing and gets no gradient.
    ///
    /// Reduction: log-probs are summed over tokens, losses averaged over pairs. Effective target:
    /// `1/beta` nats, 10 at `beta = 0.1`. The preferred answer's own probability is free: only the margin
    /// is held, but it stops being pushed once the target is met.
    pub struct Hinge {
        /// Inverse of the margin that is asked for, per nat. TRL's default.
        #[serde(default = "tenth")]
        #[schemars(extend("exclusiveMinimum" = 0))]
        pub beta: f64,
    }
}

impl Part for Hinge {}

impl PairLoss for Hinge {
    fn reading(&self) -> Reading {
        Reading::default().ld_alpha(self.ld_alpha).weighting(self.use_weighting)
    }

    fn loss<S: Scalar>(&self, pair: &Pair<S>) -> S {
        (-self.f_divergence.margin(pair) * self.beta + 1.0).relu()
    }

    fn reward(&self, answer: &Answer<f64>) -> f64 {
        self.beta * answer.log_ratio()
    }
}

register!(objective Hinge {
    name: "hinge",
    summary: "hinge on the margin of log-ratios",
    source: "Zhao et al. 2023, SLiC-HF; on log-ratios as in Liu et al. 2023, RSO",
});

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::losses::testing::{loss, objective, slopes};

    #[test]
    fn a_pair_beyond_the_target_is_left_alone() {
        let hinge: Hinge = objective(json!({"beta": 0.1}));
        assert_eq!(slopes(&hinge, [6.0, -5.0]), [0.0, 0.0]);
        assert_eq!(slopes(&hinge, [4.0, -5.0]), [-0.1, 0.1]);
        assert!((loss(&hinge, [4.0, -5.0]) - 0.1).abs() < 1e-15);
    }
}
