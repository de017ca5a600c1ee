//! The training step as a bilevel problem: two losses on a batch, computed by a session.

use std::time::{Duration, Instant};

use spo_api::{
    AdamW, BilevelProblem, Error, Evaluation, LevelWeights, LogProbs, Losses, Objective, Progress, Result,
    Session, Statistics, Vector, VectorSpace, Weigh,
};
use spo_data::{Dataset, MicroBatch};

use crate::plan::view::View;
use crate::store::scores::Scores;
use crate::train::step::curvature::hessian_vector;
use crate::train::step::loss::{evaluate, place, score};
use crate::train::step::observation::Observation;
use crate::train::step::rows::{Assembled, Batch, Part};

/// A dataset with what the reference model says of it.
#[derive(Clone, Copy)]
pub(crate) struct Scored<'a> {
    /// Tokenised rows.
    pub(crate) rows: &'a Dataset,
    /// Log-probs under the reference, if the stage keeps one.
    pub(crate) reference: Option<&'a Scores>,
}

/// The two objectives of a stage.
pub(crate) struct Levels<'a> {
    /// F.
    pub(crate) upper: &'a mut dyn Objective,
    /// G, if the step has a lower level.
    pub(crate) lower: Option<&'a mut dyn Objective>,
}

/// Where lower batches come from.
pub(crate) struct LowerSource<'a> {
    /// The demonstrations.
    pub(crate) data: Scored<'a>,
    /// Whether they are the lower level's own. If not, every step begins with the demonstrations of the
    /// upper batch, and one forward serves both levels.
    pub(crate) own: bool,
    /// Rows of the next batch.
    pub(crate) draw: &'a mut dyn FnMut() -> Vec<usize>,
}

/// A further term of the lower level, on a batch of its own.
pub(crate) struct LowerTask<'a> {
    /// Its loss, which is added to G.
    pub(crate) objective: &'a mut dyn Objective,
    /// Its demonstrations.
    pub(crate) data: Scored<'a>,
    /// Rows of the next batch.
    pub(crate) draw: Box<dyn FnMut() -> Vec<usize> + 'a>,
}

/// What G has beside the terms on the upper batch.
#[derive(Clone, Copy, Debug)]
struct Elsewhere {
    /// The first term, where it has a batch of its own.
    first: Option<f64>,
    /// The further tasks.
    tasks: f64,
}

/// How a step moves the parameters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Motion {
    /// What goes through the session at once; everything if not given.
    pub(crate) micro_batch: Option<MicroBatch>,
    /// The optimizer; its learning rate is the one scheduled for this step.
    pub(crate) optimizer: AdamW,
    /// Longest gradient that is not scaled down; 0 for no limit.
    pub(crate) max_grad_norm: f64,
    /// Where the stage stands.
    pub(crate) progress: Progress,
}

/// One training step's problem.
pub(crate) struct StepProblem<'a> {
    session: &'a mut dyn Session,
    levels: Levels<'a>,
    data: Scored<'a>,
    batch: Batch,
    source: Option<LowerSource<'a>>,
    /// A lower batch of its own.
    drawn: Option<Batch>,
    /// Further terms of the lower level with their batches.
    tasks: Vec<(LowerTask<'a>, Batch)>,
    motion: Motion,
    /// Norm of the gradient of the last descent, before clipping.
    pub(crate) grad_norm: Option<f64>,
    /// What the first evaluation of the upper level saw, for the metrics.
    pub(crate) observation: Option<Observation>,
    /// Time in which lower batches were put together.
    pub(crate) drawing: Duration,
}

/// What the two levels say of some log-probs.
struct Found {
    losses: Losses,
    weights: LevelWeights,
    /// Gradient per log-prob, in the order of the parts' completions.
    upstream: Vec<f64>,
}

impl<'a> StepProblem<'a> {
    /// The problem of one step.
    ///
    /// # Errors
    /// When the lower level's data cannot be drawn.
    pub(crate) fn new(
        session: &'a mut dyn Session,
        levels: Levels<'a>,
        data: Scored<'a>,
        batch: Batch,
        source: Option<LowerSource<'a>>,
        tasks: Vec<LowerTask<'a>>,
        motion: Motion,
    ) -> Result<Self> {
        let began = Instant::now();
        let own = source.as_ref().is_some_and(|s| s.own);
        let tasks = tasks.into_iter().map(|mut task| {
            let batch = task.next(motion.micro_batch);
            (task, batch)
        });
        let mut problem = StepProblem {
            session,
            levels,
            data,
            batch,
            source,
            drawn: None,
            tasks: tasks.collect(),
            motion,
            grad_norm: None,
            observation: None,
            drawing: Duration::ZERO,
        };
        if own {
            problem.draw_first()?;
        }
        problem.drawing = began.elapsed();
        Ok(problem)
    }

