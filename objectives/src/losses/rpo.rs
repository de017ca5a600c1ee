use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{Answer, Pair, PairLoss, Part, Scalar, register};

use super::options::{one, tenth};

/// `L = -ln sigmoid(beta m) - alpha s_w / |y_w|`.
///
/// DPO with the negative log-likelihood of the preferred answer, as in iterative reasoning preference
/// optimization.
///
/// Reduction: in the margin log-probs are summed over tokens; the likelihood is a mean per token *of its
/// answer*; losses are averaged over pairs. So every answer counts alike, long or short, where a sum of
/// `dpo` and `sft` weighs answers by their length. The paper divides by the length of prompt and answer
/// together, which makes its alpha effectively smaller. Holds the preferred answer's probability up.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rpo {
    /// Inverse temperature, per nat. TRL's default for `dpo`, and the paper's value.
    #[serde(default = "tenth")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub beta: f64,
    /// Weight of the likelihood term. The paper's value.
    #[serde(default = "one")]
    #[schemars(range(min = 0))]
    pub alpha: f64,
}

impl Part for Rpo {}

impl PairLoss for Rpo {
    fn loss<S: Scalar>(&self, pair: &Pair<S>) -> S {
        -(pair.margin() * self.beta).log_sigmoid() - pair.chosen.mean() * self.alpha
    }

    fn reward(&self, answer: &Answer<f64>) -> f64 {
        self.beta * answer.log_ratio()
    }
}

register!(objective Rpo {
    name: "rpo",
    summary: "DPO plus the chosen answer's likelihood",
    source: "Pang et al. 2024, Iterative reasoning preference optimization, eq. 1",
});

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::losses::testing::{objective, slopes};

    #[test]
    fn the_chosen_answer_is_pushed_up_at_any_margin() {
        let rpo: Rpo = objective(json!({"alpha": 2.0}));
        let [chosen, rejected] = slopes(&rpo, [1e4, -1e4]);
        // 2 over four tokens.
        assert_eq!((chosen, rejected), (-0.5, 0.0));
    }
}
