use spo_api::{Answer, Pair, PairLoss, Part, Reading, Scalar, register};

use super::options::tenth;

options! {
    [ld_alpha, use_weighting]
    /// `L = -ln sigmoid(beta (s_w - r_w)) - ln sigmoid(-beta (s_l - r_l))`.
    ///
    /// Binary classifier optimization on pairs: preferred answers are classified as good, dispreferred
    /// ones as bad, each by its own reward. TRL's `bco_pair` has no reward shift (the unpaired `bco`
    /// has).
    ///
    /// Reduction: log-probs are summed over tokens, losses averaged over pairs. Pushes the preferred
    /// answer's own probability above the reference's, ever more softly.
    pub struct BcoPair {
        /// Inverse temperature, per nat. TRL's default.
        #[serde(default = "tenth")]
        #[schemars(extend("exclusiveMinimum" = 0))]
        pub beta: f64,
    }
}

impl Part for BcoPair {}

impl PairLoss for BcoPair {
    fn reading(&self) -> Reading {
        Reading::default().ld_alpha(self.ld_alpha).weighting(self.use_weighting)
    }

    fn loss<S: Scalar>(&self, pair: &Pair<S>) -> S {
        let (a, b) = (pair.chosen.log_ratio() * self.beta, pair.rejected.log_ratio() * self.beta);
        -a.log_sigmoid() - (-b).log_sigmoid()
    }

    fn reward(&self, answer: &Answer<f64>) -> f64 {
        self.beta * answer.log_ratio()
    }
}

register!(objective BcoPair {
    name: "bco_pair",
    summary: "each answer classified as good or bad by its own log-ratio",
    source: "Jung et al. 2024, BCO, without the reward shift",
});

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::losses::testing::{loss, objective, slopes};

    #[test]
    fn each_answer_is_judged_by_itself() {
        let bco: BcoPair = objective(json!({}));
        assert_eq!(slopes(&bco, [2.0, -1.0])[0], slopes(&bco, [2.0, 30.0])[0]);
        assert!((loss(&bco, [0.0, 0.0]) - 2.0 * std::f64::consts::LN_2).abs() < 1e-15);
    }
}