    /// The rows of the lower level's batch, where it is not that of the upper one.
    pub(crate) fn lower_rows(&self) -> Vec<usize> {
        self.drawn.as_ref().map(Batch::rows).unwrap_or_default()
    }

    /// The rows of each further task's batch.
    pub(crate) fn task_rows(&self) -> Vec<Vec<usize>> {
        self.tasks.iter().map(|(_, batch)| batch.rows()).collect()
    }

    /// Forward and backward, part by part: the loss and the weights of each part are known as soon as
    /// its log-probs are.
    fn one_pass(&mut self, weigh: &mut Weigh<'_>, elsewhere: Elsewhere) -> Result<(Losses, LevelWeights)> {
        let mut total = Losses::default();
        let mut weights = None;
        let statistics = statistics(self.observation.is_none(), self.levels.upper);
        let mut observation = Observation::default();
        for part in &self.batch.parts {
            self.session.backward(&part.tokens, statistics, &mut |seen| {
                let assembled =
                    Assembled::new(&self.batch, [(part, seen)], self.data.reference, self.data.rows);
                let found =
                    self.levels.evaluate(&assembled, self.data.rows, weigh, elsewhere, &mut observation)?;
                total.upper += found.losses.upper;
                total.lower += found.losses.lower;
                weights = Some(found.weights);
                Ok(found.upstream)
            })?;
        }
        self.observation.get_or_insert(observation);
        Ok((total, weights.expect("a batch has parts")))
    }

    /// Forward of all parts, then the losses of the whole batch, then forward and backward of each part.
    fn two_pass(&mut self, weigh: &mut Weigh<'_>, elsewhere: Elsewhere) -> Result<(Losses, LevelWeights)> {
        let statistics = statistics(self.observation.is_none(), self.levels.upper);
        let scored = score(self.session, &self.batch.parts, statistics)?;
        let assembled = Assembled::new(
            &self.batch,
            self.batch.parts.iter().zip(&scored),
            self.data.reference,
            self.data.rows,
        );
        let mut observation = Observation::default();
        let found = self.levels.evaluate(&assembled, self.data.rows, weigh, elsewhere, &mut observation)?;
        self.observation.get_or_insert(observation);
        backward(self.session, &self.batch.parts, &found.upstream)?;
        Ok((found.losses, found.weights))
    }

    /// Does something with the first term of G on its current batch.
    fn first<T>(
        &mut self,
        work: impl FnOnce(&mut dyn Session, &mut dyn Objective, &Batch, &Dataset) -> Result<T>,
    ) -> Result<T> {
        let of_upper_batch;
        let (batch, data) = match (&self.drawn, &self.source) {
            (Some(drawn), Some(source)) => (drawn, source.data),
            _ => {
                let rows = self.batch.rows();
                of_upper_batch =
                    Batch::new(self.data.rows, &rows, View::DEMONSTRATIONS, self.motion.micro_batch);
                (&of_upper_batch, self.data)
            }
        };
        let lower = self.levels.lower.as_mut().ok_or_else(no_lower)?;
        work(self.session, &mut **lower, batch, data.rows)
    }

    /// The first term of G; with a weight, its weighted gradient is added to the accumulator.
    fn first_alone(&mut self, weight: Option<f64>) -> Result<f64> {
        self.first(|session, lower, batch, rows| imitation(session, lower, batch, rows, weight))
    }

    /// The further terms of G, in the same way.
    fn tasks_alone(&mut self, weight: Option<f64>) -> Result<f64> {
        let mut total = 0.0;
        for (task, batch) in &mut self.tasks {
            total += imitation(self.session, task.objective, batch, task.data.rows, weight)?;
        }
        Ok(total)
    }

    fn lower_alone(&mut self, weight: Option<f64>) -> Result<f64> {
        Ok(self.first_alone(weight)? + self.tasks_alone(weight)?)
    }

    fn draw_first(&mut self) -> Result<()> {
        let source = self.source.as_mut().ok_or_else(no_lower)?;
        let rows = (source.draw)();
        self.drawn = Some(Batch::new(source.data.rows, &rows, View::DEMONSTRATIONS, self.motion.micro_batch));
        Ok(())
    }
}

