//! How an upper objective F (preference) and a lower objective G (SFT) become one update.
//!
//! A step sees parameter space and two scalar losses, never a token or a formula of a loss.

use crate::{Metrics, Result, Vector, VectorSpace};

/// Values of the two levels on the current batch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Losses {
    /// F, the preference loss.
    pub upper: f64,
    /// G, the SFT loss: nats per token.
    pub lower: f64,
}

/// The combination `upper * dF + lower * dG`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LevelWeights {
    /// Factor of dF.
    pub upper: f64,
    /// Factor of dG.
    pub lower: f64,
}

impl LevelWeights {
    /// dF alone.
    pub const UPPER: LevelWeights = LevelWeights { upper: 1.0, lower: 0.0 };
    /// dG alone.
    pub const LOWER: LevelWeights = LevelWeights { upper: 0.0, lower: 1.0 };
}

/// How the weights of a combined gradient are known.
pub enum Weigh<'a> {
    /// Beforehand. The cheapest: one forward and one backward, part by part. A level with weight 0 is
    /// not computed, and its loss is reported as NaN.
    Fixed(LevelWeights),
    /// From the losses of this batch, both of which are computed; asked once. One forward and one
    /// backward still, unless the batch is processed in parts: then all parts are forwarded first.
    By(&'a mut dyn FnMut(Losses) -> Result<LevelWeights>),
}

/// Where training stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Steps done before this one.
    pub step: usize,
    /// Steps of the whole stage.
    pub total: usize,
}

/// What a bilevel step works on: two losses on a current batch, and a space to move in.
///
/// Every step begins with a new upper batch and a new lower one: the next of the lower level's own data,
/// or, if it has none, the demonstrations of the upper batch (then one forward serves both levels).
/// Both stay as they are, wherever the parameters go, until [`next_lower`](Self::next_lower).
///
/// Objectives may keep running values, which every evaluation of the upper level advances: a step
/// evaluates the upper level once.
pub trait BilevelProblem {
    /// The space of trainable parameters.
    fn vectors(&mut self) -> &mut dyn VectorSpace;

    /// Evaluates both levels on the current batch at the current parameters and writes the weighted
    /// gradient into `into`, overwriting it. Unless it is `into`, [`Vector::GRADIENT`] is left with
    /// nothing of use.
    ///
    /// # Errors
    /// When a loss or gradient is not finite, or the engine fails.
    fn gradient(&mut self, weigh: Weigh<'_>, into: Vector) -> Result<Losses>;

    /// G on the current lower batch at the current parameters, without a gradient.
    ///
    /// # Errors
    /// As [`gradient`](Self::gradient).
    fn lower(&mut self) -> Result<f64>;

    /// Writes `H v` into `into`, overwriting it: H the Hessian of G on the current lower batch at the current
    /// parameters, exactly, and not by differences of dG. Neither vector may be one of the two well-known ones;
    /// [`Vector::GRADIENT`] is left with nothing of use.
    ///
    /// A step that asks for it says so in [`StepNeeds::hessian`].
    ///
    /// # Errors
    /// As [`gradient`](Self::gradient), and where the backend has no such products.
    fn lower_hessian_vector(&mut self, v: Vector, into: Vector) -> Result<()>;

    /// G of the reference model on the current lower batch, from its cached log-probs.
    ///
    /// # Errors
    /// When the run keeps no reference.
    fn reference_lower(&mut self) -> Result<f64>;

    /// Draws another lower batch, for a step that takes several. The upper one stays.
    ///
    /// # Errors
    /// When the data cannot be read.
    fn next_lower(&mut self) -> Result<()>;

    /// Hands [`Vector::GRADIENT`] to the optimizer: clipping, update. The learning rate is
    /// `lr_factor` times the one scheduled for this step, however often the step descends.
    ///
    /// # Errors
    /// When the gradient is not finite, or the engine fails.
    fn descend(&mut self, lr_factor: f64) -> Result<()>;

    /// Where training stands.
    fn progress(&self) -> Progress;
}

/// What a step needs of the run: `StepNeeds::two_levels().hessian(true)`, or the default for a step without a lower
/// level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StepNeeds {
    /// It has a lower level.
    pub lower: bool,
    /// It asks for [`BilevelProblem::reference_lower`].
    pub reference_lower: bool,
    /// It asks for [`BilevelProblem::lower_hessian_vector`]. Where the backend has no such products, the run ends
    /// before training begins; a step that leaves the choice to the recipe has a key `hessian` for it, with `differences`
    /// as the other choice.
    pub hessian: bool,
}

impl StepNeeds {
    /// A lower level, and nothing else.
    pub fn two_levels() -> Self {
        StepNeeds { lower: true, ..StepNeeds::default() }
    }

    /// Sets [`reference_lower`](field@Self::reference_lower).
    pub fn reference_lower(self, reference_lower: bool) -> Self {
        StepNeeds { reference_lower, ..self }
    }

    /// Sets [`hessian`](field@Self::hessian).
    pub fn hessian(self, hessian: bool) -> Self {
        StepNeeds { hessian, ..self }
    }
}

/// Cost of a step, in passes over one batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Passes {
    /// Forward passes.
    pub forward: usize,
    /// Backward passes.
    pub backward: usize,
}

impl Passes {
    /// So many of each.
    pub fn new(forward: usize, backward: usize) -> Self {
        Passes { forward, backward }
    }
}

/// What a step says of itself: `StepReport::new(losses).with([("bilevel/weight", weight)])`.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct StepReport {
    /// The losses at the parameters the step began with, unless its documentation names another
    /// place; NaN for a level it did not compute.
    pub losses: Losses,
    /// Its own figures, all finite: `bilevel/weight` (the factor of dG in the update),
    /// `bilevel/constraint`, `bilevel/cosine`, ...
    pub metrics: Metrics,
}

impl StepReport {
    /// These losses, and no figures of its own.
    pub fn new(losses: Losses) -> Self {
        StepReport { losses, metrics: Metrics::new() }
    }

    /// Adds figures.
    pub fn with<N: Into<String>>(mut self, metrics: impl IntoIterator<Item = (N, f64)>) -> Self {
        self.metrics.extend(metrics.into_iter().map(|(name, value)| (name.into(), value)));
        self
    }
}

/// How two levels become one update.
pub trait BilevelStep: Send {
    /// What it needs of the run.
    fn needs(&self) -> StepNeeds;

    /// What one step costs when upper and lower share their batch, plain DPO being one forward and one
    /// backward. An exact Hessian-vector product counts two of each: a forward and a backward that are recorded,
    /// and the way back through both.
    fn passes(&self) -> Passes;

    /// Moves the parameters once (or as often as the method says).
    ///
    /// # Errors
    /// Those of the problem.
    fn step(&mut self, problem: &mut dyn BilevelProblem) -> Result<StepReport>;

    /// State that must survive a resume (multipliers, running values).
    fn state(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Takes back what [`state`](Self::state) gave.
    ///
    /// # Errors
    /// When the bytes are not such a state.
    fn restore(&mut self, state: &[u8]) -> Result<()> {
        if state.is_empty() {
            Ok(())
        } else {
            Err(crate::Error::Batch(format!("this step keeps no state, got {} bytes", state.len())))
        }
    }
}
