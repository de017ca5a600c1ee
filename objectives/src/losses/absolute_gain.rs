use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use spo_api::{
    Dual, EvaluationMut, Layout, Objective, Part, PreferenceBatch, Requirements, Result, Scalar, register,
};

/// `L = max(0, margin - g)`, with `g = (s_w - r_w)/|y_w|` the gain of the preferred answer.
///
/// Rewards the *absolute* probability gain of the preferred answer, in nats per token: the regularizer
/// of Stable Preference Optimization, to be added to a loss that looks at margins only. The rejected
/// answer plays no part.
///
/// Reduction: log-ratios are means per token, losses averaged over answers. With the hinge and
/// `margin = 0` an answer that has not lost probability since the reference costs nothing, and one that
/// has is pulled back at a constant rate; a positive margin demands a gain. `softplus` is the same
/// rounded, and goes on rewarding gains, ever less. Raises the preferred answer's probability or leaves
/// it alone.
///
/// Metrics: `gain`, the mean of `g`; `displaced`, the share of answers with `g < 0`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AbsoluteGain {
    /// Gain that is asked for, nats per token.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub margin: f64,
    /// How a shortfall is priced.
    #[serde(default)]
    pub shape: Shape,
}

/// Price of a shortfall `x = margin - g`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// `max(0, x)`.
    #[default]
    Hinge,
    /// `ln(1 + e^x)`.
    Softplus,
}

impl Part for AbsoluteGain {}

impl Objective for AbsoluteGain {
    fn requirements(&self) -> Requirements {
        Requirements::of(Layout::Demonstrations).reference(true)
    }

    fn evaluate(&mut self, batch: &PreferenceBatch<'_>, out: &mut EvaluationMut<'_>) -> Result<()> {
        let (policy, reference) = (batch.chosen.policy, batch.chosen.reference()?);
        let (mut gain, mut displaced) = (0.0, 0.0);
        for i in 0..policy.rows() {
            let tokens = policy.tokens(i) as f64;
            let g = (Dual::<1>::input(policy.sum(i), 0) - reference.sum(i)) / tokens;
            let shortfall = -g + self.margin;
            let loss = match self.shape {
                Shape::Hinge => shortfall.relu(),
                Shape::Softplus => shortfall.softplus(),
            };
            out.losses[i] = loss.value;
            out.grad_chosen[policy.range(i)].fill(loss.partials[0] / batch.whole.rows as f64);
            gain += g.value;
            displaced += f64::from(g.value < 0.0);
        }
        let rows = policy.rows().max(1) as f64;
        out.metrics.insert("gain".into(), gain / rows);
        out.metrics.insert("displaced".into(), displaced / rows);
        Ok(())
    }
}

register!(objective AbsoluteGain {
    name: "absolute-gain",
    summary: "hinge on the preferred answer's own gain in log-prob",
    source: "Stable Preference Optimization, first version: the regularizer of absolute probability gain",
});

#[cfg(test)]
mod tests {
    use serde_json::json;
    use spo_api::Layout;

    use super::*;
    use crate::losses::testing::{evaluate, objective};

    #[test]
    fn only_answers_that_fall_short_are_pulled() {
        let mut gain: AbsoluteGain = objective(json!({"margin": 0.5}));
        let out = evaluate(&mut gain, Layout::Pairs, &[-1.0, 0.25, 2.0], &[-9.0, -9.0, -9.0]);
        assert_eq!(out.losses, [1.5, 0.25, 0.0]);
        assert_eq!(out.grad_chosen, [-1.0 / 3.0, -1.0 / 3.0, 0.0]);
        assert_eq!((out.metrics["displaced"], out.metrics["gain"]), (1.0 / 3.0, 1.25 / 3.0));
    }
}