impl LowerTask<'_> {
    fn next(&mut self, micro_batch: Option<MicroBatch>) -> Batch {
        Batch::new(self.data.rows, &(self.draw)(), View::DEMONSTRATIONS, micro_batch)
    }
}

/// A loss on demonstrations, part by part; with a weight, its weighted gradient is added to the accumulator.
fn imitation(
    session: &mut dyn Session,
    objective: &mut dyn Objective,
    batch: &Batch,
    rows: &Dataset,
    weight: Option<f64>,
) -> Result<f64> {
    let mut total = 0.0;
    for part in &batch.parts {
        let mut evaluate = |seen: &LogProbs| -> Result<Vec<f64>> {
            let assembled = Assembled::new(batch, [(part, seen)], None, rows);
            let evaluation = evaluate(objective, &assembled, rows)?;
            total += evaluation.loss(&assembled.batch()?);
            Ok(assembled.upstream(|chosen, i| if chosen { evaluation.grad_chosen[i] } else { 0.0 }))
        };
        match weight {
            None => {
                evaluate(&session.log_probs(&part.tokens, Statistics::default())?)?;
            }
            Some(weight) => {
                session.backward(&part.tokens, Statistics::default(), &mut |seen| {
                    Ok(evaluate(seen)?.into_iter().map(|g| weight * g).collect())
                })?;
            }
        }
    }
    Ok(total)
}

impl BilevelProblem for StepProblem<'_> {
    fn vectors(&mut self) -> &mut dyn VectorSpace {
        self.session.vectors()
    }

    fn gradient(&mut self, mut weigh: Weigh<'_>, into: Vector) -> Result<Losses> {
        self.session.vectors().zero(Vector::GRADIENT)?;
        let losses = match weigh {
            Weigh::Fixed(LevelWeights { upper: 0.0, lower }) => {
                Losses { upper: f64::NAN, lower: self.lower_alone(Some(lower))? }
            }
            _ => {
                let by_losses = matches!(weigh, Weigh::By(_));
                let first = match (&self.drawn, by_losses) {
                    (Some(_), true) => Some(self.first_alone(None)?),
                    (Some(_), false) => Some(f64::NAN),
                    (None, _) => None,
                };
                let tasks = if by_losses { self.tasks_alone(None)? } else { 0.0 };
                let elsewhere = Elsewhere { first, tasks };
                let whole = by_losses || self.levels.upper.requirements().whole_batch;
                let (mut losses, weights) = if whole && self.batch.parts.len() > 1 {
                    self.two_pass(&mut weigh, elsewhere)?
                } else {
                    self.one_pass(&mut weigh, elsewhere)?
                };
                if weights.lower != 0.0 {
                    if first.is_some() {
                        losses.lower = self.first_alone(Some(weights.lower))? + tasks;
                    }
                    let now = self.tasks_alone(Some(weights.lower))?;
                    // Of fixed weights, the tasks were not evaluated before.
                    losses.lower += now - tasks;
                }
                losses
            }
        };
        if into != Vector::GRADIENT {
            self.session.vectors().copy(Vector::GRADIENT, into)?;
        }
        Ok(losses)
    }

    fn lower(&mut self) -> Result<f64> {
        self.lower_alone(None)
    }

    fn lower_hessian_vector(&mut self, v: Vector, into: Vector) -> Result<()> {
        if [v, into].iter().any(|v| [Vector::PARAMETERS, Vector::GRADIENT].contains(v)) {
            let message = "a Hessian-vector product goes from one of the step's own vectors into another";
            return Err(Error::Engine(message.into()));
        }
        self.session.vectors().zero(into)?;
        self.first(|session, lower, batch, rows| hessian_vector(session, lower, batch, rows, v, into))?;
        self.tasks.iter_mut().try_for_each(|(task, batch)| {
            hessian_vector(self.session, task.objective, batch, task.data.rows, v, into)
        })
    }

    fn reference_lower(&mut self) -> Result<f64> {
        let (batch, data) = match (&self.drawn, &self.source) {
            (Some(drawn), Some(source)) => (drawn, source.data),
            _ => (&self.batch, self.data),
        };
        let lower = self.levels.lower.as_mut().ok_or_else(no_lower)?;
        let mut total = of_reference(&mut **lower, batch, data)?;
        for (task, batch) in &mut self.tasks {
            total += of_reference(task.objective, batch, task.data)?;
        }
        Ok(total)
    }

    fn next_lower(&mut self) -> Result<()> {
        let began = Instant::now();
        for (task, batch) in &mut self.tasks {
            *batch = task.next(self.motion.micro_batch);
        }
        self.draw_first()?;
        self.drawing += began.elapsed();
        Ok(())
    }

    fn descend(&mut self, lr_factor: f64) -> Result<()> {
        let norm = self.session.vectors().norm(Vector::GRADIENT)?;
        if !norm.is_finite() {
            let rows: Vec<_> = self.batch.rows().into_iter().map(|i| place(self.data.rows, i)).collect();
            return Err(Error::NonFinite(format!(
                "the gradient's norm is {norm}: the parameters were left as they are. Rows of the batch: {}",
                rows.join(", ")
            )));
        }
        let limit = self.motion.max_grad_norm;
        // As PyTorch's clip_grad_norm_.
        let gradient_scale = if limit > 0.0 { (limit / (norm + 1e-6)).min(1.0) } else { 1.0 };
        let optimizer = self.motion.optimizer;
        self.session.optimizer_step(&AdamW { lr: optimizer.lr * lr_factor, gradient_scale, ..optimizer })?;
        self.grad_norm = Some(norm);
        Ok(())
    }

    fn progress(&self) -> Progress {
        self.motion.progress
    }
}

