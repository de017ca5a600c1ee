use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{
    Answer, EvaluationMut, Objective, Pair, PairLoss, Part, PreferenceBatch, Requirements, Result, Scalar,
    register,
};

use super::options::{one, tenth};
use super::sft::add_sft;

/// `L = sft_weight * SFT - beta ln sigmoid(ln odds(y_w) - ln odds(y_l))`, with
/// `odds(y) = p / (1 - p)` and `p = e^(s/|y|)`.
///
/// Odds ratio preference optimization: supervised fine-tuning with a penalty on the odds of the
/// dispreferred answer; one stage, no reference.
///
/// Reduction: `p` is the geometric mean probability per token, the odds term is averaged over pairs; SFT
/// is the mean over all chosen tokens of the batch, as `sft` (TRL counts the prompt's tokens in, too). An
/// answer of probability 1 has infinite odds; its `1 - p` is taken to be 1e-12. The preferred answer's
/// probability is raised by the SFT term.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Orpo {
    /// Weight of the odds term: the paper's lambda. TRL's default.
    #[serde(default = "tenth")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub beta: f64,
    /// Weight of the SFT term: 1 in the paper and in TRL.
    #[serde(default = "one")]
    #[schemars(range(min = 0))]
    pub sft_weight: f64,
}

impl Part for Orpo {}

/// The odds term by itself.
struct Odds<'a>(&'a Orpo);

impl PairLoss for Odds<'_> {
    fn needs_reference(&self) -> bool {
        false
    }

    fn loss<S: Scalar>(&self, pair: &Pair<S>) -> S {
        -(log_odds(pair.chosen.mean()) - log_odds(pair.rejected.mean())).log_sigmoid() * self.0.beta
    }

    fn reward(&self, answer: &Answer<f64>) -> f64 {
        self.0.beta * answer.mean()
    }
}

fn log_odds<S: Scalar>(log_p: S) -> S {
    let complement = if log_p.value() > -1e-12 { S::from(-1e-12) } else { log_p };
    log_p - complement.log1mexp()
}

impl Objective for Orpo {
    fn requirements(&self) -> Requirements {
        Odds(self).requirements()
    }

    fn evaluate(&mut self, batch: &PreferenceBatch<'_>, out: &mut EvaluationMut<'_>) -> Result<()> {
        Odds(self).evaluate(batch, out)?;
        add_sft(batch, self.sft_weight, out);
        Ok(())
    }
}

register!(objective Orpo {
    name: "orpo",
    summary: "SFT plus the log odds ratio of the two answers",
    source: "Hong et al. 2024, ORPO, eq. 6 and 7",
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certain_answers_have_finite_odds() {
        let orpo = Orpo { beta: 0.1, sft_weight: 0.0 };
        let certain = Answer { policy: spo_api::Dual::<1>::input(0.0, 0), reference: 0.0, tokens: 1.0 };
        let other = Answer { policy: spo_api::Dual::from(-5.0), ..certain };
        for (chosen, rejected) in [(certain, other), (other, certain), (certain, certain)] {
            let loss = Odds(&orpo).loss(&Pair { chosen, rejected, gap: 0.0 });
            assert!(loss.value.is_finite() && loss.partials[0].is_finite(), "{loss:?}");
        }
    }
}
