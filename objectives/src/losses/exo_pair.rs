use spo_api::{Answer, Pair, PairLoss, Part, Reading, Scalar, register};

use super::options::tenth;

options! {
    [f_divergence, ld_alpha, use_weighting]
    /// `L = q (ln q - ln(1 - e)) + (1 - q) (ln(1 - q) - ln e)`, with `q = sigmoid(beta m)` and `e` the
    /// label smoothing.
    ///
    /// Efficient exact optimization: the *reverse* KL from the policy's preference `q` to the smoothed
    /// label, where DPO has the forward one. It seeks a mode, and is least at `beta m = ln((1 - e)/e)`.
    ///
    /// Reduction: log-probs are summed over tokens, losses averaged over pairs. Effective target:
    /// `ln((1 - e)/e) / beta` nats, 69 at the defaults. The gradient vanishes both beyond it and for pairs
    /// that are very wrong. Nothing holds the preferred answer's own probability.
    pub struct ExoPair {
        /// Inverse temperature, per nat. TRL's default.
        #[serde(default = "tenth")]
        #[schemars(extend("exclusiveMinimum" = 0))]
        pub beta: f64,
        /// Probability that a preference label is wrong. The paper's value; TRL's default of 0 makes the
        /// loss infinite, and TRL refuses it.
        #[serde(default = "thousandth")]
        #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 0.5))]
        pub label_smoothing: f64,
    }
}

fn thousandth() -> f64 {
    1e-3
}

impl Part for ExoPair {}

impl ExoPair {
    /// `ln(1 - e)` and `ln e`. TRL keeps them in single precision; doing so too makes the figures
    /// comparable to their last digits.
    fn log_labels(&self) -> [f64; 2] {
        let e = f64::from(self.label_smoothing as f32);
        [(-e).ln_1p(), e.ln()].map(|log| f64::from(log as f32))
    }
}

impl PairLoss for ExoPair {
    fn reading(&self) -> Reading {
        Reading::default().ld_alpha(self.ld_alpha).weighting(self.use_weighting)
    }

    fn loss<S: Scalar>(&self, pair: &Pair<S>) -> S {
        let z = self.f_divergence.margin(pair) * self.beta;
        let [log_right, log_wrong] = self.log_labels();
        z.sigmoid() * (z.log_sigmoid() - log_right) + (-z).sigmoid() * ((-z).log_sigmoid() - log_wrong)
    }

    fn reward(&self, answer: &Answer<f64>) -> f64 {
        self.beta * answer.log_ratio()
    }
}

register!(objective ExoPair {
    name: "exo_pair",
    summary: "reverse KL from the policy's preference to the smoothed label",
    source: "Ji et al. 2024, EXO, eq. 16",
});

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::losses::testing::{loss, objective};

    #[test]
    fn the_loss_is_zero_at_the_log_odds_of_the_labels() {
        let exo: ExoPair = objective(json!({"beta": 1, "label_smoothing": 0.25}));
        assert!(loss(&exo, [3f64.ln(), 0.0]).abs() < 1e-7);
    }
}