/// A loss on demonstrations under the reference.
fn of_reference(objective: &mut dyn Objective, batch: &Batch, data: Scored<'_>) -> Result<f64> {
    let reference =
        data.reference.ok_or_else(|| Error::Batch("this stage keeps no reference log-probs".into()))?;
    if let Some(row) = batch.rows().into_iter().find(|&row| !reference.knows(row)) {
        let message =
            "was drawn for the lower level and has no reference log-probs: give the level data of its own";
        return Err(Error::Batch(format!("{} {message}", place(data.rows, row))));
    }
    let assembled = Assembled::of_scores(batch, reference, data.rows);
    Ok(evaluate(objective, &assembled, data.rows)?.loss(&assembled.batch()?))
}

impl Levels<'_> {
    /// Evaluates what `weigh` asks for on one batch or a part of it.
    fn evaluate(
        &mut self,
        assembled: &Assembled,
        rows: &Dataset,
        weigh: &mut Weigh<'_>,
        elsewhere: Elsewhere,
        observation: &mut Observation,
    ) -> Result<Found> {
        let batch = assembled.batch()?;
        let upper = evaluate(self.upper, assembled, rows)?;
        observation.add(assembled, &upper)?;
        let wants_lower = match weigh {
            Weigh::Fixed(weights) => weights.lower != 0.0,
            Weigh::By(_) => true,
        };
        let lower = match &mut self.lower {
            Some(lower) if wants_lower && elsewhere.first.is_none() => {
                Some(evaluate(&mut **lower, assembled, rows)?)
            }
            _ => None,
        };
        let losses = Losses {
            upper: upper.loss(&batch),
            lower: elsewhere.tasks
                + lower.as_ref().map_or(elsewhere.first.unwrap_or(f64::NAN), |l| l.loss(&batch)),
        };
        let weights = match weigh {
            Weigh::Fixed(weights) => *weights,
            Weigh::By(by) => by(losses)?,
        };
        let upstream = assembled.upstream(|chosen, i| {
            let gradient = |e: &Evaluation| if chosen { e.grad_chosen[i] } else { e.grad_rejected[i] };
            // A weight of 0 switches a level off, even where its gradient is not finite.
            let weighted =
                |weight: f64, e: &Evaluation| if weight == 0.0 { 0.0 } else { weight * gradient(e) };
            weighted(weights.upper, &upper) + lower.as_ref().map_or(0.0, |l| weighted(weights.lower, l))
        });
        Ok(Found { losses, weights, upstream })
    }
}

/// Adds the gradient of `<upstream, log-probs>` to the accumulator.
fn backward(session: &mut dyn Session, parts: &[Part], upstream: &[f64]) -> Result<()> {
    let mut rest = upstream;
    for part in parts {
        session.backward(&part.tokens, Statistics::default(), &mut |seen| {
            let (mine, others) = rest.split_at(seen.values.len());
            rest = others;
            Ok(mine.to_vec())
        })?;
    }
    Ok(())
}

/// What the session must compute beside log-probs: what is logged, and what the objective reads.
fn statistics(logged: bool, upper: &dyn Objective) -> Statistics {
    Statistics { entropy: logged, greedy: logged, collision: upper.requirements().collision }
}

fn no_lower() -> Error {
    Error::Batch("the step asks for a lower level and has none".into())
}

#[cfg(test)]
mod tests;
