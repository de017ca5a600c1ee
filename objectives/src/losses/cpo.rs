use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use spo_api::{
    Answer, ConfigError, EvaluationMut, Objective, Pair, PairLoss, Part, PreferenceBatch, Requirements,
    Result, Scalar, register,
};

use super::alphapo::shaped;
use super::dpo::smoothed_logistic;
use super::options::{one, tenth};
use super::sft::add_sft;

/// `L = preference + sft_weight * SFT`; the preference term, with `d` the difference of the rewards
/// (`alpha = 0`: of `s_w` and `s_l`), is `-(1 - e) ln sigmoid(beta d) - e ln sigmoid(-beta d)` for
/// `"sigmoid"`, `max(0, 1 - beta d)` for `"hinge"`, `(d - 1/(2 beta))^2` for `"ipo"`.
///
/// Contrastive preference optimization: DPO with a uniform reference, and a likelihood term on the
/// preferred answers to keep it in place.
///
/// Reduction: log-probs are summed over tokens for `sigmoid` and `hinge`, means per token for `ipo`;
/// losses averaged over pairs. SFT is the mean over all chosen tokens of the batch, as `sft`. The
/// preferred answer's probability is held up by the SFT term alone.
///
/// Metrics: `nll_loss`, the SFT term, nats per token.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cpo {
    /// The preference term.
    #[serde(default)]
    pub loss_type: CpoLoss,
    /// Inverse temperature, per nat. TRL's default.
    #[serde(default = "tenth")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub beta: f64,
    /// Probability that a preference label is wrong; `loss_type = "sigmoid"` only.
    #[serde(default)]
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 0.5))]
    pub label_smoothing: f64,
    /// Shape of the reward, `(1 - e^(-alpha s)) / alpha`, as in `alphapo`; 0 is `s` itself.
    #[serde(default)]
    pub alpha: f64,
    /// Weight of the SFT term: TRL's `cpo_alpha`, and its default.
    #[serde(default = "one")]
    #[schemars(range(min = 0))]
    pub sft_weight: f64,
}

/// The preference term of [`Cpo`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CpoLoss {
    /// Logistic, as DPO.
    #[default]
    Sigmoid,
    /// Hinge, as SLiC.
    Hinge,
    /// Square, as IPO.
    Ipo,
}

impl Part for Cpo {
    fn validate(&self) -> Result<(), ConfigError> {
        if self.label_smoothing > 0.0 && self.loss_type != CpoLoss::Sigmoid {
            return Err(ConfigError::at(
                "label_smoothing",
                "has an effect with loss_type = \"sigmoid\" only",
            ));
        }
        Ok(())
    }
}

/// The preference term by itself.
struct Preference<'a>(&'a Cpo);

impl Preference<'_> {
    fn shaped<S: Scalar>(&self, answer: &Answer<S>) -> S {
        let s = if self.0.loss_type == CpoLoss::Ipo { answer.mean() } else { answer.policy };
        shaped(s, self.0.alpha)
    }
}

impl PairLoss for Preference<'_> {
    fn needs_reference(&self) -> bool {
        false
    }

    fn reads_means(&self) -> bool {
        self.0.loss_type == CpoLoss::Ipo
    }

    fn loss<S: Scalar>(&self, pair: &Pair<S>) -> S {
        let Cpo { loss_type, beta, label_smoothing, .. } = *self.0;
        let d = self.shaped(&pair.chosen) - self.shaped(&pair.rejected);
        match loss_type {
            CpoLoss::Sigmoid => smoothed_logistic(d * beta, label_smoothing),
            CpoLoss::Hinge => (-d * beta + 1.0).relu(),
            CpoLoss::Ipo => (d - 0.5 / beta).squared(),
        }
    }

    fn reward(&self, answer: &Answer<f64>) -> f64 {
        self.0.beta * self.shaped(answer)
    }
}

impl Objective for Cpo {
    fn requirements(&self) -> Requirements {
        Preference(self).requirements()
    }

    fn evaluate(&mut self, batch: &PreferenceBatch<'_>, out: &mut EvaluationMut<'_>) -> Result<()> {
        Preference(self).evaluate(batch, out)?;
        let nll = add_sft(batch, self.sft_weight, out);
        out.metrics.insert("nll_loss".into(), nll);
        Ok(())
    }
}

register!(objective Cpo {
    name: "cpo",
    summary: "DPO with a uniform reference, plus SFT",
    source: "Xu et al. 2024, CPO",
});

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::losses::testing::{loss, objective};

    #[test]
    fn the_preference_term_is_dpo_with_a_uniform_reference() {
        let cpo: Cpo = objective(json!({"label_smoothing": 0.1}));
        let dpo: crate::losses::Dpo = objective(json!({"label_smoothing": 0.1, "reference_free": true}));
        // `reference_free` reads no reference: where the two are equal, so are the losses.
        assert_eq!(loss(&Preference(&cpo), [1.0, -2.0]), loss(&dpo, [1.0, -2.0]));
    }
}
