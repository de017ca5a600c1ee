use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use spo_api::{
    Answer, ConfigError, EvaluationMut, Objective, Pair, PairLoss, Part, PreferenceBatch, Requirements,
    Result, Scalar, register,
};

use super::dpo::smoothed_logistic;
use super::options::{half, one, tenth};
use super::sft::add_sft;

/// `L = preference + sft_weight * SFT`; the preference term is, for `"sigmoid"`, `-ln sigmoid(z)`
/// with `z = beta (s_w - s_l)`; for `"hinge"`, `max(0, 1 - z)`; for `"ipo"`, `(d - 1/(2 beta))^2` with
/// `d = s_w/|y_w| - s_l/|y_l|`; for `"tpo-l"`, `-ln sigmoid(beta d - gamma)`.
///
/// Triple preference optimization: a contrast without reference, and likelihood of a third, gold answer.
/// Here the preferred answer stands in for the gold one. If there are gold answers apart, set
/// `sft_weight = 0` and make them the lower level's data of a `weighted` step.
///
/// Reduction: log-probs are summed over tokens for `sigmoid` and `hinge`, means per token for `ipo` and
/// `tpo-l`; losses averaged over pairs. SFT is the mean over all chosen tokens of the batch, as `sft`.
/// Gamma is absolute, as in `simpo`. The preferred answer's probability is held up by the SFT term alone.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tpo {
    /// The preference term.
    #[serde(default)]
    pub loss_type: TpoLoss,
    /// Inverse temperature, per nat.
    #[serde(default = "tenth")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub beta: f64,
    /// Probability that a preference label is wrong; `"sigmoid"` and `"tpo-l"` only.
    #[serde(default)]
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 0.5))]
    pub label_smoothing: f64,
    /// Target margin of `"tpo-l"`, absolute: TRL's `tpo_l_gamma`.
    #[serde(default = "half")]
    #[schemars(range(min = 0))]
    pub gamma: f64,
    /// Weight of the SFT term: TRL's `tpo_alpha`, and its default.
    #[serde(default = "one")]
    #[schemars(range(min = 0))]
    pub sft_weight: f64,
}

/// The preference term of [`Tpo`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TpoLoss {
    /// Logistic, as DPO.
    #[default]
    Sigmoid,
    /// Hinge, as SLiC.
    Hinge,
    /// Square, as IPO.
    Ipo,
    /// Logistic on mean log-probs with a target margin, as SimPO.
    TpoL,
}

impl Part for Tpo {
    fn validate(&self) -> Result<(), ConfigError> {
        if self.label_smoothing > 0.0 && matches!(self.loss_type, TpoLoss::Hinge | TpoLoss::Ipo) {
            return Err(ConfigError::at(
                "label_smoothing",
                "has an effect with loss_type = \"sigmoid\" and \"tpo-l\" only",
            ));
        }
        if self.gamma != half() && self.loss_type != TpoLoss::TpoL {
            return Err(ConfigError::at("gamma", "has an effect with loss_type = \"tpo-l\" only"));
        }
        Ok(())
    }
}

/// The preference term by itself.
struct Preference<'a>(&'a Tpo);

impl Preference<'_> {
    fn score<S: Scalar>(&self, answer: &Answer<S>) -> S {
        match self.0.loss_type {
            TpoLoss::Sigmoid | TpoLoss::Hinge => answer.policy,
            TpoLoss::Ipo | TpoLoss::TpoL => answer.mean(),
        }
    }
}

impl PairLoss for Preference<'_> {
    fn needs_reference(&self) -> bool {
        false
    }

    fn reads_means(&self) -> bool {
        matches!(self.0.loss_type, TpoLoss::Ipo | TpoLoss::TpoL)
    }

    fn loss<S: Scalar>(&self, pair: &Pair<S>) -> S {
        let Tpo { loss_type, beta, label_smoothing, gamma, .. } = *self.0;
        let d = self.score(&pair.chosen) - self.score(&pair.rejected);
        match loss_type {
            TpoLoss::Sigmoid => smoothed_logistic(d * beta, label_smoothing),
            TpoLoss::Hinge => (-d * beta + 1.0).relu(),
            TpoLoss::Ipo => (d - 0.5 / beta).squared(),
            TpoLoss::TpoL => smoothed_logistic(d * beta - gamma, label_smoothing),
        }
    }

    fn reward(&self, answer: &Answer<f64>) -> f64 {
        self.0.beta * self.score(answer)
    }
}

impl Objective for Tpo {
    fn requirements(&self) -> Requirements {
        Preference(self).requirements()
    }

    fn evaluate(&mut self, batch: &PreferenceBatch<'_>, out: &mut EvaluationMut<'_>) -> Result<()> {
        Preference(self).evaluate(batch, out)?;
        add_sft(batch, self.sft_weight, out);
        Ok(())
    }
}

register!(objective Tpo {
    name: "tpo",
    summary: "contrast without reference, plus SFT on the gold answer",
    source: "Saeidi et al. 2024, TPO",
});

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::losses::testing::{loss, objective};

    #[test]
    fn the_preference_terms_are_those_of_cpo_and_simpo() {
        let tpo = |loss_type| -> Tpo { objective(json!({"loss_type": loss_type})) };
        let simpo: crate::losses::SimPo = objective(json!({}));
        assert_eq!(loss(&Preference(&tpo("tpo-l")), [1.0, -2.0]), loss(&simpo, [1.0, -2.0]));
        assert_eq!(loss(&Preference(&tpo("ipo")), [1.0, -2.0]), (0.75f64 - 5.0).powi(2));
    }
}
