use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{EvaluationMut, Layout, Objective, Part, PreferenceBatch, Requirements, Result, register};

/// `L = -(1/N) sum over rows of s_w`, `N` the tokens of all chosen answers of the batch.
///
/// Supervised fine-tuning: the negative log-likelihood of the answers to imitate, in nats per token.
/// From pairs it reads the chosen answers only.
///
/// Reduction: mean over all tokens of the batch, not over answers, so a long answer weighs more than a
/// short one; TRL's `sft`. Raises the preferred answer's probability, by definition.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sft {}

impl Part for Sft {}

impl Objective for Sft {
    fn requirements(&self) -> Requirements {
        Requirements::of(Layout::Demonstrations)
    }

    fn evaluate(&mut self, batch: &PreferenceBatch<'_>, out: &mut EvaluationMut<'_>) -> Result<()> {
        add_sft(batch, 1.0, out);
        Ok(())
    }
}

/// Adds `weight` times the SFT loss of the chosen answers to an evaluation.
///
/// Returns the mean over the batch's rows of the unweighted SFT losses, nats per token.
pub(super) fn add_sft(batch: &PreferenceBatch<'_>, weight: f64, out: &mut EvaluationMut<'_>) -> f64 {
    let chosen = batch.chosen.policy;
    let tokens = batch.whole.chosen_tokens as f64;
    // The batch loss is the mean of the rows' losses; this scale makes it the mean over tokens.
    let rows = batch.whole.rows as f64;
    let scale = weight * rows / tokens;
    let mut total = 0.0;
    for i in 0..chosen.rows() {
        total -= chosen.sum(i);
        out.losses[i] -= scale * chosen.sum(i);
    }
    for g in out.grad_chosen.iter_mut() {
        *g -= weight / tokens;
    }
    total * rows / tokens / chosen.rows() as f64
}

register!(objective Sft {
    name: "sft",
    summary: "negative log-likelihood of the chosen answers, per token",
    source: "Ouyang et al. 2022, InstructGPT, section 3.5",
});

#[cfg(test)]
mod tests {
    use serde_json::json;
    use spo_api::Layout;

    use super::*;
    use crate::losses::testing::{evaluate, objective};

    #[test]
    fn rejected_answers_play_no_part() {
        let mut sft: Sft = objective(json!({}));
        let out = evaluate(&mut sft, Layout::Pairs, &[-1.0, -3.0], &[-9.0, -9.0]);
        assert_eq!((out.losses, out.grad_chosen), (vec![1.0, 3.0], vec![-0.5, -0.5]));
        assert_eq!(out.grad_rejected, [0.0, 0.0]);
    }
}
