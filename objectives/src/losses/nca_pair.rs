use spo_api::{Answer, Pair, PairLoss, Part, Reading, Scalar, register};

use super::options::tenth;

options! {
    [ld_alpha, use_weighting]
    /// `L = -ln sigmoid(a) - (1/2) ln sigmoid(-a) - (1/2) ln sigmoid(-b)`, with `a = beta (s_w - r_w)`
    /// and `b = beta (s_l - r_l)`.
    ///
    /// Noise contrastive alignment on pairs: each answer's absolute log-ratio is fitted, not their
    /// difference.
    ///
    /// Reduction: log-probs are summed over tokens, losses averaged over pairs. The preferred answer's
    /// part is least at `a = ln 2`: its probability is held near `2^(1/beta)` times the reference's,
    /// pulled up from below and down from above.
    pub struct NcaPair {
        /// Inverse temperature, per nat. TRL's default.
        #[serde(default = "tenth")]
        #[schemars(extend("exclusiveMinimum" = 0))]
        pub beta: f64,
    }
}

impl Part for NcaPair {}

impl PairLoss for NcaPair {
    fn reading(&self) -> Reading {
        Reading::default().ld_alpha(self.ld_alpha).weighting(self.use_weighting)
    }

    fn loss<S: Scalar>(&self, pair: &Pair<S>) -> S {
        let (a, b) = (pair.chosen.log_ratio() * self.beta, pair.rejected.log_ratio() * self.beta);
        -a.log_sigmoid() - (-a).log_sigmoid() * 0.5 - (-b).log_sigmoid() * 0.5
    }

    fn reward(&self, answer: &Answer<f64>) -> f64 {
        self.beta * answer.log_ratio()
    }
}

register!(objective NcaPair {
    name: "nca_pair",
    summary: "noise contrast of each answer's own log-ratio",
    source: "Chen et al. 2024, Noise contrastive alignment",
});

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::losses::testing::{objective, slopes};

    #[test]
    fn the_chosen_answer_has_a_target_of_its_own() {
        let nca: NcaPair = objective(json!({"beta": 0.5}));
        let target = std::f64::consts::LN_2 / 0.5;
        for rejected in [-5.0, 5.0] {
            assert!(slopes(&nca, [target, rejected])[0].abs() < 1e-15);
            assert!(slopes(&nca, [target - 0.1, rejected])[0] < 0.0);
            assert!(slopes(&nca, [target + 0.1, rejected])[0] > 0.0);
        }
    }
}
