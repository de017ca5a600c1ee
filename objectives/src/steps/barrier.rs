use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{BilevelProblem, BilevelStep, Part, Passes, Result, StepNeeds, StepReport, register};

use super::{
    geometry::descend_with,
    state::{from_state, to_state},
    value::{RunningMin, Value},
};
use crate::NumberOr;

/// `d = dF + mu dG` with `mu = max(0, (phi - <dF, dG>) / ||dG||^2)`: the direction nearest to dF with
/// `<d, dG> >= phi`, which makes G fall at least at rate phi. A penalty whose strength is known in
/// closed form.
///
/// `phi = eta c`, `c = G - G* - epsilon`. Outside the safe set the violation decays like
/// `e^(-eta t)`, t the sum of the learning rates; inside, G may rise, the slower the nearer to the
/// border, and far from it `d = dF`. So phi keeps its sign, where that of `bome` is never negative: cut
/// off at 0 it would forbid G to rise anywhere, and epsilon would allow nothing.
///
/// The promise is about d: an adaptive optimizer, which scales each coordinate, keeps it only roughly.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("examples" = [
    { "value": "reference" },
    { "value": { "inner": { "steps": 3, "lr": 0.1 } } },
]))]
pub struct Barrier {
    /// Factor of phi: how hard the barrier pushes.
    #[serde(default = "default_eta")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub eta: f64,
    /// How far G may lie above G*, nats per token.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub epsilon: f64,
    /// G*, nats per token: `"reference"`, `"running-min"`, `{ inner = { steps = 3, lr = 0.01 } }`, or a
    /// number.
    #[serde(default = "default_value")]
    pub value: NumberOr<Value>,
    #[serde(skip)]
    running_min: RunningMin,
}

fn default_eta() -> f64 {
    0.5
}

fn default_value() -> NumberOr<Value> {
    NumberOr::Form(Value::Reference)
}

impl Part for Barrier {}

impl BilevelStep for Barrier {
    fn needs(&self) -> StepNeeds {
        StepNeeds::two_levels().reference_lower(self.value.needs_reference())
    }

    fn passes(&self) -> Passes {
        let value = self.value.passes();
        Passes::new(value.forward + 2, value.backward + 2)
    }

    fn step(&mut self, problem: &mut dyn BilevelProblem) -> Result<StepReport> {
        let estimate = self.value.estimate(problem)?;
        descend_with(problem, |geometry, metrics| {
            let lower = geometry.losses.lower;
            let value = self.value.settle(estimate, lower, &mut self.running_min);
            let constraint = lower - value - self.epsilon;
            metrics.insert("bilevel/value".into(), value);
            metrics.insert("bilevel/constraint".into(), constraint);
            geometry.least_factor(self.eta * constraint)
        })
    }

    fn state(&self) -> Vec<u8> {
        to_state(&self.running_min)
    }

    fn restore(&mut self, state: &[u8]) -> Result<()> {
        self.running_min = from_state(state)?;
        Ok(())
    }
}

register!(step Barrier {
    name: "barrier",
    summary: "the least change of the preference gradient that makes the SFT loss fall fast enough",
    source: "Gong and Liu 2021 (dynamic barrier), after Liu et al. 2022 (BOME)",
});
