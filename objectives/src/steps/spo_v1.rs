use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{
    BilevelProblem, BilevelStep, Part, Passes, Regularizer, Result, StepNeeds, StepReport, register,
};

use super::lookahead::{Gradient, Lookahead};

/// `lookahead` with the regularizer that the paper gives it: `d = dF'(theta')`, where `F' = F + lambda R`, R is
/// `absolute-gain`, and theta' lies K plain SFT steps ahead of theta.
///
/// The first version of Stable Preference Optimization in one word. R asks that no preferred answer loses probability
/// against the reference; it joins the stage's objective and is reported as `loss/absolute-gain`. The inner
/// steps are short enough for a transformer at usual learning rates. `lookahead` with an objective of your own has
/// further keys.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SpoV1 {
    /// The weight of the regularizer.
    #[schemars(range(min = 0))]
    pub lambda: f64,
    /// K, the number of inner SFT steps. The paper takes one.
    #[schemars(range(min = 1))]
    pub inner_steps: usize,
    /// The length of an inner step in units of the gradient; no optimizer, no schedule.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub inner_lr: f64,
}

impl Default for SpoV1 {
    fn default() -> Self {
        SpoV1 { lambda: 1.0, inner_steps: 1, inner_lr: 3e-4 }
    }
}

impl Part for SpoV1 {}

impl SpoV1 {
    fn lookahead(&self) -> Lookahead {
        Lookahead {
            inner_steps: self.inner_steps,
            inner_lr: self.inner_lr,
            gradient: Gradient::FirstOrder,
            hessian: None,
            difference: None,
        }
    }
}

impl BilevelStep for SpoV1 {
    fn needs(&self) -> StepNeeds {
        self.lookahead().needs()
    }

    fn passes(&self) -> Passes {
        self.lookahead().passes()
    }

    fn regularizer(&self) -> Option<Regularizer> {
        Some(Regularizer { objective: "absolute-gain", weight: self.lambda })
    }

    fn step(&mut self, problem: &mut dyn BilevelProblem) -> Result<StepReport> {
        self.lookahead().step(problem)
    }
}

register!(step SpoV1 {
    name: "spo-v1",
    summary: "look-ahead with the absolute-gain regularizer: SPO as first published",
    source: "Stable Preference Optimization, arXiv 2507.07723v1",
});
