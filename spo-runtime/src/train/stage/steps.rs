//! The steps of a stage.

use std::time::Instant;

use anyhow::Context;
use spo_api::{AdamW, Error, Losses, Metrics, Objective, Progress, Vector};
use spo_data::Dataset;

use crate::recipe::{OnNonfinite, Optimizer, Stage};
use crate::store::scores::Scores;
use crate::train::checkpoint::{Memory, StageState, Steps};
use crate::train::diagnostics::Evolution;
use crate::train::incident::{Incident, PATIENCE};
use crate::train::reference::MovingReference;
use crate::train::schedule::LearningRate;
use crate::train::step::observation::Observation;
use crate::train::step::problem::{Levels, LowerSource, LowerTask, Motion, Scored, StepProblem};
use crate::train::step::rows::{Batch, Part};

use super::order::Orders;
use super::{Evaluator, References, Training};

impl Training<'_> {
    /// Trains, from where the stage stands to its end.
    pub(super) fn steps(
        &mut self,
        mut references: References,
        evaluator: &mut Evaluator,
        mut evolution: Option<Evolution>,
        steps: &mut Steps,
    ) -> anyhow::Result<()> {
        let total = self.stage.steps;
        let rate = LearningRate::new(&self.stage.recipe.optimizer, total);
        let mut orders = Orders::new(self, steps);
        let (stage_began, before) = (Instant::now(), steps.elapsed);
        for step in steps.done..total {
            if let (Some(evolution), Some(log)) = (&mut evolution, &mut self.logs.diagnostics) {
                let note = |text: &str| self.reporter.note(text);
                evolution.before_step(&mut *self.plan.session, log, step, &note)?;
            }
            let lr = rate.at(step) * evolution.as_ref().map_or(1.0, Evolution::lr_factor);
            let (began, tokens_before) = (Instant::now(), steps.tokens);
            let metrics = self.step(lr, &mut orders, &mut references, steps)?;
            if let Some(moving) = &mut references.moving {
                moving.follow(&mut *self.plan.session, step + 1)?;
            }
            self.logs.metrics(&self.stage.recipe.name, step + 1, &metrics)?;
            let took = began.elapsed().as_secs_f64();
            self.reporter.step(step + 1, &metrics, (steps.tokens - tokens_before) as f64 / took);
            steps.seconds.push(took);
            if let (Some(evolution), Some(log)) = (&mut evolution, &mut self.logs.diagnostics) {
                evolution.after_step(&mut *self.plan.session, log, step + 1, &metrics)?;
            }
            (steps.done, steps.metrics) = (step + 1, metrics);
            if steps.done == total {
                break;
            }
            let every = self.plan.recipe.evaluation.every;
            if every > 0 && steps.done.is_multiple_of(every) {
                self.evaluate(evaluator, steps.done, steps)?;
            }
            steps.elapsed = before + stage_began.elapsed().as_secs_f64();
            let asked = self.stop.check();
            if asked.is_err() || self.keeper.checkpoints.due(steps.done) {
                self.keep(&references, evaluator, &evolution, steps)?;
            }
            asked.with_context(|| format!("after step {} of {total}", steps.done))?;
        }
        if let (Some(evolution), Some(log)) = (evolution, &mut self.logs.diagnostics) {
            evolution.finish(&mut *self.plan.session, log, &|text| self.reporter.note(text))?;
        }
        steps.elapsed = before + stage_began.elapsed().as_secs_f64();
        match (references.moving, references.train) {
            (Some(moving), _) => moving.release(&mut *self.plan.session),
            (None, Some(scores)) => {
                self.known.insert(self.key(&self.stage.train, self.stage.view), scores);
            }
            (None, None) => {}
        }
        Ok(())
    }

    /// One step on the next batch, and its metrics: counts alone if the batch had to be left out.
    fn step(
        &mut self,
        lr: f64,
        orders: &mut Orders,
        references: &mut References,
        steps: &mut Steps,
    ) -> anyhow::Result<Metrics> {
        let (stage, session) = (&mut *self.stage, &mut *self.plan.session);
        let (step, total) = (steps.done, stage.steps);
        let began = Instant::now();
        let rows = orders.train.take(stage.recipe.batch_size);
        let batch = Batch::new(&stage.train, &rows, stage.view, stage.recipe.micro_batch);
        steps.data_seconds += began.elapsed().as_secs_f64();
        steps.tokens += batch.parts.iter().map(Part::unshared_tokens).sum::<usize>();
        if let (Some(moving), Some(scores)) = (&references.moving, &mut references.train) {
            moving.score(session, &batch, scores)?;
        }
        let memory = Memory::of(stage);
        stage.objective.begin(step);
        let motion = motion(&stage.recipe, lr, Progress { step, total });
        let data = Scored { rows: &stage.train, reference: references.train.as_ref() };
        let bilevel = &mut stage.bilevel;
        let (batch_size, own) = (stage.recipe.batch_size, stage.lower_data.is_some());
        let mut draw = || {
            steps.lower_draws += 1;
            orders.lower.take(batch_size)
        };
        let source = bilevel.lower.is_some().then_some(LowerSource {
            data: match &stage.lower_data {
                Some(rows) => Scored { rows, reference: references.lower.as_ref() },
                None => data,
            },
            own,
            draw: &mut draw,
        });
        let drawing = orders.tasks.iter_mut().zip(&mut steps.task_draws);
        let tasks = bilevel.tasks.iter_mut().zip(&stage.tasks).zip(drawing).enumerate();
        let tasks = tasks.map(|(i, (((objective, _), rows), (order, draws)))| LowerTask {
            objective: &mut **objective,
            data: Scored { rows, reference: references.tasks.get(i) },
            draw: Box::new(|| {
                *draws += 1;
                order.take(batch_size)
            }),
        });
        let tasks = tasks.collect();
        let lower = bilevel.lower.as_mut().map(|lower| &mut **lower as &mut dyn Objective);
        let levels = Levels { upper: &mut *stage.objective, lower };
        let mut problem = StepProblem::new(session, levels, data, batch, source, tasks, motion)?;
        let outcome = bilevel.step.step(&mut problem);
        let (seen, grad_norm) = (problem.observation.take(), problem.grad_norm);
        let (lower_rows, task_rows) = (problem.lower_rows(), problem.task_rows());
        let drawing = problem.drawing.as_secs_f64();
        drop(problem);
        steps.data_seconds += drawing;
        let (mut metrics, losses) = match outcome {
            Ok(report) => {
                let mut metrics = seen.as_ref().map(Observation::metrics).unwrap_or_default();
                metrics.extend(report.metrics);
                (metrics, report.losses)
            }
            Err(Error::NonFinite(error)) => {
                let incident = Incident {
                    stage: stage.recipe.name.clone(),
                    step: step + 1,
                    error,
                    rows,
                    data: stage.train.hash(),
                    lower_rows,
                    lower_own: own,
                    task_rows,
                };
                self.leave_out(incident, memory, references, steps)?;
                (Metrics::new(), Losses { upper: f64::NAN, lower: f64::NAN })
            }
            Err(error) => return Err(error).with_context(|| format!("step {} of {total}", step + 1)),
        };
        if !metrics.is_empty() {
            steps.skipped_in_a_row = 0;
        }
        let stage = &*self.stage;
        let epoch = ((step + 1) * batch_size) as f64 / stage.train.examples.len() as f64;
        for (name, value) in [
            ("grad_norm", grad_norm.filter(|_| !metrics.is_empty())),
            ("loss/upper", stage.bilevel.lower.is_some().then_some(losses.upper)),
            ("loss/lower", Some(losses.lower)),
            ("skipped", (steps.skipped > 0).then_some(steps.skipped as f64)),
            ("learning_rate", Some(lr)),
            ("num_tokens", Some(steps.tokens as f64)),
            ("epoch", Some(epoch)),
        ] {
            // A level that was not computed has no loss.
            if let Some(value) = value.filter(|v| v.is_finite()) {
                metrics.insert(name.into(), value);
            }
        }
        Ok(metrics)
    }

    /// A batch is left out, if the recipe allows it: what it made objectives and step remember is forgotten.
    /// Parameters that the step had moved before it failed stay where they are.
    fn leave_out(
        &mut self,
        incident: Incident,
        memory: Memory,
        references: &References,
        steps: &mut Steps,
    ) -> anyhow::Result<()> {
        memory.restore(self.stage)?;
        let session = &mut *self.plan.session;
        let why = if self.plan.recipe.run.on_nonfinite == OnNonfinite::Stop {
            Some(String::new())
        } else if !session.vectors().norm(Vector::PARAMETERS)?.is_finite() {
            Some("; the parameters themselves are not finite".to_owned())
        } else {
            (steps.skipped_in_a_row + 1 >= PATIENCE)
                .then(|| format!("; it is the {PATIENCE}th batch in a row"))
        };
        let place = format!("step {} of {}", incident.step, self.stage.steps);
        if why.is_none() {
            let skipped = format!("warning: {place} is left out: {}", incident.error);
            self.reporter.note(&skipped);
        }
        if why.is_some() || steps.skipped == 0 {
            let moving = references.moving.as_ref().map(MovingReference::state);
            let state = StageState { steps: steps.clone(), memory, moving, evolution: None };
            let lower = self.stage.lower_data.as_ref().unwrap_or(&self.stage.train);
            let only = |scores: &Scores, data: &Dataset, rows: &[usize]| {
                let mut taken = Scores::empty(data);
                taken.merge(scores, rows);
                taken
            };
            let train = references.train.as_ref().map(|of| only(of, &self.stage.train, &incident.rows));
            let lower = references.lower.as_ref().map(|of| only(of, lower, &incident.lower_rows));
            let scores = [("train", &train), ("lower", &lower)];
            let scores = scores.into_iter().filter_map(|(name, of)| Some((name.to_owned(), of.as_ref()?)));
            let state = self.keeper.state(Some(state));
            let written = incident.write(self.output.folder(), session, &state, &scores.collect());
            let note = match written {
                Ok(folder) => {
                    format!("the batch is in {0}: `spo-run replay {0}` recomputes it", folder.display())
                }
                Err(error) => format!("{error:#}"),
            };
            match why {
                Some(why) => {
                    return Err(Error::NonFinite(format!("{}{why}\n{note}", incident.error))).context(place);
                }
                None => self.reporter.note(&note),
            }
        }
        steps.skipped += 1;
        steps.skipped_in_a_row += 1;
        Ok(())
    }
}

/// How one step of a stage moves.
fn motion(recipe: &Stage, lr: f64, progress: Progress) -> Motion {
    let Optimizer { betas: [beta1, beta2], epsilon, weight_decay, .. } = recipe.optimizer;
    Motion {
        micro_batch: recipe.micro_batch,
        optimizer: AdamW {
            lr,
            beta1,
            beta2,
            epsilon,
            weight_decay,
            exempt_bias_and_norm: !recipe.optimizer.decay_bias_and_norm,
            gradient_scale: 1.0,
        },
        max_grad_norm: recipe.optimizer.max_grad_norm,
        progress,
    }
}
