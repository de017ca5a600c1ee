use spo_api::{Answer, Pair, PairLoss, Part, Reading, Scalar, register};

use super::options::tenth;

options! {
    [ld_alpha, use_weighting]
    /// `L = 1 - sigmoid(beta (s_w - r_w)) + sigmoid(beta (s_l - r_l))`.
    ///
    /// Anchored preference optimization, "zero": for when the preferred answers are better than what the
    /// model says by itself.
    ///
    /// Reduction: log-probs are summed over tokens, losses averaged over pairs; between 0 and 2. Raises
    /// the preferred answer's own probability and lowers the dispreferred one's; the gradient fades as
    /// either leaves the reference, in both directions.
    pub struct ApoZero {
        /// Inverse temperature, per nat. TRL's default.
        #[serde(default = "tenth")]
        #[schemars(extend("exclusiveMinimum" = 0))]
        pub beta: f64,
    }
}

impl Part for ApoZero {}

impl PairLoss for ApoZero {
    fn reading(&self) -> Reading {
        Reading::default().ld_alpha(self.ld_alpha).weighting(self.use_weighting)
    }

    fn loss<S: Scalar>(&self, pair: &Pair<S>) -> S {
        (-pair.chosen.log_ratio() * self.beta).sigmoid() + (pair.rejected.log_ratio() * self.beta).sigmoid()
    }

    fn reward(&self, answer: &Answer<f64>) -> f64 {
        self.beta * answer.log_ratio()
    }
}

register!(objective ApoZero {
    name: "apo_zero",
    summary: "raise the chosen answer, lower the rejected one, each by itself",
    source: "D'Oosterlinck et al. 2024, APO-zero",
});

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::losses::testing::{loss, objective, slopes};

    #[test]
    fn the_gradient_fades_on_both_sides_of_the_reference() {
        let apo: ApoZero = objective(json!({}));
        let at = |ratio: f64| slopes(&apo, [ratio, 0.0])[0];
        assert!(at(0.0) < at(20.0) && at(0.0) < at(-20.0) && at(-20.0) < 0.0);
        assert_eq!(loss(&apo, [0.0, 0.0]), 1.0);
    }
}
