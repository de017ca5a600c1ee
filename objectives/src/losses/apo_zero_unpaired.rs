use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{
    EvaluationMut, Layout, Objective, Part, PreferenceBatch, Requirements, Result, Scalar, register,
};

use super::options::{one, tenth};
use super::unpaired::LogRatios;

/// `L = lambda_D (1 - sigmoid(beta (s - r)))` of a desirable answer, `L = lambda_U sigmoid(beta (s - r))`
/// of an undesirable one.
///
/// Anchored preference optimization, "zero", on unpaired answers: KTO with its reference point at 0, so
/// that no answers of other prompts are needed and rows do not couple.
///
/// Reduction: log-probs are summed over tokens, losses averaged over all answers of both kinds. Raises a
/// desirable answer's own probability; the gradient fades as it leaves the reference, in both
/// directions.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApoZeroUnpaired {
    /// Inverse temperature, per nat. TRL's default.
    #[serde(default = "tenth")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub beta: f64,
    /// `lambda_D`.
    #[serde(default = "one")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub desirable_weight: f64,
    /// `lambda_U`.
    #[serde(default = "one")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub undesirable_weight: f64,
}

impl Part for ApoZeroUnpaired {}

impl Objective for ApoZeroUnpaired {
    fn requirements(&self) -> Requirements {
        Requirements::of(Layout::Unpaired).reference(true)
    }

    fn evaluate(&mut self, batch: &PreferenceBatch<'_>, out: &mut EvaluationMut<'_>) -> Result<()> {
        LogRatios::new(batch)?.evaluate(
            batch,
            out,
            self.beta,
            |r| (-r * self.beta).sigmoid() * self.desirable_weight,
            |r| (r * self.beta).sigmoid() * self.undesirable_weight,
        );
        Ok(())
    }
}

register!(objective ApoZeroUnpaired {
    name: "apo_zero_unpaired",
    summary: "raise desirable answers, lower undesirable ones; unpaired data",
    source: "D'Oosterlinck et al. 2024, APO-zero, unpaired",
});

#[cfg(test)]
mod tests {
    use serde_json::json;
    use spo_api::Layout;

    use super::*;
    use crate::losses::testing::{evaluate, objective};

    #[test]
    fn each_kind_has_its_weight() {
        let mut apo: ApoZeroUnpaired = objective(json!({"desirable_weight": 2.0, "undesirable_weight": 3.0}));
        assert_eq!(evaluate(&mut apo, Layout::Unpaired, &[0.0], &[0.0, 0.0]).losses, [1.0, 1.5, 1.5]);
    }
}
