use spo_api::{Answer, Pair, PairLoss, Part, Reading, Scalar, register};

use super::options::tenth;

options! {
    [f_divergence, ld_alpha, use_weighting]
    /// `L = -(1 - g) ln sigmoid(z) + g e^-z`, with `z = beta m` and `g = sigmoid(z / tau)`.
    ///
    /// Log-ratio modulated loss, found by a language model searching for objectives: logistic where the
    /// pair is wrong, exponential where it is right, blended by `g`. It is not convex, and has a local
    /// minimum on the wrong side of zero.
    ///
    /// Reduction: log-probs are summed over tokens, losses averaged over pairs. Effective width of the
    /// blend: `tau / beta` nats, 0.5 at the defaults. Nothing holds the preferred answer's own
    /// probability.
    pub struct Discopop {
        /// Inverse temperature, per nat. TRL's default.
        #[serde(default = "tenth")]
        #[schemars(extend("exclusiveMinimum" = 0))]
        pub beta: f64,
        /// Temperature of the blend. TRL's default. Beyond 1 the exponential would win where the pair is
        /// wrong, and grow without bound.
        #[serde(default = "twentieth")]
        #[schemars(range(max = 1), extend("exclusiveMinimum" = 0))]
        pub discopop_tau: f64,
    }
}

fn twentieth() -> f64 {
    0.05
}

impl Part for Discopop {}

impl PairLoss for Discopop {
    fn reading(&self) -> Reading {
        Reading::default().ld_alpha(self.ld_alpha).weighting(self.use_weighting)
    }

    fn loss<S: Scalar>(&self, pair: &Pair<S>) -> S {
        let z = self.f_divergence.margin(pair) * self.beta;
        let blend = z / self.discopop_tau;
        // Use a single exponential: e^-z would overflow before its factor makes the product vanish.
        (blend.log_sigmoid() - z).exp() - z.log_sigmoid() * (-blend).sigmoid()
    }

    fn reward(&self, answer: &Answer<f64>) -> f64 {
        self.beta * answer.log_ratio()
    }
}

register!(objective Discopop {
    name: "discopop",
    summary: "blend of logistic and exponential loss",
    source: "Lu et al. 2024, DiscoPOP: the log-ratio modulated loss",
});

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::losses::testing::{loss, objective};

    #[test]
    fn it_is_logistic_where_wrong_and_exponential_where_right() {
        let discopop: Discopop = objective(json!({"beta": 1.0}));
        assert!((loss(&discopop, [3.0, 0.0]) - f64::exp(-3.0)).abs() < 1e-15);
        assert!((loss(&discopop, [-3.0, 0.0]) + (-3f64).log_sigmoid()).abs() < 1e-15);
    }
}
