//! Bilevel steps: how an upper objective F (preference) and a lower objective G (SFT) are combined into one
//! update.
//!
//! A step works with parameter space and two scalar losses. It never sees tokens or the formula of a loss.

use crate::{Metrics, Result, Vector, VectorSpace};

/// Losses of the two levels on the current batch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Losses {
    /// F, the preference loss.
    pub upper: f64,
    /// G, the SFT loss, in nats per token.
    pub lower: f64,
}

/// Weights of the combination `upper * dF + lower * dG`.
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

/// How the weights of a combined gradient are determined.
pub enum Weigh<'a> {
    /// Known in advance. This is the cheapest: one forward and one backward, part by part. A level with
    /// weight 0 is not computed, and its loss is reported as NaN.
    Fixed(LevelWeights),
    /// Computed from the losses of this batch, for which both levels are evaluated. The function is called
    /// once. This still takes one forward and one backward. If the batch is processed in parts, all forward
    /// passes come first.
    By(&'a mut dyn FnMut(Losses) -> Result<LevelWeights>),
    /// Known in advance, as with `Fixed`, but both losses are evaluated, also at weight 0. A batch that is processed in
    /// parts is not forwarded twice.
    Known(LevelWeights),
}

/// The position in the current stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Number of steps done before this one.
    pub step: usize,
    /// Number of steps in the whole stage.
    pub total: usize,
}

/// The problem that a bilevel step works on: two losses on the current batches, and the space of
/// parameters.
///
/// Every step begins with a new upper batch and a new lower batch. The lower batch is the next one from the
/// lower level's own data. If the lower level has no data of its own, it consists of the demonstrations in
/// the upper batch, and one forward serves both levels. Both batches stay the same when the parameters
/// change, until [`next_lower`](Self::next_lower) is called.
///
/// Objectives may keep running values, which every evaluation of the upper level advances. Therefore a step
/// evaluates the upper level only once.
pub trait BilevelProblem {
    /// The space of trainable parameters.
    fn vectors(&mut self) -> &mut dyn VectorSpace;

    /// Evaluates both levels on the current batches at the current parameters and writes the weighted
    /// gradient to `into`, overwriting it. If `into` is another vector, the content of [`Vector::GRADIENT`]
    /// is undefined afterwards.
    ///
    /// # Errors
    /// When a loss or gradient is not finite, or the engine fails.
    fn gradient(&mut self, weigh: Weigh<'_>, into: Vector) -> Result<Losses>;

    /// Evaluates G on the current lower batch at the current parameters, without a gradient.
    ///
    /// # Errors
    /// As [`gradient`](Self::gradient).
    fn lower(&mut self) -> Result<f64>;

    /// Writes `H v` to `into`, overwriting it, where H is the Hessian of G on the current lower batch at
    /// the current parameters. The product is exact, not a finite difference of dG. Neither vector may be
    /// [`Vector::PARAMETERS`] or [`Vector::GRADIENT`]. The content of [`Vector::GRADIENT`] is undefined
    /// afterwards.
    ///
    /// A step that calls this must set [`StepNeeds::hessian`].
    ///
    /// # Errors
    /// As [`gradient`](Self::gradient), and when the backend does not support Hessian-vector products.
    fn lower_hessian_vector(&mut self, v: Vector, into: Vector) -> Result<()>;

    /// G of the reference on the current lower batch, from its cached log-probs.
    ///
    /// # Errors
    /// When the run has no reference.
    fn reference_lower(&mut self) -> Result<f64>;

    /// How steep F is where it prefers neither answer: the size of its gradient there, per token, as a multiple of that
    /// of DPO with `beta = 0.1`. It depends on the objective and on the mean length of the answers, and on nothing that
    /// training changes; for an objective that is flat there it is 1. A step that divides F by it can have one setting for
    /// all objectives.
    ///
    /// # Errors
    /// When the objective cannot be evaluated.
    fn upper_slope(&mut self) -> Result<f64> {
        Ok(1.0)
    }

    /// Draws another lower batch, for a step that uses several. The upper batch does not change.
    ///
    /// # Errors
    /// When the data cannot be read.
    fn next_lower(&mut self) -> Result<()>;

    /// Passes [`Vector::GRADIENT`] to the optimizer, which clips it and updates the parameters. The
    /// learning rate is `lr_factor` times the scheduled one for this step, no matter how often the step
    /// calls this.
    ///
    /// # Errors
    /// When the gradient is not finite, or the engine fails.
    fn descend(&mut self, lr_factor: f64) -> Result<()>;

    /// [`gradient`](Self::gradient) and [`descend`](Self::descend) in one, for which the whole gradient need not be kept.
    ///
    /// # Errors
    /// As those two.
    fn update(&mut self, weigh: Weigh<'_>, lr_factor: f64) -> Result<Losses> {
        let losses = self.gradient(weigh, Vector::GRADIENT)?;
        self.descend(lr_factor)?;
        Ok(losses)
    }

    /// The position in the current stage.
    fn progress(&self) -> Progress;
}

/// What a step needs from the run: `StepNeeds::two_levels().hessian(true)`, or the default for a step
/// without a lower level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StepNeeds {
    /// The step has a lower level.
    pub lower: bool,
    /// The step calls [`BilevelProblem::reference_lower`].
    pub reference_lower: bool,
    /// The step calls [`BilevelProblem::lower_hessian_vector`]. If the backend does not support it, the run
    /// fails before training begins. A step that leaves the choice to the recipe has a key `hessian`, with
    /// `differences` as the alternative.
    pub hessian: bool,
    /// The step moves the parameters by [`BilevelProblem::update`] alone, once, and reads no gradient. Then the gradient need
    /// not be kept. Of a step that is loaded from a library this is not known, and is taken to be false.
    pub update_alone: bool,
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

