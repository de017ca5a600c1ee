use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use spo_api::{
    BilevelProblem, BilevelStep, ConfigError, Part, Passes, Result, StepNeeds, StepReport, register,
};

use super::{
    geometry::descend_with,
    value::{RunningMin, Value},
};
use crate::NumberOr;

/// `d = dF + mu dG` with `mu = max(0, (phi - <dF, dG>) / ||dG||^2)` and `phi >= 0`: the direction nearest to dF along
/// which G falls at least at rate phi, so G never rises. The paper names two forms of phi:
///
/// - `phi = "gradient"`: `phi = eta ||dG||^2`.
/// - `phi = "value"`: `phi = eta (G - G*)`, G* the least G on the inner steps. They begin at theta, so phi is never
///   negative, and G* is held constant in dG.
///
/// Here both levels have the same parameters, so the paper's inner variable is theta itself. There is no slack: `barrier`
/// leaves one, where G may rise.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("examples" = [{}, { "phi": "value", "inner": { "steps": 3, "lr": 0.1 } }]))]
pub struct Bome {
    /// What G must fall by: `"gradient"` or `"value"`.
    #[serde(default)]
    pub phi: Phi,
    /// Factor of phi.
    #[serde(default = "default_eta")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub eta: f64,
    /// Plain gradient steps on the batch that G* is the least G of: `{ steps = 3, lr = 0.1 }`. With `phi = "value"`.
    pub inner: Option<Inner>,
}

/// The rate at which G must fall.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phi {
    /// `eta ||dG||^2`.
    #[default]
    Gradient,
    /// `eta (G - G*)`.
    Value,
}

/// Steps `theta <- theta - lr dG`.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Inner {
    /// Number of steps.
    #[schemars(range(min = 1))]
    pub steps: usize,
    /// Length of a step in units of the gradient; no optimizer, no schedule.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub lr: f64,
}

fn default_eta() -> f64 {
    0.5
}

impl Bome {
    /// G*, if it is used.
    fn value(&self) -> Option<NumberOr<Value>> {
        self.inner.map(|Inner { steps, lr }| NumberOr::Form(Value::Inner { steps, lr }))
    }
}

impl Part for Bome {
    fn validate(&self) -> Result<(), ConfigError> {
        match (self.phi, self.inner) {
            (Phi::Gradient, Some(_)) => {
                Err(ConfigError::at("inner", "has no effect with phi = \"gradient\""))
            }
            (Phi::Value, None) => {
                Err(ConfigError::at("inner", "is missing: with phi = \"value\", `{ steps = 3, lr = 0.1 }`"))
            }
            _ => Ok(()),
        }
    }
}

impl BilevelStep for Bome {
    fn needs(&self) -> StepNeeds {
        StepNeeds::two_levels()
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
            let value = value.settle(estimate, geometry.losses.lower, &mut RunningMin::default());
            metrics.insert("bilevel/value".into(), value);
            geometry.least_factor(self.eta * (geometry.losses.lower - value))
        })
    }
}

register!(step Bome {
    name: "bome",
    summary: "the least change of the preference gradient that makes the SFT loss fall",
    source: "Liu et al. 2022 (BOME)",
});
