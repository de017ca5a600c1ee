use spo_api::{Answer, Pair, PairLoss, Part, Reading, Scalar, register};

use super::options::tenth;

options! {
    [f_divergence, ld_alpha, use_weighting]
    /// `L = ((s_w - r_w)/|y_w| - (s_l - r_l)/|y_l| - 1/(2 beta))^2`.
    ///
    /// Identity preference optimization: a square loss that pulls the margin to a finite target, so a
    /// pair that is already well apart is not driven further.
    ///
    /// Reduction: log-ratios are means per token (the paper's equation has sums; its authors and TRL
    /// use means), losses averaged over pairs. Effective target: `1/(2 beta)` nats per token, 5 at
    /// `beta = 0.1`. Losses are in nats per token squared, large for small beta. The preferred answer's
    /// own probability is free: only the margin is held.
    pub struct Ipo {
        /// The paper's tau, per nat per token: half the inverse of the target margin. TRL's default.
        #[serde(default = "tenth")]
        #[schemars(extend("exclusiveMinimum" = 0))]
        pub beta: f64,
    }
}

impl Part for Ipo {}

impl PairLoss for Ipo {
    fn reading(&self) -> Reading {
        Reading::default().ld_alpha(self.ld_alpha).weighting(self.use_weighting)
    }

    fn loss<S: Scalar>(&self, pair: &Pair<S>) -> S {
        (self.f_divergence.mean_margin(pair) - 0.5 / self.beta).squared()
    }

    fn reward(&self, answer: &Answer<f64>) -> f64 {
        self.beta * answer.log_ratio()
    }
}

register!(objective Ipo {
    name: "ipo",
    summary: "square loss that pulls the margin per token to 1/(2 beta)",
    source: "Azar et al. 2023, IPO, eq. 17",
});

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::losses::testing::{objective, slopes};

    #[test]
    fn the_target_is_half_the_inverse_of_beta_per_token() {
        let ipo: Ipo = objective(json!({"beta": 0.25}));
        // Answers of four tokens, 2 nats per token apart.
        assert_eq!(slopes(&ipo, [5.0, -3.0]), [0.0, 0.0]);
        assert!(slopes(&ipo, [5.5, -3.0])[0] > 0.0, "too far apart is wrong as well");
    }
}
