//! The training step as a bilevel problem: two losses on a batch, computed by a session.

use std::time::{Duration, Instant};

use spo_api::{
    BilevelProblem, Error, Evaluation, LevelWeights, LogProbs, Losses, Objective, Optimizer, Progress,
    Result, Session, Statistics, Vector, VectorSpace, Weigh,
};
use spo_data::{Dataset, MicroBatch};

use crate::plan::view::View;
use crate::store::scores::Scores;
use crate::train::optimization::Optimization;
use crate::train::step::curvature::hessian_vector;
use crate::train::step::loss::{evaluate, place, score};
use crate::train::step::observation::Observation;
use crate::train::step::rows::{Assembled, Batch, Pass};
use crate::train::step::slope::{MeanRow, slope};

/// A dataset with its reference log-probs.
#[derive(Clone, Copy)]
pub(crate) struct Scored<'a> {
    pub(crate) rows: &'a Dataset,
    /// Log-probs under the reference, if the stage has one.
    pub(crate) reference: Option<&'a Scores>,
}

/// F and its batch.
pub(crate) struct UpperLevel<'a> {
    pub(crate) objective: &'a mut dyn Objective,
    pub(crate) data: Scored<'a>,
    pub(crate) batch: Batch,
}

/// A term of G.
pub(crate) struct LowerTerm<'a> {
    pub(crate) objective: &'a mut dyn Objective,
    pub(crate) data: Scored<'a>,
    /// Whether the term uses the demonstrations of the upper batch at the start of a step, so that one
    /// forward pass serves both levels. Otherwise it starts with its own batch. At most one term shares the
    /// upper batch.
    pub(crate) shared: bool,
    /// Draws the rows of the next batch.
    pub(crate) draw: Box<dyn FnMut() -> Vec<usize> + 'a>,
}

/// How a step updates the parameters.
pub(crate) struct Motion<'a> {
    pub(crate) rule: &'a dyn Optimizer,
    pub(crate) optimization: &'a mut Optimization,
    /// The scheduled learning rate of this step.
    pub(crate) lr: f64,
    /// Gradients with a larger norm are clipped to it; 0 means no limit.
    pub(crate) max_grad_norm: f64,
    /// Whether parameters are updated within the backward pass.
    pub(crate) in_backward: bool,
    /// The weight of the routers' loss, which belongs to the gradients of the upper level; 0 for none.
    pub(crate) router_loss: f64,
}

/// The bilevel problem of one training step.
pub(crate) struct StepProblem<'a> {
    session: &'a mut dyn Session,
    upper: UpperLevel<'a>,
    /// The terms of G with their batches; `None` for a term that currently uses the upper batch.
    lower: Vec<(LowerTerm<'a>, Option<Batch>)>,
    setting: StepSetting,
    /// `None` if the optimizer is not used.
    motion: Option<Motion<'a>>,
    /// Gradient norm of the last descent, before clipping.
    pub(crate) grad_norm: Option<f64>,
    /// Recorded at the first evaluation of the upper level, for the metrics.
    pub(crate) observation: Option<Observation>,
    /// Time spent assembling lower batches.
    pub(crate) drawing: Duration,
}

/// Settings of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepSetting {
    pub(crate) progress: Progress,
    /// The size of a pass through the session; `None` for the whole batch.
    pub(crate) micro_batch: Option<MicroBatch>,
}

/// A function of a term of G: it receives the term's objective, batch and rows.
type OnTerm<'w> = dyn FnMut(&mut dyn Session, &mut dyn Objective, &Batch, &Dataset) -> Result<()> + 'w;

/// The losses and gradients of both levels on some log-probs.
struct Found {
    losses: Losses,
    weights: LevelWeights,
    /// Gradient with respect to each log-prob, in the order of the passes' completions.
    upstream: Vec<f64>,
}

impl<'a> StepProblem<'a> {
    /// The problem of one step. Terms that do not share the upper batch draw their first batch here.
    ///
    /// # Errors
    /// When their rows are in a file that cannot be read.
    pub(crate) fn new(
        session: &'a mut dyn Session,
        upper: UpperLevel<'a>,
        lower: Vec<LowerTerm<'a>>,
        setting: StepSetting,
        motion: Option<Motion<'a>>,
    ) -> Result<Self> {
        let began = Instant::now();
        let lower = lower.into_iter().map(|mut term| {
            let batch = (!term.shared).then(|| term.next(setting.micro_batch)).transpose()?;
            Ok((term, batch))
        });
        let lower = lower.collect::<Result<_>>()?;
        let drawing = began.elapsed();
        let (grad_norm, observation) = (None, None);
        Ok(StepProblem { session, upper, lower, setting, motion, grad_norm, observation, drawing })
    }

