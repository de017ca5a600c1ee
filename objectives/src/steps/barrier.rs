use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use spo_api::{
    BilevelProblem, BilevelStep, ConfigError, Part, Passes, Result, StepNeeds, StepReport, register,
};

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
/// - `phi = "constraint"`: `phi = eta c`, `c = G - G* - epsilon`. Outside the safe set the violation
///   decays like `e^(-eta t)`, t the sum of the learning rates; inside, G may rise, the slower the
///   nearer to the border, and far from it `d = dF`.
/// - `phi = "gradient"`: `phi = eta ||dG||^2`. G falls at every step; there is no slack and no G*.
///
/// BOME (Liu et al. 2022) has these two forms with `phi >= 0` and G* from inner steps
/// (`value = { inner = ... }`). That the constraint keeps its sign inside the safe set is our choice:
/// cut off at 0 it would forbid G to rise anywhere, and epsilon would allow nothing. The promise is
/// about d: an adaptive optimizer, which scales each coordinate, keeps it only roughly.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("examples" = [
    { "value": "reference" },
    { "value": { "inner": { "steps": 3, "lr": 0.1 } } },
    { "phi": "gradient" },
]))]
pub struct Barrier {
    /// What G must fall by: `"constraint"` or `"gradient"`.
    #[serde(default)]
    pub phi: Phi,
    /// Factor of phi: how hard the barrier pushes.
    #[serde(default = "default_eta")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub eta: f64,
    /// How far G may lie above G*, nats per token; 0 by default. With `phi = "constraint"`.
    #[schemars(range(min = 0))]
    pub epsilon: Option<f64>,
    /// G*, nats per token: `"reference"` (the default), `"running-min"`,
    /// `{ inner = { steps = 3, lr = 0.01 } }`, or a number. With `phi = "constraint"`.
    pub value: Option<NumberOr<Value>>,
    #[serde(skip)]
    running_min: RunningMin,
}

/// The rate at which G must fall.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phi {
    /// `eta (G - G* - epsilon)`.
    #[default]
    Constraint,
    /// `eta ||dG||^2`.
    Gradient,
}

fn default_eta() -> f64 {
    0.5
}

impl Barrier {
    /// The estimate of G*, if one is used.
    fn value(&self) -> Option<NumberOr<Value>> {
        match self.phi {
            Phi::Constraint => Some(self.value.unwrap_or(NumberOr::Form(Value::Reference))),
            Phi::Gradient => None,
        }
    }
}

impl Part for Barrier {
    fn validate(&self) -> Result<(), ConfigError> {
        let unused = [("epsilon", self.epsilon.is_some()), ("value", self.value.is_some())];
        match unused.into_iter().find(|(_, given)| *given && self.phi == Phi::Gradient) {
            Some((key, _)) => Err(ConfigError::at(key, "has no effect with phi = \"gradient\"")),
            None => Ok(()),
        }
    }
}

impl BilevelStep for Barrier {
    fn needs(&self) -> StepNeeds {
        let reference_lower = self.value().is_some_and(NumberOr::needs_reference);
        StepNeeds::two_levels().reference_lower(reference_lower)
    }

    fn passes(&self) -> Passes {
        let value = self.value().map(NumberOr::passes).unwrap_or_default();
        Passes::new(value.forward + 2, value.backward + 2)
    }

    fn step(&mut self, problem: &mut dyn BilevelProblem) -> Result<StepReport> {
        let Some(value) = self.value() else {
            return descend_with(problem, |g, _| g.least_factor(self.eta * g.lower_squared));
        };
        let estimate = value.estimate(problem)?;
        descend_with(problem, |geometry, metrics| {
            let lower = geometry.losses.lower;
            let value = value.settle(estimate, lower, &mut self.running_min);
            let constraint = lower - value - self.epsilon.unwrap_or(0.0);
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
    aliases: ["bome"],
    summary: "the least change of the preference gradient that makes the SFT loss fall fast enough",
    source: "Liu et al. 2022 (BOME), Gong and Liu 2021 (dynamic barrier)",
});