    /// Sets [`update_alone`](field@Self::update_alone).
    pub fn update_alone(self, update_alone: bool) -> Self {
        StepNeeds { update_alone, ..self }
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
    /// The given number of forward and backward passes.
    pub fn new(forward: usize, backward: usize) -> Self {
        Passes { forward, backward }
    }
}

/// The result of a step: `StepReport::new(losses).with([("bilevel/weight", weight)])`.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct StepReport {
    /// The losses at the parameters before the step, unless the step documents another point; NaN for a
    /// level that was not computed.
    pub losses: Losses,
    /// Additional metrics of the step, all finite: `bilevel/weight` (the factor of dG in the update),
    /// `bilevel/constraint`, `bilevel/cosine`, ...
    pub metrics: Metrics,
}

impl StepReport {
    /// A report with these losses and no additional metrics.
    pub fn new(losses: Losses) -> Self {
        StepReport { losses, metrics: Metrics::new() }
    }

    /// Adds metrics.
    pub fn with<N: Into<String>>(mut self, metrics: impl IntoIterator<Item = (N, f64)>) -> Self {
        self.metrics.extend(metrics.into_iter().map(|(name, value)| (name.into(), value)));
        self
    }
}

/// A loss that a step adds to the upper objective.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Regularizer {
    /// The name of the objective, which has its defaults.
    pub objective: &'static str,
    /// The weight of its loss.
    pub weight: f64,
}

/// A bound on the rise of G over a stage, measured on held-out demonstrations.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Budget {
    /// How much G may rise, nats per token.
    pub nats: f64,
    /// The number of held-out rows that the step is told about. The verdict at the end of the stage is on others.
    pub rows: usize,
    /// Training steps between two measurements; `None` leaves it to the runtime.
    pub every: Option<usize>,
    /// Whether a run fails whose budget is not kept.
    pub strict: bool,
}

impl Budget {
    /// A budget of so many nats per token, measured on so many rows.
    pub fn new(nats: f64, rows: usize) -> Self {
        Budget { nats, rows, every: None, strict: false }
    }

    /// Sets [`every`](field@Self::every).
    pub fn every(self, every: Option<usize>) -> Self {
        Budget { every, ..self }
    }

    /// Sets [`strict`](field@Self::strict).
    pub fn strict(self, strict: bool) -> Self {
        Budget { strict, ..self }
    }
}

/// The rise of G since the start of the stage on some held-out rows: the mean of the differences row by row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rise {
    /// Nats per token; infinite where the model's numbers are not finite any more.
    pub mean: f64,
    /// Its standard error over rows.
    pub standard_error: f64,
}

/// What becomes of the parameters after a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// They are the state to go back to from now on.
    Keep,
    /// Training goes on.
    GoOn,
    /// The last kept parameters are put back, the optimizer begins anew, and training goes on.
    GoBack,
    /// The last kept parameters are put back, and the stage ends.
    End,
}

/// A rule that combines two levels into one update.
pub trait BilevelStep: Send {
    /// What the step needs from the run.
    fn needs(&self) -> StepNeeds;

    /// Cost of one step when upper and lower level share a batch. Plain DPO takes one forward and one
    /// backward. An exact Hessian-vector product counts as two of each: a recorded forward and backward,
    /// and a backward pass through both.
    fn passes(&self) -> Passes;

    /// Updates the parameters once (or as often as the method requires).
    ///
    /// # Errors
    /// Those of the problem.
    fn step(&mut self, problem: &mut dyn BilevelProblem) -> Result<StepReport>;

    /// A loss that the step adds to the upper objective, if its method has one. Of a step that is loaded from a library none
    /// is known.
    fn regularizer(&self) -> Option<Regularizer> {
        None
    }

    /// The budget that the step keeps, if it keeps one. The runtime then measures G on held-out demonstrations between
    /// training steps and calls [`measured`](Self::measured).
    fn budget(&self) -> Option<Budget> {
        None
    }

    /// Called with every measurement of the budget, the last one after the last training step. If its answer is not
    /// [`Ruling::Keep`], the stage ends with the last kept parameters; the first to be kept are those that it starts with.
    fn measured(&mut self, _rise: Rise) -> Ruling {
        Ruling::GoOn
    }

    /// State that must survive a resume (such as multipliers and running values).
    fn state(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Restores what [`state`](Self::state) returned.
    ///
    /// # Errors
    /// When the bytes are not a valid state.
    fn restore(&mut self, state: &[u8]) -> Result<()> {
        if state.is_empty() {
            Ok(())
        } else {
            Err(crate::Error::Batch(format!("this step keeps no state, got {} bytes", state.len())))
        }
    }
}
