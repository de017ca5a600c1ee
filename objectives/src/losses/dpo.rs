use spo_api::{Answer, ConfigError, Pair, PairLoss, Part, Reading, Scalar, register};

use super::options::tenth;

options! {
    [f_divergence, ld_alpha, use_weighting]
    /// `L = -(1 - e) ln sigmoid(beta m) - e ln sigmoid(-beta m)`, with `m = (s_w - r_w) - (s_l - r_l)`
    /// and `e` the label smoothing.
    ///
    /// Direct preference optimization. With `e > 0` it is conservative DPO (Mitchell 2023): labels are
    /// taken to be wrong with probability `e`, and the loss is least at `beta m = ln((1 - e) / e)`
    /// instead of at infinity. TRL's `sigmoid` ignores label smoothing without a word; with `e = 0` the
    /// two agree.
    ///
    /// Reduction: log-probs are summed over tokens, losses averaged over pairs. Only the difference of
    /// the two log-ratios matters: the loss may fall while both answers lose probability, the preferred
    /// one included, and often does.
    pub struct Dpo {
        /// Inverse temperature, per nat: the price of leaving the reference. TRL's default.
        #[serde(default = "tenth")]
        #[schemars(extend("exclusiveMinimum" = 0))]
        pub beta: f64,
        /// Probability that a preference label is wrong.
        #[serde(default)]
        #[schemars(range(min = 0), extend("exclusiveMaximum" = 0.5))]
        pub label_smoothing: f64,
        /// Take the reference to be uniform: `r_w = r_l = 0`.
        #[serde(default)]
        pub reference_free: bool,
    }
}

impl Part for Dpo {
    fn validate(&self) -> Result<(), ConfigError> {
        if self.reference_free && self.f_divergence != super::FDivergence::ReverseKl {
            return Err(ConfigError::at(
                "f_divergence",
                "a divergence from the reference needs one: remove it, or `reference_free`",
            ));
        }
        Ok(())
    }
}

impl PairLoss for Dpo {
    fn needs_reference(&self) -> bool {
        !self.reference_free
    }

    fn reading(&self) -> Reading {
        Reading::default().ld_alpha(self.ld_alpha).weighting(self.use_weighting)
    }

    fn loss<S: Scalar>(&self, pair: &Pair<S>) -> S {
        smoothed_logistic(self.f_divergence.margin(pair) * self.beta, self.label_smoothing)
    }

    fn reward(&self, answer: &Answer<f64>) -> f64 {
        self.beta * answer.log_ratio()
    }
}

/// `-(1 - e) ln sigmoid(z) - e ln sigmoid(-z)`.
pub(super) fn smoothed_logistic<S: Scalar>(z: S, smoothing: f64) -> S {
    if smoothing == 0.0 {
        return -z.log_sigmoid();
    }
    -z.log_sigmoid() * (1.0 - smoothing) - (-z).log_sigmoid() * smoothing
}

register!(objective Dpo {
    name: "dpo",
    aliases: ["sigmoid"],
    summary: "logistic loss on the margin of log-ratios",
    source: "Rafailov et al. 2023, DPO, eq. 7; Mitchell 2023 for label smoothing",
});

#[cfg(test)]
mod tests {
    use serde_json::json;
    use spo_api::parse;

    use super::*;
    use crate::losses::testing::{loss, objective};

    #[test]
    fn at_the_reference_the_loss_is_one_bit() {
        let dpo: Dpo = objective(json!({"label_smoothing": 0.2}));
        assert!((loss(&dpo, [0.0, 0.0]) - std::f64::consts::LN_2).abs() < 1e-15);
    }

    #[test]
    fn the_smoothed_loss_is_least_at_the_log_odds_of_the_labels() {
        let dpo: Dpo = objective(json!({"beta": 0.5, "label_smoothing": 0.1}));
        let at = |z: f64| loss(&dpo, [z / 0.5, 0.0]);
        let best = (0.9f64 / 0.1).ln();
        assert!(at(best) < at(best - 0.01) && at(best) < at(best + 0.01));
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for (config, key) in [
            (json!({"beta": 0}), "beta"),
            (json!({"beta": -1}), "beta"),
            (json!({"label_smoothing": 0.5}), "label_smoothing"),
            (json!({"label_smoothing": 2}), "label_smoothing"),
            (json!({"ld_alpha": 1.5}), "ld_alpha"),
            (json!({"reference_free": true, "f_divergence": "forward_kl"}), "f_divergence"),
            (json!({"f_divergence": "forward_k"}), "f_divergence"),
        ] {
            assert_eq!(parse::<Dpo>(&config).unwrap_err().key.as_deref(), Some(key), "{config}");
        }
        let dpo: Dpo = objective(json!({"f_divergence": {"alpha_divergence": 0.5}}));
        assert_eq!(dpo.f_divergence, crate::losses::FDivergence::AlphaDivergence(0.5));
    }
}
