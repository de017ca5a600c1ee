//! A loss for spo.

use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{Pair, PairLoss, Part, Scalar, register};

spo_api::export_plugins!();

/// Squared hinge on the margin: `max(0, 1 - beta m)^2`, m the difference of the log-ratios.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct @TYPE@ {
    /// Inverse temperature, per nat.
    #[serde(default = "default_beta")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub beta: f64,
}

fn default_beta() -> f64 {
    0.1
}

impl Part for @TYPE@ {}

impl PairLoss for @TYPE@ {
    fn loss<S: Scalar>(&self, pair: &Pair<S>) -> S {
        let slack = (S::from(1.0) - pair.margin() * self.beta).relu();
        slack * slack
    }
}

register!(objective @TYPE@ {
    name: "@NAME@",
    summary: "squared hinge on the margin of log-ratios",
    source: "replace me: paper and equation",
});

#[cfg(test)]
mod tests {
    use spo_api::Answer;

    use super::*;

    /// The loss at this margin, in nats.
    fn at(margin: f64) -> f64 {
        let answer = |policy| Answer { policy, reference: 0.0, tokens: 1.0 };
        @TYPE@ { beta: 0.1 }.loss(&Pair { chosen: answer(margin), rejected: answer(0.0), gap: 0.0, columns: &[] })
    }

    #[test]
    fn it_is_one_at_the_reference_and_nothing_beyond_the_hinge() {
        assert_eq!(at(0.0), 1.0);
        assert_eq!(at(5.0), 0.25);
        assert_eq!(at(20.0), 0.0);
    }
}
