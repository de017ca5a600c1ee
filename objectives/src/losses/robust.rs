use spo_api::{Answer, Pair, PairLoss, Part, Reading, Scalar, register};

use super::options::tenth;

options! {
    [f_divergence, ld_alpha, use_weighting]
    /// `L = (-(1 - e) ln sigmoid(beta m) + e ln sigmoid(-beta m)) / (1 - 2 e)`, with `e` the label
    /// smoothing.
    ///
    /// Robust DPO: an unbiased estimate of the DPO loss on clean labels when a share `e` of them is
    /// flipped. Where `dpo` with label smoothing (cDPO) shrinks the target, this one corrects for the
    /// noise, and the loss has no lower bound.
    ///
    /// Reduction: log-probs are summed over tokens, losses averaged over pairs. Effective weight of a
    /// pair that is far on the right side: `e/(1 - 2e)` per nat, pushing *on*. Nothing holds the preferred
    /// answer's own probability.
    pub struct Robust {
        /// Inverse temperature, per nat. TRL's default.
        #[serde(default = "tenth")]
        #[schemars(extend("exclusiveMinimum" = 0))]
        pub beta: f64,
        /// Share of preference labels that are wrong. 0, TRL's default, is DPO.
        #[serde(default)]
        #[schemars(range(min = 0), extend("exclusiveMaximum" = 0.5))]
        pub label_smoothing: f64,
    }
}

impl Part for Robust {}

impl PairLoss for Robust {
    fn reading(&self) -> Reading {
        Reading::default().ld_alpha(self.ld_alpha).weighting(self.use_weighting)
    }

    fn loss<S: Scalar>(&self, pair: &Pair<S>) -> S {
        let z = self.f_divergence.margin(pair) * self.beta;
        let e = self.label_smoothing;
        (-z.log_sigmoid() * (1.0 - e) + (-z).log_sigmoid() * e) / (1.0 - 2.0 * e)
    }

    fn reward(&self, answer: &Answer<f64>) -> f64 {
        self.beta * answer.log_ratio()
    }
}

register!(objective Robust {
    name: "robust",
    summary: "DPO, unbiased under flipped labels",
    source: "Chowdhury et al. 2024, Provably robust DPO",
});

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::losses::testing::{loss, objective};

    #[test]
    fn on_flipped_labels_it_is_dpo_on_clean_ones_in_the_mean() {
        let robust: Robust = objective(json!({"label_smoothing": 0.2}));
        let dpo: crate::losses::Dpo = objective(json!({}));
        for [w, l] in [[4.0, -3.0], [-8.0, 6.0]] {
            let mean = 0.8 * loss(&robust, [w, l]) + 0.2 * loss(&robust, [l, w]);
            assert!((mean - loss(&dpo, [w, l])).abs() < 1e-14);
        }
    }
}
