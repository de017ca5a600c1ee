use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{
    Answer, EvaluationMut, Objective, Pair, PairLoss, Part, PreferenceBatch, Reading, Requirements, Result,
    Scalar, register,
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
///
/// Metrics, as in TRL: `nll_loss`, the SFT term, nats per token; `log_odds_chosen`, the mean difference of the log
/// odds; `log_odds_ratio`, the mean of its `ln sigmoid`.
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

    fn reads_means(&self) -> bool {
        true
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
        let nll = add_sft(batch, self.sft_weight, out);
        let rows = batch.rows() as f64;
        let (mut log_odds_ratio, mut log_odds_chosen) = (0.0, 0.0);
        for i in 0..batch.rows() {
            let pair = Reading::default().pair(batch, i, false)?;
            let log_odds = log_odds(pair.chosen.mean()) - log_odds(pair.rejected.mean());
            log_odds_chosen += log_odds / rows;
            log_odds_ratio += log_odds.log_sigmoid() / rows;
        }
        let named =
            [("nll_loss", nll), ("log_odds_ratio", log_odds_ratio), ("log_odds_chosen", log_odds_chosen)];
        out.metrics.extend(named.map(|(name, value)| (name.to_owned(), value)));
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
    use spo_api::Layout;

    use super::*;
    use crate::losses::testing::{evaluate, objective};

    #[test]
    fn metrics_are_those_of_trl() {
        let mut orpo: Orpo = objective(serde_json::json!({}));
        let out = evaluate(&mut orpo, Layout::Pairs, &[-1.0, -2.0], &[-1.5, -0.5]);
        let odds = |p: f64| (p / (1.0 - p)).ln();
        let z = [(-1.0f64, -1.5f64), (-2.0, -0.5)].map(|(w, l)| odds(w.exp()) - odds(l.exp()));
        let mean = |f: fn(f64) -> f64| z.iter().map(|&z| f(z)).sum::<f64>() / 2.0;
        for (name, value) in [
            ("nll_loss", 1.5),
            ("log_odds_chosen", mean(|z| z)),
            ("log_odds_ratio", mean(|z| -(-z).exp().ln_1p())),
            ("logps/chosen", -1.5),
            ("logps/rejected", -1.0),
        ] {
            assert!((out.metrics[name] - value).abs() < 1e-12, "{name}: {} {value}", out.metrics[name]);
        }
    }

    #[test]
    fn certain_answers_have_finite_odds() {
        let orpo = Orpo { beta: 0.1, sft_weight: 0.0 };
        let certain = Answer { policy: spo_api::Dual::<1>::input(0.0, 0), reference: 0.0, tokens: 1.0 };
        let other = Answer { policy: spo_api::Dual::from(-5.0), ..certain };
        for (chosen, rejected) in [(certain, other), (other, certain), (certain, certain)] {
            let loss = Odds(&orpo).loss(&Pair { chosen, rejected, gap: 0.0, columns: &[] });
            assert!(loss.value.is_finite() && loss.partials[0].is_finite(), "{loss:?}");
        }
    }
}
