use spo_api::{Answer, Pair, PairLoss, Part, Reading, Scalar, register};

use super::options::tenth;

options! {
    [ld_alpha, use_weighting]
    /// `L = sigmoid(beta (s_w - r_w)) + 1 - sigmoid(beta m)`.
    ///
    /// Anchored preference optimization, "down": for when the model by itself is better than even the
    /// preferred answers, which only show in which direction to go.
    ///
    /// Reduction: log-probs are summed over tokens, losses averaged over pairs; between 0 and 2. Lowers
    /// the preferred answer's own probability, on purpose, and the dispreferred one's more.
    pub struct ApoDown {
        /// Inverse temperature, per nat. TRL's default.
        #[serde(default = "tenth")]
        #[schemars(extend("exclusiveMinimum" = 0))]
        pub beta: f64,
    }
}

impl Part for ApoDown {}

impl PairLoss for ApoDown {
    fn reading(&self) -> Reading {
        Reading::default().ld_alpha(self.ld_alpha).weighting(self.use_weighting)
    }

    fn loss<S: Scalar>(&self, pair: &Pair<S>) -> S {
        (pair.chosen.log_ratio() * self.beta).sigmoid() + (-pair.margin() * self.beta).sigmoid()
    }

    fn reward(&self, answer: &Answer<f64>) -> f64 {
        self.beta * answer.log_ratio()
    }
}

register!(objective ApoDown {
    name: "apo_down",
    summary: "lower both answers, the rejected one more",
    source: "D'Oosterlinck et al. 2024, APO-down",
});

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::losses::testing::{objective, slopes};

    #[test]
    fn at_the_reference_the_rejected_answer_alone_is_pushed() {
        let apo: ApoDown = objective(json!({}));
        assert_eq!(slopes(&apo, [0.0, 0.0]), [0.0, 0.025]);
        let [chosen, rejected] = slopes(&apo, [0.0, -10.0]);
        assert!(chosen > 0.0 && rejected > 0.0, "then both go down");
    }
}
