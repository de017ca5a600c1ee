use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{
    Dual, EvaluationMut, Layout, Objective, Part, PreferenceBatch, Reading, Requirements, Result, Scalar,
    register,
};

use super::options::{half, tenth};
use super::paired::pairs;
use super::running::Running;

/// `L = -ln sigmoid(beta (s_w/|y_w| - s_l/|y_l|) - gamma - alpha z)`, with `z = (m' - mu) / sigma` the
/// standardised margin of mean log-ratios, `m' = (s_w - r_w)/|y_w| - (s_l - r_l)/|y_l|`; `z` is a constant for the
/// gradient.
///
/// Alpha-DPO: SimPO whose target margin is a pair's own. A pair that the policy already tells apart better than
/// the reference does, as measured against other pairs, must win by more. With `alpha = 0` it is `simpo`.
///
/// Reduction: log-probs are means per token, losses averaged over pairs. `mu` and `sigma` are running figures:
/// those of the first batch, then nine tenths of what they were and one tenth of the batch's, each moved by a batch
/// before it is used; they survive a resume. Where no margin differs (`sigma = 0`, as at the reference itself),
/// `z = 0`. `alpha` is absolute, as `gamma` is; the authors' code subtracts `beta` times it, and starts `mu` and `sigma` at 0.
///
/// Metrics: `target`, the mean of `gamma + alpha z`; its spread is `alpha`'s doing.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AlphaDpo {
    /// Scale of the reward, per nat per token. TRL's default for SimPO.
    #[serde(default = "tenth")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub beta: f64,
    /// Target margin of the rewards of an average pair, absolute. TRL's default for SimPO.
    #[serde(default = "half")]
    #[schemars(range(min = 0))]
    pub gamma: f64,
    /// How far the target follows the pair, per standard deviation.
    #[serde(default = "tenth")]
    #[schemars(range(min = 0))]
    pub alpha: f64,
    #[serde(skip)]
    margins: Running,
}

impl Part for AlphaDpo {}

impl AlphaDpo {
    /// Takes the margins of a batch into the running figures and returns the target of each pair.
    fn targets(&mut self, batch: &PreferenceBatch<'_>) -> Result<Vec<f64>> {
        let margins: Vec<f64> = pairs(batch)?
            .iter()
            .map(|pair| pair.chosen.mean_log_ratio() - pair.rejected.mean_log_ratio())
            .collect();
        let [mu, sigma] = self.margins.update(&margins);
        let z = |m: f64| if sigma == 0.0 { 0.0 } else { (m - mu) / sigma };
        Ok(margins.into_iter().map(|m| self.gamma + self.alpha * z(m)).collect())
    }

    fn logistic(
        &self,
        batch: &PreferenceBatch<'_>,
        targets: &[f64],
        out: &mut EvaluationMut<'_>,
    ) -> Result<()> {
        out.metrics.insert("target".into(), targets.iter().sum::<f64>() / targets.len() as f64);
        for (i, (pair, target)) in pairs(batch)?.iter().zip(targets).enumerate() {
            out.rewards.chosen.push(self.beta * pair.chosen.mean());
            out.rewards.rejected.push(self.beta * pair.rejected.mean());
            let margin = Dual::<1>::input(pair.chosen.mean() - pair.rejected.mean(), 0);
            let loss = -(margin * self.beta - *target).log_sigmoid();
            out.losses[i] = loss.value;
            let d = loss.partials[0] / batch.whole.rows as f64;
            Reading::default().spread(batch, i, [d / pair.chosen.tokens, -d / pair.rejected.tokens], out);
        }
        Reading::default().log(batch, true, out.metrics)
    }
}

impl Objective for AlphaDpo {
    fn requirements(&self) -> Requirements {
        Requirements::of(Layout::Pairs).reference(true).whole_batch(true).least_rows(2)
    }

    fn evaluate(&mut self, batch: &PreferenceBatch<'_>, out: &mut EvaluationMut<'_>) -> Result<()> {
        self.evaluate_held(batch, batch, out)
    }

    /// Holds the targets.
    fn evaluate_held(
        &mut self,
        at: &PreferenceBatch<'_>,
        batch: &PreferenceBatch<'_>,
        out: &mut EvaluationMut<'_>,
    ) -> Result<()> {
        let targets = self.targets(at)?;
        self.logistic(batch, &targets, out)
    }

    fn state(&self) -> Vec<u8> {
        self.margins.state()
    }

    fn restore(&mut self, state: &[u8]) -> Result<()> {
        self.margins = Running::restore("alpha-dpo", state)?;
        Ok(())
    }
}

register!(objective AlphaDpo {
    name: "alpha-dpo",
    summary: "SimPO whose target margin follows the pair; needs a reference",
    source: "Wu et al. 2024, alpha-DPO, arXiv 2410.10148",
});

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::losses::SimPo;
    use crate::losses::testing::{evaluate, objective};

    #[test]
    fn with_alpha_0_it_is_simpo() {
        let mut alpha: AlphaDpo = objective(json!({"beta": 2.0, "gamma": 1.0, "alpha": 0.0}));
        let mut simpo: SimPo = objective(json!({"beta": 2.0, "gamma": 1.0}));
        let [ours, theirs] = [
            evaluate(&mut alpha, Layout::Pairs, &[3.0, 1.0], &[-2.0, 5.0]),
            evaluate(&mut simpo, Layout::Pairs, &[3.0, 1.0], &[-2.0, 5.0]),
        ];
        assert_eq!((ours.losses, ours.grad_chosen), (theirs.losses, theirs.grad_chosen));
    }

    #[test]
    fn a_pair_that_is_ahead_of_the_others_must_win_by_more() {
        let mut alpha: AlphaDpo = objective(json!({"beta": 1.0, "gamma": 0.0, "alpha": 2.0}));
        // Margins 1 and 3: one deviation is the root of 2, and each is 1 away from the mean.
        let out = evaluate(&mut alpha, Layout::Pairs, &[1.0, 3.0], &[0.0, 0.0]);
        let z = 0.5f64.sqrt();
        for (loss, logit) in out.losses.iter().zip([1.0 + 2.0 * z, 3.0 - 2.0 * z]) {
            assert!((loss + logit.log_sigmoid()).abs() < 1e-15);
        }
    }

    #[test]
    fn where_all_margins_are_the_same_no_pair_is_asked_for_more() {
        let mut alpha: AlphaDpo = objective(json!({"alpha": 3.0}));
        let out = evaluate(&mut alpha, Layout::Pairs, &[0.0, 0.0], &[0.0, 0.0]);
        assert_eq!(out.metrics["target"], 0.5);
        assert_eq!(out.losses, [-(-0.5f64).log_sigmoid(); 2]);
    }
}
