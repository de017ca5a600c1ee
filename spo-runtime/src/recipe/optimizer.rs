//! The recipe's optimizer and learning rate.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    #[serde(default)]
    pub(crate) warmup: Warmup,
    /// The gradient is scaled down to this global norm if it is longer; 0 for no limit.
    #[serde(default = "Rate::default_max_grad_norm")]
    #[schemars(range(min = 0))]
    pub(crate) max_grad_norm: f64,
}

impl OwnKeys for Rate {
    const KIND: &'static str = "optimizer";
    const DEFAULT: Option<&'static str> = Some("adamw");
}

impl Rate {
    fn linear() -> Spec<ScheduleAlone> {
        Spec::named("linear").expect("schedules have no required keys of the runtime's")
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

/// How long the learning rate rises.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum Warmup {
    /// A share of the steps.
    Share(#[schemars(range(min = 0, max = 1))] f64),
    /// So many steps.
    Steps(WarmupSteps),
}

/// `{ steps = 100 }`.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WarmupSteps {
    pub(crate) steps: usize,
}

impl Default for Warmup {
    fn default() -> Self {
        Warmup::Share(0.0)
    }
}

impl Warmup {
    /// The warm-up's length in a stage of `total` steps. A share is rounded up, as in transformers.
    pub(crate) fn steps(self, total: usize) -> usize {
        match self {
            Warmup::Share(share) => (share * total as f64).ceil() as usize,
            Warmup::Steps(WarmupSteps { steps }) => steps,
        }
    }
}