    /// The rows of each term's batch; empty for a term that uses the upper batch.
    pub(crate) fn lower_rows(&self) -> Vec<Vec<usize>> {
        self.lower.iter().map(|(_, batch)| batch.as_ref().map(Batch::rows).unwrap_or_default()).collect()
    }

    /// Forward and backward for one part at a time, for losses and weights that do not depend on the other
    /// parts. `own` is the value of the terms of G that have their own batches, if it is known. With `update`, the factor of
    /// the learning rate, the parameters are updated in the backward pass, of which there is one then.
    fn one_pass(
        &mut self,
        weigh: &mut Weigh<'_>,
        own: f64,
        update: Option<f64>,
    ) -> Result<(Losses, LevelWeights)> {
        let mut total = Losses { upper: 0.0, lower: own };
        let mut weights = None;
        let statistics = statistics(self.observation.is_none(), self.upper.objective);
        let mut observation = Observation::default();
        let UpperLevel { objective, data, batch } = &mut self.upper;
        for pass in &batch.passes {
            let mut upstream = |seen: &LogProbs| {
                let assembled = Assembled::new(batch, [(pass, seen)], data.reference, data.rows);
                let mut levels = Levels { upper: &mut **objective, shared: shared(&mut self.lower), own };
                let found = levels.evaluate(&assembled, data.rows, weigh, &mut observation)?;
                total.upper += found.losses.upper;
                total.lower += found.losses.lower;
                weights = Some(found.weights);
                Ok(found.upstream)
            };
            match (update, &mut self.motion) {
                (Some(lr_factor), Some(Motion { optimization, lr, .. })) => {
                    let (_, norm) = optimization.in_backward(*lr * lr_factor, |update| {
                        self.session.backward_and_optimize(&pass.tokens, statistics, &mut upstream, update)
                    })?;
                    self.grad_norm = Some(norm);
                }
                _ => drop(self.session.backward(&pass.tokens, statistics, &mut upstream)?),
            }
            observation.add_router_loss(self.session.router_loss());
        }
        self.observation.get_or_insert(observation);
        Ok((total, weights.expect("a batch has passes")))
    }

    /// Forward for all parts, then the losses of the whole batch, then forward and backward for each part.
    fn two_pass(&mut self, weigh: &mut Weigh<'_>, own: f64) -> Result<(Losses, LevelWeights)> {
        let statistics = statistics(self.observation.is_none(), self.upper.objective);
        let UpperLevel { objective, data, batch } = &mut self.upper;
        let scored = score(self.session, &batch.passes, statistics)?;
        let assembled = Assembled::new(batch, batch.passes.iter().zip(&scored), data.reference, data.rows);
        let mut observation = Observation::default();
        let mut levels = Levels { upper: &mut **objective, shared: shared(&mut self.lower), own };
        let Found { mut losses, weights, upstream } =
            levels.evaluate(&assembled, data.rows, weigh, &mut observation)?;
        losses.lower += own;
        backward(self.session, &batch.passes, &upstream, &mut observation)?;
        self.observation.get_or_insert(observation);
        Ok((losses, weights))
    }

    /// The sum of the terms of G that have their own batches; NaN if there is no lower level. With a weight,
    /// their weighted gradient is added to the accumulator.
    fn own_terms(&mut self, weight: Option<f64>) -> Result<f64> {
        let mut total = if self.lower.is_empty() { f64::NAN } else { 0.0 };
        for (term, batch) in &mut self.lower {
            if let Some(batch) = batch {
                total += imitation(self.session, term.objective, batch, term.data.rows, weight)?;
            }
        }
        Ok(total)
    }

    fn require_lower(&self) -> Result<()> {
        match self.lower.is_empty() {
            true => Err(Error::Batch("the step asks for a lower level and has none".into())),
            false => Ok(()),
        }
    }

    /// Calls a function for every term of G on its current batch. For a term that shares the upper batch,
    /// these are the demonstrations of the upper batch.
    fn each_term(&mut self, work: &mut OnTerm<'_>) -> Result<()> {
        self.require_lower()?;
        let demonstrations = || {
            let rows = self.upper.batch.rows();
            Batch::new(self.upper.data.rows, &rows, View::DEMONSTRATIONS, self.setting.micro_batch)
        };
        for (term, batch) in &mut self.lower {
            let of_upper;
            let batch = match batch {
                Some(batch) => batch,
                None => {
                    of_upper = demonstrations()?;
                    &of_upper
                }
            };
            work(self.session, term.objective, batch, term.data.rows)?;
        }
        Ok(())
    }

    /// The upper level and the term of G that shares its batch, with one forward pass. `own` is the value of
    /// the other terms of G, needed when the weights depend on the losses.
    fn upper_pass(&mut self, weigh: &mut Weigh<'_>, own: f64) -> Result<(Losses, LevelWeights)> {
        let whole = matches!(weigh, Weigh::By(_)) || self.upper.objective.requirements().whole_batch;
        self.with_router_loss(|problem| match whole && problem.upper.batch.passes.len() > 1 {
            true => problem.two_pass(weigh, own),
            false => problem.one_pass(weigh, own, None),
        })
    }

