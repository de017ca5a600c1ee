//! How a gradient moves the parameters.

use serde::{Deserialize, Serialize};

use crate::{Result, Vector, VectorSpace};

/// One update of the parameters, whatever the rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// Learning rate of this update.
    pub lr: f64,
    /// The gradient is multiplied by this before anything else (clipping).
    pub gradient_scale: f64,
    /// Which update this is since the optimizer was adopted, counted from 1.
    pub count: u64,
}

/// A rule by its name, with every hyper-parameter settled, for sessions that run it with a kernel of
/// their own.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Kernel {
    /// Name of the rule, as recipes call it.
    pub name: String,
    /// A table of *all* its hyper-parameters, defaults filled in.
    pub config: serde_json::Value,
}

/// A rule that moves the parameters along their gradient.
///
/// An optimizer is its hyper-parameters and nothing else. What it remembers from one update to the next
/// is in its [`states`](Self::states), vectors that the runtime keeps, and in [`Update::count`]. So every
/// optimizer survives a resume to the bit, and none needs to be told how.
pub trait Optimizer: Send {
    /// The rule by name and settled hyper-parameters, if sessions may have a fused kernel for it. A session
    /// that has one then runs every update itself, with a state of its own; in others
    /// [`step`](Self::step) does.
    fn kernel(&self) -> Option<Kernel> {
        None
    }

    /// Whether only a session's kernel can run it, and [`step`](Self::step) cannot. On a backend without one the
    /// run ends before training begins.
    fn needs_kernel(&self) -> bool {
        false
    }

    /// How many vectors of the parameters' size it keeps from one update to the next (moments). They are
    /// zero before the first.
    fn states(&self) -> usize {
        0
    }

    /// One update of [`Vector::PARAMETERS`] from [`Vector::GRADIENT`], which may be overwritten, by operations
    /// of the vector space. `state` holds as many vectors as [`states`](Self::states) says, as the update before
    /// left them.
    ///
    /// # Errors
    /// When the engine fails, or lacks the operations.
    fn step(&self, space: &mut dyn VectorSpace, state: &[Vector], update: &Update) -> Result<()>;
}
