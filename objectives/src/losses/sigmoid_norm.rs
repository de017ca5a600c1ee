use spo_api::{Answer, Pair, PairLoss, Part, Reading, Scalar, register};

use super::options::tenth;

options! {
    [f_divergence, ld_alpha, use_weighting]
    /// `L = -ln sigmoid(beta ((s_w - r_w)/|y_w| - (s_l - r_l)/|y_l|))`.
    ///
    /// Length-normalised DPO: the margin of the mean log-ratios per token, so that a long answer does not
    /// outweigh a short one.
    ///
    /// Reduction: log-ratios are means per token, losses averaged over pairs. A beta acts like one
    /// smaller by the answers' length in `dpo`, so useful values are larger: 5 in Tülu 3. The rewards
    /// that are logged are `beta` times the summed log-ratio, as TRL's. Nothing holds the preferred
    /// answer's own probability.
    pub struct SigmoidNorm {
        /// Inverse temperature, per nat per token. TRL's default.
        #[serde(default = "tenth")]
        #[schemars(extend("exclusiveMinimum" = 0))]
        pub beta: f64,
    }
}

impl Part for SigmoidNorm {}

impl PairLoss for SigmoidNorm {
    fn reading(&self) -> Reading {
        Reading::default().ld_alpha(self.ld_alpha).weighting(self.use_weighting)
    }

    fn loss<S: Scalar>(&self, pair: &Pair<S>) -> S {
        -(self.f_divergence.mean_margin(pair) * self.beta).log_sigmoid()
    }

    fn reward(&self, answer: &Answer<f64>) -> f64 {
        self.beta * answer.log_ratio()
    }
}

register!(objective SigmoidNorm {
    name: "sigmoid_norm",
    summary: "DPO on mean log-ratios per token",
    source: "Lambert et al. 2024, Tülu 3: length-normalized DPO",
});

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::losses::testing::{loss, objective};

    #[test]
    fn lengths_divide_the_log_ratios() {
        let norm: SigmoidNorm = objective(json!({"beta": 2.0}));
        let dpo: crate::losses::Dpo = objective(json!({"beta": 0.5}));
        assert!((loss(&norm, [3.0, -1.0]) - loss(&dpo, [3.0, -1.0])).abs() < 1e-15, "four tokens each");
    }
}
