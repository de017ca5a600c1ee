use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use spo_api::{
    BilevelProblem, BilevelStep, ConfigError, Dual, LevelWeights, Losses, Metrics, Part, Passes, Result,
    Scalar, StepNeeds, StepReport, Weigh, register,
};

use super::{
    state::{from_state, to_state},
    value::{RunningMin, Value},
};
use crate::NumberOr;

/// `d = dF + lambda h'(c) dG` with `c = G - G* - epsilon`: the gradient of `F + lambda h(c)`, which pulls
/// the policy back into the safe set `G <= G* + epsilon`.
///
/// Follows the second version of Stable Preference Optimization: preference learning constrained to a
/// safe region of the SFT loss, the constraint moved into the objective as a penalty on the lower
/// level's value function. G* is held fixed in the gradient, as in BOME (Liu et al. 2022). The shapes
/// of `h`, the estimates of G* and the schedules of lambda are our choice.
///
/// With `lambda = { dual-ascent = ... }` the penalty is the augmented Lagrangian instead
/// (Rockafellar 1973): `d = dF + lambda dG`, `lambda <- max(0, lambda + rho c)` before each step. It has
/// no shape to choose, and its lambda settles at the constraint's Lagrange multiplier, where a hinge
/// would switch on and off at the border.
///
/// One forward and one backward when both levels share their batch, whatever the value's kind, save
/// `inner`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("examples" = [
    { "lambda": 1.0, "value": "reference" },
    { "lambda": 1.0, "value": { "inner": { "steps": 3, "lr": 0.1 } } },
]))]
pub struct Penalty {
    /// Strength of the penalty: a number; `{ ramp = { to = 1.0, steps = 100 } }`, growing linearly from
    /// 0; or `{ dual-ascent = { rho = 0.1 } }`, which finds it.
    #[serde(default = "default_lambda")]
    #[schemars(extend("minimum" = 0))]
    pub lambda: NumberOr<Schedule>,
    /// How far G may lie above G*, nats per token.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub epsilon: f64,
    /// G*, nats per token: `"reference"`, `"running-min"`, `{ inner = { steps = 3, lr = 0.01 } }`, or a
    /// number.
    #[serde(default = "default_value")]
    pub value: NumberOr<Value>,
    /// h: `"hinge"` (the default), `"squared-hinge"` or `"softplus"`. Not for dual ascent.
    pub shape: Option<Shape>,
    /// Softplus only: how sharply it bends, per nat; 10 by default. Large approaches the hinge.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub sharpness: Option<f64>,
    #[serde(skip)]
    state: State,
}

/// A lambda that changes over the run.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Schedule {
    /// Grows linearly from 0 and stays at its end.
    Ramp {
        /// Where it ends.
        #[schemars(extend("exclusiveMinimum" = 0))]
        to: f64,
        /// After how many optimizer steps.
        #[schemars(range(min = 1))]
        steps: usize,
    },
    /// `lambda <- max(0, lambda + rho c)` before each step.
    DualAscent {
        /// Ascent rate, per nat per token.
        #[schemars(extend("exclusiveMinimum" = 0))]
        rho: f64,
        /// Its first value.
        #[serde(default)]
        #[schemars(range(min = 0))]
        start: f64,
    },
}

/// How a violation `c` is penalized.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// `max(0, c)`: exact for a large enough lambda; full strength or none.
    #[default]
    Hinge,
    /// `max(0, c)^2`: sets in gently, leaves a violation in proportion to 1/lambda.
    SquaredHinge,
    /// `ln(1 + e^(sharpness c)) / sharpness`: smooth, never quite silent inside the safe set.
    Softplus,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
struct State {
    lambda: Option<f64>,
    running_min: RunningMin,
}

fn default_lambda() -> NumberOr<Schedule> {
    NumberOr::Number(1.0)
}

fn default_value() -> NumberOr<Value> {
    NumberOr::Form(Value::Reference)
}

impl Shape {
    /// `h'(c)`.
    fn slope(self, c: f64, sharpness: f64) -> f64 {
        let c = Dual::<1>::input(c, 0);
        let h = match self {
            Shape::Hinge => c.relu(),
            Shape::SquaredHinge => c.relu().squared(),
            Shape::Softplus => (c * sharpness).softplus() / sharpness,
        };
        h.partials[0]
    }
}

impl Penalty {
    /// Lambda and the factor of dG, for constraint value `c` after `step` steps.
    fn strength(&mut self, c: f64, step: usize) -> (f64, f64) {
        let lambda = match self.lambda {
            NumberOr::Number(lambda) => lambda,
            NumberOr::Form(Schedule::Ramp { to, steps }) => to * (step as f64 / steps as f64).min(1.0),
            NumberOr::Form(Schedule::DualAscent { rho, start }) => {
                let lambda = (self.state.lambda.unwrap_or(start) + rho * c).max(0.0);
                self.state.lambda = Some(lambda);
                return (lambda, lambda);
            }
        };
        (lambda, lambda * self.shape.unwrap_or_default().slope(c, self.sharpness.unwrap_or(10.0)))
    }
}

impl Part for Penalty {
    fn validate(&self) -> Result<(), ConfigError> {
        if self.shape.is_some() && matches!(self.lambda, NumberOr::Form(Schedule::DualAscent { .. })) {
            return Err(ConfigError::at(
                "shape",
                "has no effect with dual ascent, whose penalty is the augmented Lagrangian",
            ));
        }
        if self.sharpness.is_some() && self.shape != Some(Shape::Softplus) {
            return Err(ConfigError::at("sharpness", "has an effect with shape = \"softplus\" only"));
        }
        Ok(())
    }
}

impl BilevelStep for Penalty {
    fn needs(&self) -> StepNeeds {
        let alone = self.value.passes().backward == 0;
        StepNeeds::two_levels().reference_lower(self.value.needs_reference()).update_alone(alone)
    }

    fn passes(&self) -> Passes {
        let value = self.value.passes();
        Passes::new(value.forward + 1, value.backward + 1)
    }

    fn step(&mut self, problem: &mut dyn BilevelProblem) -> Result<StepReport> {
        let step = problem.progress().step;
        let estimate = self.value.estimate(problem)?;
        let mut metrics = Metrics::new();
        let mut weigh = |losses: Losses| {
            let value = self.value.settle(estimate, losses.lower, &mut self.state.running_min);
            let constraint = losses.lower - value - self.epsilon;
            let (lambda, weight) = self.strength(constraint, step);
            metrics.extend([
                ("bilevel/constraint".into(), constraint),
                ("bilevel/lambda".into(), lambda),
                ("bilevel/value".into(), value),
                ("bilevel/weight".into(), weight),
            ]);
            Ok(LevelWeights { upper: 1.0, lower: weight })
        };
        let losses = problem.update(Weigh::By(&mut weigh), 1.0)?;
        Ok(StepReport::new(losses).with(metrics))
    }

    fn state(&self) -> Vec<u8> {
        to_state(&self.state)
    }

    fn restore(&mut self, state: &[u8]) -> Result<()> {
        self.state = from_state(state)?;
        Ok(())
    }
}

register!(step Penalty {
    name: "penalty",
    summary: "preference loss plus a penalty on leaving the safe set of the SFT loss",
    source: "Stable Preference Optimization, arXiv 2507.07723v2",
});
