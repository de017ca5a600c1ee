use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[diagnostics]`: follows a few pairs through every stage to see where probability goes. Off unless the
/// section is there; it changes nothing of the training, save what `guard` is told to.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Diagnostics {
    /// Measure every so many steps, and at both ends of a stage.
    #[schemars(range(min = 1))]
    pub(crate) every: usize,
    /// Pairs that are followed: held-out ones, or training rows where there are none; evenly spaced.
    #[schemars(range(min = 1))]
    pub(crate) probes: usize,
    /// Of these, how many have their gradients taken: two backward passes each at every measurement, and
    /// memory for three more copies of the trained parameters. 0 for none.
    pub(crate) geometry: usize,
    /// Stop, or slow down, when too many preferred answers lose probability:
    /// `{ displaced = 0.5, action = "stop" }`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) guard: Option<Guard>,
}

impl Default for Diagnostics {
    fn default() -> Self {
        Diagnostics { every: 20, probes: 64, geometry: 8, guard: None }
    }
}

/// `diagnostics.guard`: a limit to displacement, held against every measurement.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Guard {
    /// Largest share of probe pairs that may be displaced.
    #[schemars(range(min = 0, max = 1))]
    pub(crate) displaced: f64,
    /// A pair is displaced once its preferred answer has lost more than this since the stage began, nats:
    /// any update jostles answers a little.
    #[serde(default = "Guard::default_by")]
    #[schemars(range(min = 0))]
    pub(crate) by: f64,
    /// `"stop"` ends the run with exit code 1, without saving the stage's model; `{ back_off = 0.5 }`
    /// multiplies the learning rate of the rest of the stage, again at every measurement that is still
    /// beyond the limit.
    #[serde(default)]
    pub(crate) action: Action,
}

impl Guard {
    fn default_by() -> f64 {
        0.1
    }
}

/// What a guard does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    /// End the run.
    #[default]
    Stop,
    /// Go on with a smaller learning rate.
    BackOff(#[schemars(range(max = 1), extend("exclusiveMinimum" = 0))] f64),
}
