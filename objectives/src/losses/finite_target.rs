use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{Answer, Pair, PairLoss, Part, Scalar, register};

use super::options::tenth;

/// `L = -z e^-z`, with `z = beta m`.
///
/// A loss with a finite target: least at `z = 1`, steep where the pair is wrong, nearly flat beyond the
/// target, where IPO's square punishes a pair for being too right.
///
/// Reduction: log-probs are summed over tokens, losses averaged over pairs. Effective target: `1/beta`
/// nats, 10 at `beta = 0.1`; the least loss is `-1/e`. Below `z = -30` the loss goes on along its tangent,
/// as `e^-z` would overflow. The preferred answer's own probability is free: only the margin is held, but
/// it stops being pushed once the target is met.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FiniteTarget {
    /// Inverse of the target margin, per nat.
    #[serde(default = "tenth")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub beta: f64,
}

impl Part for FiniteTarget {}

/// Below this `z`, the loss is continued along its tangent.
const LOWEST: f64 = -30.0;

impl PairLoss for FiniteTarget {
    fn loss<S: Scalar>(&self, pair: &Pair<S>) -> S {
        let z = pair.margin() * self.beta;
        if z.value() < LOWEST {
            let slope = (LOWEST - 1.0) * (-LOWEST).exp();
            return (z - LOWEST) * slope - LOWEST * (-LOWEST).exp();
        }
        -z * (-z).exp()
    }

    fn reward(&self, answer: &Answer<f64>) -> f64 {
        self.beta * answer.log_ratio()
    }
}

register!(objective FiniteTarget {
    name: "finite-target",
    summary: "-z e^-z on the margin: a finite target",
    source: "A principled loss function for direct language model alignment, 2025",
});

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::losses::testing::{loss, objective, slopes};

    #[test]
    fn the_target_is_at_one_and_the_tangent_continues_the_loss() {
        let finite: FiniteTarget = objective(json!({"beta": 1.0}));
        assert_eq!(slopes(&finite, [1.0, 0.0]), [0.0, 0.0]);
        assert_eq!(loss(&finite, [1.0, 0.0]), -f64::exp(-1.0));
        let [above, below] = [LOWEST + 1e-9, LOWEST - 1e-9];
        assert!((loss(&finite, [above, 0.0]) / loss(&finite, [below, 0.0]) - 1.0).abs() < 1e-8);
        assert!((slopes(&finite, [above, 0.0])[0] / slopes(&finite, [below, 0.0])[0] - 1.0).abs() < 1e-8);
    }
}
