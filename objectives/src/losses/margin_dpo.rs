use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{Answer, Column, Pair, PairLoss, Part, Scalar, register};

use super::options::tenth;

/// `L = -ln sigmoid(beta m - margin)`, with `margin` the number in this column of the row.
///
/// DPO in which each pair says by how much it must be won: 0 asks for what DPO asks, 3 for a preference that is
/// much clearer. Llama 2 sets it from how much better annotators found the answer, in the loss of its reward
/// models; TRL's reward trainer reads it from a column of the same name. [`odpo`](#odpo) makes such an offset of scores.
///
/// Reduction: log-probs are summed over tokens, losses averaged over pairs. Effective target margin:
/// `margin / beta` nats. A negative margin is allowed and forgives a pair that is lost by less. Nothing holds the preferred
/// answer's own probability.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MarginDpo {
    /// Inverse temperature, per nat. TRL's default for `dpo`.
    #[serde(default = "tenth")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub beta: f64,
}

impl Part for MarginDpo {}

impl PairLoss for MarginDpo {
    fn columns(&self) -> Vec<Column> {
        vec![Column::new("margin")]
    }

    fn loss<S: Scalar>(&self, pair: &Pair<S>) -> S {
        -(pair.margin() * self.beta - pair.columns[0]).log_sigmoid()
    }

    fn reward(&self, answer: &Answer<f64>) -> f64 {
        self.beta * answer.log_ratio()
    }
}

register!(objective MarginDpo {
    name: "margin-dpo",
    summary: "DPO with a margin of its own for each pair",
    source: "Touvron et al. 2023, Llama 2, eq. 2: the margin of its reward models, on DPO's rewards",
});

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::losses::testing::{objective, pair};

    #[test]
    fn a_pair_that_must_be_won_by_more_costs_more() {
        let loss: MarginDpo = objective(json!({ "beta": 0.5 }));
        let at = |margin: f64| loss.loss(&Pair { columns: &[margin], ..pair([3.0, -1.0]) });
        assert_eq!(at(0.0), -2f64.log_sigmoid(), "no margin: DPO");
        assert_eq!(at(3.0), -(-1f64).log_sigmoid());
        assert_eq!(at(-1.0), -3f64.log_sigmoid());
    }
}
