use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::NumberOr;

/// A length of time in a stage: a share of its steps, `0.1`, or a number of steps, `{ steps = 100 }`.
///
/// A key of this type carries `#[schemars(extend("minimum" = 0, "maximum" = 1))]`, which bounds the share.
pub type ShareOrSteps = NumberOr<Length>;

/// A length that is no share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Length {
    /// So many steps.
    Steps(usize),
}

impl ShareOrSteps {
    /// The length in a stage of `total` steps. A share is rounded up, as transformers does.
    pub fn steps(self, total: usize) -> usize {
        match self {
            NumberOr::Number(share) => (share * total as f64).ceil() as usize,
            NumberOr::Form(Length::Steps(steps)) => steps,
        }
    }
}