    /// Backward passes over the upper batch, to which the routers' loss adds its gradient: the mean over the passes, as TRL has
    /// it, because the loss of a batch is not a sum over its parts.
    fn with_router_loss<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let weight = self.motion.as_ref().map_or(0.0, |motion| motion.router_loss);
        if weight == 0.0 {
            return work(self);
        }
        self.session.weigh_router_loss(weight / self.upper.batch.passes.len() as f64)?;
        let done = work(self);
        self.session.weigh_router_loss(0.0)?;
        done
    }

    /// G on its current batches. With a weight, its weighted gradient is added to the accumulator.
    fn lower_alone(&mut self, weight: Option<f64>) -> Result<f64> {
        let mut total = 0.0;
        self.each_term(&mut |session, objective, batch, rows| {
            total += imitation(session, objective, batch, rows, weight)?;
            Ok(())
        })?;
        Ok(total)
    }
}

/// The objective of the term that currently uses the upper batch, if any.
fn shared<'l>(lower: &'l mut [(LowerTerm<'_>, Option<Batch>)]) -> Option<&'l mut dyn Objective> {
    let (term, _) = lower.iter_mut().find(|(_, batch)| batch.is_none())?;
    Some(&mut *term.objective)
}

impl LowerTerm<'_> {
    fn next(&mut self, micro_batch: Option<MicroBatch>) -> Result<Batch> {
        Batch::new(self.data.rows, &(self.draw)(), View::DEMONSTRATIONS, micro_batch)
    }
}

/// A loss on demonstrations, one part at a time. With a weight, its weighted gradient is added to the
/// accumulator.
fn imitation(
    session: &mut dyn Session,
    objective: &mut dyn Objective,
    batch: &Batch,
    rows: &Dataset,
    weight: Option<f64>,
) -> Result<f64> {
    let mut total = 0.0;
    for pass in &batch.passes {
        let mut evaluate = |seen: &LogProbs| -> Result<Vec<f64>> {
            let assembled = Assembled::new(batch, [(pass, seen)], None, rows);
            let evaluation = evaluate(objective, &assembled, rows)?;
            total += evaluation.loss(&assembled.batch()?);
            Ok(assembled.upstream(|chosen, i| if chosen { evaluation.grad_chosen[i] } else { 0.0 }))
        };
        match weight {
            None => {
                evaluate(&session.log_probs(&pass.tokens, Statistics::default())?)?;
            }
            Some(weight) => {
                session.backward(&pass.tokens, Statistics::default(), &mut |seen| {
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
            Weigh::Fixed(LevelWeights { lower: 0.0, .. }) => {
                let (losses, _) = self.upper_pass(&mut weigh, 0.0)?;
                Losses { lower: f64::NAN, ..losses }
            }
            Weigh::Fixed(LevelWeights { lower, .. }) => {
                let (mut losses, _) = self.upper_pass(&mut weigh, 0.0)?;
                losses.lower += self.own_terms(Some(lower))?;
                losses
            }
            Weigh::Known(LevelWeights { lower, .. }) => {
                let (mut losses, _) = self.upper_pass(&mut weigh, 0.0)?;
                losses.lower += self.own_terms((lower != 0.0).then_some(lower))?;
                losses
            }
            Weigh::By(_) => {
                let own = self.own_terms(None)?;
                let (losses, weights) = self.upper_pass(&mut weigh, own)?;
                if weights.lower != 0.0 {
                    self.own_terms(Some(weights.lower))?;
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
        self.each_term(&mut |session, objective, batch, rows| {
            hessian_vector(session, objective, (batch, rows), v, into)
        })
    }

    fn reference_lower(&mut self) -> Result<f64> {
        self.require_lower()?;
        let mut total = 0.0;
        for (term, batch) in &mut self.lower {
            total += of_reference(term.objective, batch.as_ref().unwrap_or(&self.upper.batch), term.data)?;
        }
        Ok(total)
    }

    fn upper_slope(&mut self) -> Result<f64> {
        let UpperLevel { objective, data, batch } = &mut self.upper;
        slope(&mut **objective, batch.view.layout, &MeanRow::of(data.rows))
    }

    fn next_lower(&mut self) -> Result<()> {
        self.require_lower()?;
        let began = Instant::now();
        for (term, batch) in &mut self.lower {
            *batch = Some(term.next(self.setting.micro_batch)?);
        }
        self.drawing += began.elapsed();
        Ok(())
    }

    fn descend(&mut self, lr_factor: f64) -> Result<()> {
        let norm = self.session.vectors().norm(Vector::GRADIENT)?;
        if !norm.is_finite() {
            let UpperLevel { batch, data, .. } = &self.upper;
            let rows: Vec<_> = batch.rows().into_iter().map(|i| place(data.rows, i)).collect();
            return Err(Error::NonFinite(format!(
                "the gradient's norm is {norm}: the parameters were left as they are. Rows of the batch: {}",
                rows.join(", ")
            )));
        }
        let Some(Motion { rule, optimization, lr, max_grad_norm, .. }) = &mut self.motion else {
            return Err(Error::Engine("this problem has no optimizer".into()));
        };
        // Same formula as PyTorch's clip_grad_norm_.
        let gradient_scale =
            if *max_grad_norm > 0.0 { (*max_grad_norm / (norm + 1e-6)).min(1.0) } else { 1.0 };
        optimization.update(self.session, *rule, *lr * lr_factor, gradient_scale)?;
        self.grad_norm = Some(norm);
        Ok(())
    }

    fn update(&mut self, mut weigh: Weigh<'_>, lr_factor: f64) -> Result<Losses> {
        if !self.motion.as_ref().is_some_and(|motion| motion.in_backward) {
            let losses = self.gradient(weigh, Vector::GRADIENT)?;
            self.descend(lr_factor)?;
            return Ok(losses);
        }
        let alone = self.lower.iter().all(|(_, batch)| batch.is_none()) && self.upper.batch.passes.len() == 1;
        if !alone {
            return Err(Error::Engine(
                "the batch takes more than one backward pass: it needs a gradient".into(),
            ));
        }
        let (losses, _) =
            self.with_router_loss(|problem| problem.one_pass(&mut weigh, 0.0, Some(lr_factor)))?;
        Ok(match weigh {
            Weigh::Fixed(LevelWeights { lower: 0.0, .. }) => Losses { lower: f64::NAN, ..losses },
            _ => losses,
        })
    }

    fn progress(&self) -> Progress {
        self.setting.progress
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

/// The losses that are computed from one forward pass.
struct Levels<'l> {
    upper: &'l mut dyn Objective,
    /// The objective of the term of G that uses the same batch, if any.
    shared: Option<&'l mut dyn Objective>,
    /// The value of the other terms of G, for weights that depend on the losses.
    own: f64,
}

impl Levels<'_> {
    /// Evaluates the levels that `weigh` asks for, on a batch or a part of it.
    fn evaluate(
        &mut self,
        assembled: &Assembled,
        rows: &Dataset,
        weigh: &mut Weigh<'_>,
        observation: &mut Observation,
    ) -> Result<Found> {
        let batch = assembled.batch()?;
        let upper = evaluate(self.upper, assembled, rows)?;
        observation.add(assembled, &upper)?;
        let wants_lower = !matches!(weigh, Weigh::Fixed(LevelWeights { lower: 0.0, .. }));
        let lower = match &mut self.shared {
            Some(shared) if wants_lower => Some(evaluate(*shared, assembled, rows)?),
            _ => None,
        };
        let shared = lower.as_ref().map_or(0.0, |lower| lower.loss(&batch));
        let losses = Losses { upper: upper.loss(&batch), lower: shared };
        let weights = match weigh {
            Weigh::Fixed(weights) | Weigh::Known(weights) => *weights,
            Weigh::By(by) => by(Losses { lower: self.own + shared, ..losses })?,
        };
        let upstream = assembled.upstream(|chosen, i| {
            let gradient = |e: &Evaluation| if chosen { e.grad_chosen[i] } else { e.grad_rejected[i] };
            // A weight of 0 disables a level even if its gradient is not finite.
            let weighted =
                |weight: f64, e: &Evaluation| if weight == 0.0 { 0.0 } else { weight * gradient(e) };
            weighted(weights.upper, &upper) + lower.as_ref().map_or(0.0, |l| weighted(weights.lower, l))
        });
        Ok(Found { losses, weights, upstream })
    }
}

/// Adds the gradient of `<upstream, log-probs>` to the accumulator.
fn backward(
    session: &mut dyn Session,
    passes: &[Pass],
    upstream: &[f64],
    observation: &mut Observation,
) -> Result<()> {
    let mut rest = upstream;
    for pass in passes {
        session.backward(&pass.tokens, Statistics::default(), &mut |seen| {
            let (mine, others) = rest.split_at(seen.values.len());
            rest = others;
            Ok(mine.to_vec())
        })?;
        observation.add_router_loss(session.router_loss());
    }
    Ok(())
}

/// The statistics that the session must compute besides log-probs, for logging and for the objective.
fn statistics(logged: bool, upper: &dyn Objective) -> Statistics {
    Statistics { entropy: logged, greedy: logged, collision: upper.requirements().collision }
}

#[cfg(test)]
mod tests;
