use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{
    EvaluationMut, Layout, Objective, Pair, Part, PreferenceBatch, Requirements, Result, register,
};

use super::dpo::Dpo;
use super::f_divergence::FDivergence;
use super::options::tenth;
use super::paired::pairs;
use super::running::Running;

/// `L = -ln sigmoid(beta' m)`, with `beta' = max(0.001, beta (1 + alpha (mean m - m0)))`, where `m0` is the running
/// mean of the margins; `beta'` is a constant for the gradient.
///
/// DPO with a dynamic beta: a batch whose pairs are easier to tell apart than those before is held closer to the
/// reference, a harder one may move further.
///
/// Reduction: log-probs are summed over tokens, losses averaged over pairs. The mean of `m` is that of the
/// whole optimizer batch, however it is split for memory. Every evaluation moves `m0`, by its batch and before
/// using it: `m0 = 0.9 m0 + 0.1 mean m`, from the first batch's mean on; it survives a resume. The paper also leaves
/// out pairs of a batch by a draw; this loss uses all. Nothing holds the preferred answer's own probability.
///
/// Metrics: `beta`, the `beta'` of the batch, per nat.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BetaDpo {
    /// Inverse temperature of an average batch, per nat. TRL's default for `dpo`.
    #[serde(default = "tenth")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub beta: f64,
    /// How far beta follows the margins, per nat. The paper's choice.
    #[serde(default = "six_tenths")]
    #[schemars(range(min = 0))]
    pub alpha: f64,
    #[serde(skip)]
    margins: Running,
}

fn six_tenths() -> f64 {
    0.6
}

impl Part for BetaDpo {}

impl BetaDpo {
    /// Takes the margins of a batch into the running mean and returns `beta'`.
    fn adapt(&mut self, batch: &PreferenceBatch<'_>) -> Result<f64> {
        let margins: Vec<f64> = pairs(batch)?.iter().map(Pair::margin).collect();
        let [running, _] = self.margins.update(&margins);
        let mean = margins.iter().sum::<f64>() / margins.len() as f64;
        Ok((self.beta * (1.0 + self.alpha * (mean - running))).max(1e-3))
    }

    /// The loss, once `beta'` is known.
    fn at(beta: f64) -> Dpo {
        Dpo {
            beta,
            label_smoothing: 0.0,
            reference_free: false,
            f_divergence: FDivergence::ReverseKl,
            ld_alpha: 1.0,
            use_weighting: false,
        }
    }
}

impl Objective for BetaDpo {
    fn requirements(&self) -> Requirements {
        Requirements::of(Layout::Pairs).reference(true).whole_batch(true).least_rows(2)
    }

    fn evaluate(&mut self, batch: &PreferenceBatch<'_>, out: &mut EvaluationMut<'_>) -> Result<()> {
        self.evaluate_held(batch, batch, out)
    }

    /// Holds `beta'`.
    fn evaluate_held(
        &mut self,
        at: &PreferenceBatch<'_>,
        batch: &PreferenceBatch<'_>,
        out: &mut EvaluationMut<'_>,
    ) -> Result<()> {
        let beta = self.adapt(at)?;
        out.metrics.insert("beta".into(), beta);
        Self::at(beta).evaluate(batch, out)
    }

    fn state(&self) -> Vec<u8> {
        self.margins.state()
    }

    fn restore(&mut self, state: &[u8]) -> Result<()> {
        self.margins = Running::restore("beta-dpo", state)?;
        Ok(())
    }
}

register!(objective BetaDpo {
    name: "beta-dpo",
    summary: "DPO whose beta follows the margins of the batch",
    source: "Wu et al. 2024, beta-DPO, eq. 8 and 9, without the filter",
});

#[cfg(test)]
mod tests {
    use serde_json::json;
    use spo_api::Scalar;

    use super::*;
    use crate::losses::testing::{evaluate, objective};

    #[test]
    fn a_batch_that_is_easier_than_those_before_gets_a_larger_beta() {
        let mut beta_dpo: BetaDpo = objective(json!({"beta": 0.5, "alpha": 0.2}));
        // Margins 1 and 3: the first batch is the running mean itself.
        let out = evaluate(&mut beta_dpo, Layout::Pairs, &[1.0, 2.0], &[0.0, -1.0]);
        assert_eq!(out.metrics["beta"], 0.5);
        assert_eq!(out.losses, [0.5, 1.5].map(|z: f64| -z.log_sigmoid()));
        // Margins 12: the running mean is 0.9 * 2 + 0.1 * 12 = 3, so 9 nats are above it.
        let out = evaluate(&mut beta_dpo, Layout::Pairs, &[12.0, 12.0], &[0.0, 0.0]);
        assert!((out.metrics["beta"] - 0.5 * (1.0 + 0.2 * 9.0)).abs() < 1e-15);
    }

    #[test]
    fn beta_stays_positive() {
        let mut beta_dpo: BetaDpo = objective(json!({}));
        evaluate(&mut beta_dpo, Layout::Pairs, &[1.0, 2.0], &[0.0, 0.0]);
        let out = evaluate(&mut beta_dpo, Layout::Pairs, &[-100.0, -90.0], &[0.0, 0.0]);
        assert_eq!(out.metrics["beta"], 1e-3);
    }
}
