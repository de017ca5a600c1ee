use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{
    Error, EvaluationMut, Layout, Objective, Part, PreferenceBatch, Requirements, Result, Scalar, register,
};

use super::options::{one, tenth};
use super::unpaired::LogRatios;

/// `L = lambda_D (1 - sigmoid(beta (s - r - KL)))` of a desirable answer,
/// `L = lambda_U (1 - sigmoid(beta (KL - (s - r))))` of an undesirable one.
///
/// Kahneman-Tversky optimization: each answer is judged by itself against a reference point,
/// `KL = max(0, mean over the batch of s' - r')`, an estimate of the policy's divergence from the
/// reference on answers `y'` of other prompts; a constant for the gradient.
///
/// Reduction: log-probs are summed over tokens, losses averaged over all answers of both kinds. The KL
/// couples the rows of the optimizer batch: it is estimated over the whole batch however that is split
/// for memory, where TRL takes each micro-batch by itself. Raises a desirable answer's probability above
/// the reference's, ever more softly.
///
/// Metrics: `kl`, nats.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Kto {
    /// Inverse temperature, per nat. TRL's default.
    #[serde(default = "tenth")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub beta: f64,
    /// `lambda_D`. The paper wants `lambda_D n_D / (lambda_U n_U)` between 1 and 3/2, `n` the numbers of
    /// answers of each kind.
    #[serde(default = "one")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub desirable_weight: f64,
    /// `lambda_U`.
    #[serde(default = "one")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub undesirable_weight: f64,
}

impl Part for Kto {}

impl Objective for Kto {
    fn requirements(&self) -> Requirements {
        Requirements::of(Layout::Unpaired).reference(true).mismatched(true).whole_batch(true).least_rows(2)
    }

    fn evaluate(&mut self, batch: &PreferenceBatch<'_>, out: &mut EvaluationMut<'_>) -> Result<()> {
        batch.rows_of_whole()?;
        let others = batch.mismatched.ok_or_else(|| {
            Error::Batch("kto estimates its KL from each prompt with another's answer, and got none".into())
        })?;
        let reference = others.reference()?;
        let total: f64 = (0..reference.rows()).map(|i| others.policy.sum(i) - reference.sum(i)).sum();
        let kl = (total / reference.rows() as f64).max(0.0);
        out.metrics.insert("kl".into(), kl);
        LogRatios::new(batch)?.evaluate(
            batch,
            out,
            self.beta,
            |r| (-(r - kl) * self.beta).sigmoid() * self.desirable_weight,
            |r| ((r - kl) * self.beta).sigmoid() * self.undesirable_weight,
        );
        Ok(())
    }
}

register!(objective Kto {
    name: "kto",
    summary: "each answer against a KL reference point; unpaired data",
    source: "Ethayarajh et al. 2024, KTO, eq. 7 and 8",
});

#[cfg(test)]
mod tests {
    use serde_json::json;
    use spo_api::Layout;

    use super::*;
    use crate::losses::testing::{evaluate, objective};

    #[test]
    fn the_reference_point_is_never_below_zero() {
        let mut kto: Kto = objective(json!({"beta": 1.0, "undesirable_weight": 2.0}));
        let out = evaluate(&mut kto, Layout::Unpaired, &[1.0, 2.0], &[1.5]);
        assert_eq!(out.metrics["kl"], 1.5);
        assert_eq!(out.losses, [0.5f64.sigmoid(), (-0.5f64).sigmoid(), 1.0]);
        let out = evaluate(&mut kto, Layout::Unpaired, &[-1.0, -2.0], &[1.5]);
        assert_eq!(out.metrics["kl"], 0.0);
    }
}
