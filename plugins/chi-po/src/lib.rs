//! Chi-squared preference optimization, a loss that `spo-run` loads at run time.

use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{Answer, Pair, PairLoss, Part, Scalar, register};

spo_api::export_plugins!();

/// `-log sigmoid(clip(beta (phi(s_w - r_w) - phi(s_l - r_l)), 2 r_max))`, `phi(x) = e^x + x`: DPO under a
/// chi-squared divergence beside KL, which holds the policy closer to the reference where it would stray
/// furthest.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChiPo {
    /// Inverse temperature.
    #[serde(default = "ChiPo::beta")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub beta: f64,
    /// Largest reward: the clip is at twice this, and a pair beyond it has no gradient.
    #[serde(default = "ChiPo::r_max")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub r_max: f64,
}

impl ChiPo {
    fn beta() -> f64 {
        0.1
    }
    fn r_max() -> f64 {
        5.0
    }
}

impl Part for ChiPo {}

/// `e^x + x`. Beyond e^100 every clip has long been reached.
fn phi<S: Scalar>(answer: &Answer<S>) -> S {
    let x = answer.log_ratio();
    let bounded = if x.value() > 100.0 { S::from(100.0) } else { x };
    bounded.exp() + x
}

impl PairLoss for ChiPo {
    fn loss<S: Scalar>(&self, pair: &Pair<S>) -> S {
        let bound = 2.0 * self.r_max;
        let z = (phi(&pair.chosen) - phi(&pair.rejected)) * self.beta;
        let clipped = if z.value().abs() > bound { S::from(bound.copysign(z.value())) } else { z };
        -clipped.log_sigmoid()
    }
}

register!(objective ChiPo {
    name: "chi-po",
    aliases: ["xpo-chi"],
    summary: "DPO under a chi-squared divergence, clipped",
    source: "Huang et al. 2024, Correcting the Mythos of KL-Regularization, alg. 1",
});

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(chosen: f64, rejected: f64) -> f64 {
        let answer = |policy| Answer { policy, reference: 0.0, tokens: 1.0 };
        ChiPo { beta: 0.1, r_max: 5.0 }.loss(&Pair { chosen: answer(chosen), rejected: answer(rejected), gap: 0.0, columns: &[] })
    }

    #[test]
    fn it_is_that_of_dpo_at_the_reference_and_constant_beyond_the_clip() {
        assert!((loss(0.0, 0.0) - std::f64::consts::LN_2).abs() < 1e-15);
        assert_eq!(loss(6.0, 0.0), loss(1e4, 0.0));
        assert!((loss(0.0, 6.0) - 10.0).abs() < 1e-4);
    }

    #[test]
    fn for_small_log_ratios_it_is_dpo_with_twice_the_beta() {
        // e^x + x = 1 + 2x + ...
        let dpo = -(0.2f64 * 1e-3).log_sigmoid();
        assert!((loss(1e-3, 0.0) - dpo).abs() < 1e-7);
    }
}
