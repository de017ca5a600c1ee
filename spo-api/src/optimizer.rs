//! Optimizers: how a gradient changes the parameters.

use serde::{Deserialize, Serialize};

use crate::{Result, Vector, VectorSpace};

/// The inputs of one parameter update, common to all optimizers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// Learning rate of this update.
    pub lr: f64,
    /// Factor applied to the gradient before anything else (clipping).
    pub gradient_scale: f64,
    /// Number of this update since the optimizer was adopted, counted from 1.
    pub count: u64,
}

/// An update rule with all its hyper-parameters, for sessions that run it with their own kernel.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Kernel {
    /// Name of the rule in recipes.
    pub name: String,
    /// A table of *all* its hyper-parameters, including defaults.
    pub config: serde_json::Value,
}

/// A rule that updates the parameters from their gradient.
///
/// An optimizer holds only its hyper-parameters. What it keeps from one update to the next is stored in its
/// [`states`](Self::states), vectors that the runtime manages, and in [`Update::count`]. So every optimizer
/// resumes bit for bit without any code of its own.
pub trait Optimizer: Send {
    /// The name and all hyper-parameters of the rule, if sessions may have a fused kernel for it. A session
    /// with such a kernel runs every update itself and manages the state. Other sessions use
    /// [`step`](Self::step).
    fn kernel(&self) -> Option<Kernel> {
        None
    }

    /// Whether the optimizer can only run as a session's kernel, and [`step`](Self::step) does not work. On
    /// a backend without the kernel, the run fails before training begins.
    fn needs_kernel(&self) -> bool {
        false
    }

    /// Number of state vectors (such as moments) kept from one update to the next, each of the size of the
    /// parameters. They are zero before the first update.
    fn states(&self) -> usize {
        0
    }

    /// Updates [`Vector::PARAMETERS`] once from [`Vector::GRADIENT`], using operations of the vector space.
    /// The gradient may be overwritten. `state` contains [`states`](Self::states) vectors, as the previous
    /// update left them.
    ///
    /// # Errors
    /// When the engine fails, or lacks an operation.
    fn step(&self, space: &mut dyn VectorSpace, state: &[Vector], update: &Update) -> Result<()>;
}
