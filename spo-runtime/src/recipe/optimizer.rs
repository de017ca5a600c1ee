//! The recipe's optimizer and learning rate.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use spo_objectives::{NumberOr, ShareOrSteps};

use super::part::{OwnKeys, ScheduleAlone, Spec};

/// `stage.optimizer`.
pub(crate) type OptimizerSpec = Spec<Rate>;

/// The learning rate of an optimizer, and the length of its gradient.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rate {
    /// Peak learning rate. 1e-6 to 1e-5 is usual for preference objectives on a whole model, 1e-4 with
    /// an adapter.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub(crate) lr: f64,
    /// How the learning rate goes after warmup.
    #[serde(default = "Rate::linear")]
    pub(crate) schedule: Spec<ScheduleAlone>,
    /// Steps over which the learning rate rises from 0 to `lr`: a share of the stage's steps, or `{ steps = 100 }`.
    #[serde(default = "Rate::no_warmup")]
    #[schemars(extend("minimum" = 0, "maximum" = 1))]
    pub(crate) warmup: ShareOrSteps,
    /// The gradient is scaled down to this global norm if it is longer; 0 for no limit.
    #[serde(default = "Rate::default_max_grad_norm")]
    #[schemars(range(min = 0))]
    pub(crate) max_grad_norm: f64,
    /// Update each parameter within the backward pass, as soon as its gradient is complete, and keep no gradient: less
    /// memory, the same parameters. Needs `max_grad_norm = 0` and a batch that is computed as one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) in_backward: bool,
}

impl OwnKeys for Rate {
    const KIND: &'static str = "optimizer";
    const DEFAULT: Option<&'static str> = Some("adamw");
}

impl Rate {
    fn linear() -> Spec<ScheduleAlone> {
        Spec::named("linear").expect("schedules have no required keys of the runtime's")
    }

    fn no_warmup() -> ShareOrSteps {
        NumberOr::Number(0.0)
    }

    fn default_max_grad_norm() -> f64 {
        1.0
    }
}

impl OptimizerSpec {
    /// Records its location in the recipe.
    pub(crate) fn place(&mut self, at: &str) {
        self.part.place = at.to_owned();
        self.own.schedule.part.place = format!("{at}.schedule");
    }
}
