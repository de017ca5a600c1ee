//! The training steps of a stage.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use spo_api::{Error, Losses, Metrics, Progress, Ruling, Span, StepReport, Vector};
use spo_data::Dataset;

use crate::recipe::OnNonfinite;
use crate::shell::word;
use crate::store::scores::Scores;
use crate::train::checkpoint::Memory;
use crate::train::diagnostics::Evolution;
use crate::train::incident::{Incident, PATIENCE};
use crate::train::schedule::LearningRate;
use crate::train::step::observation::Observation;
use crate::train::step::problem::{LowerTerm, Motion, Scored, StepProblem, StepSetting, UpperLevel};
use crate::train::step::rows::{Batch, Pass};

use super::in_flight::{InFlight, lower_name};
use super::training::Training;

/// The result of a step.
struct Solved {
    outcome: spo_api::Result<StepReport>,
    /// Recorded at the first evaluation of the upper level.
    seen: Option<Observation>,
    grad_norm: Option<f64>,
    /// Row indices of each term of the lower level that has its own batch.
    lower_rows: Vec<Vec<usize>>,
}

impl Training<'_> {
    /// Trains from the stage's current state to its end.
    pub(super) fn steps(&mut self, work: &mut InFlight) -> anyhow::Result<()> {
        let total = self.stage.steps;
        let (began, before) = (Instant::now(), work.clock.elapsed);
        for step in work.progress.done..total {
            if let (Some(evolution), Some(log)) = (&mut work.evolution, &mut self.logs.diagnostics) {
                let note = |text: &str| self.reporter.note(text);
                evolution.before_step(&mut *self.plan.session, log, step, &note)?;
            }
            let (step_began, tokens_before) = (Instant::now(), work.progress.tokens);
            let mut metrics = self.step(work)?;
            let ruling = self.calibrate(work, step + 1, &mut metrics)?;
            if let Some(moving) = &mut work.references.moving {
                moving.follow(&mut *self.plan.session, step + 1)?;
            }
            self.logs.metrics(&self.stage.recipe.name, step + 1, &metrics)?;
            let took = step_began.elapsed().as_secs_f64();
            let tokens = work.progress.tokens - tokens_before;
            self.reporter.step(step + 1, &metrics, tokens as f64 / took);
            work.clock.steps.add(took);
            if let (Some(evolution), Some(log)) = (&mut work.evolution, &mut self.logs.diagnostics) {
                evolution.after_step(&mut *self.plan.session, log, step + 1, &metrics)?;
            }
            (work.progress.done, work.progress.metrics) = (step + 1, metrics);
            if work.progress.done == total || ruling == Some(Ruling::End) {
                break;
            }
            if self.plan.recipe.evaluation.every.due(work.progress.done, total) {
                self.evaluate(&mut work.evaluator, work.progress.done, &mut work.progress)?;
            }
            if work.progress.patience.over {
                break;
            }
            work.clock.elapsed = before + began.elapsed().as_secs_f64();
            let asked = self.stop.check();
            if asked.is_err() || self.keeper.checkpoints.due(work.progress.done, total) {
                work.keep(self)?;
            }
            asked.with_context(|| format!("after step {} of {total}", work.progress.done))?;
        }
        if let Some(account) = &mut work.budget {
            account.settle(&mut *self.plan.session)?;
        }
        if let (Some(evolution), Some(log)) = (work.evolution.take(), &mut self.logs.diagnostics) {
            evolution.finish(&mut *self.plan.session, log, &|text| self.reporter.note(text))?;
        }
        work.clock.elapsed = before + began.elapsed().as_secs_f64();
        Ok(())
    }

    /// Takes one step on the next batch and returns its metrics. A skipped batch has only the counters.
    fn step(&mut self, work: &mut InFlight) -> anyhow::Result<Metrics> {
        let lr = self.learning_rate(work);
        let (rows, batch) = self.draw(work)?;
        if let (Some(moving), Some(scores)) = (&work.references.moving, &mut work.references.train) {
            moving.score(&mut *self.plan.session, &batch, scores)?;
        }
        let memory = Memory::of(self.stage);
        let Solved { outcome, seen, grad_norm, lower_rows } = self.solve(work, batch, lr)?;
        let step = work.progress.done + 1;
        let (mut metrics, losses) = match outcome {
            Ok(report) => {
                work.progress.skipped_in_a_row = 0;
                let mut metrics = seen.as_ref().map(Observation::metrics).unwrap_or_default();
                metrics.extend(report.metrics);
                metrics.extend(grad_norm.map(|norm| ("grad_norm".to_owned(), norm)));
                (metrics, report.losses)
            }
            Err(Error::NonFinite(error)) => {
                let (stage, data) = (self.stage.recipe.name.clone(), self.stage.train.hash());
                self.leave_out(Incident { stage, step, error, rows, data, lower_rows }, memory, work)?;
                (Metrics::new(), Losses { upper: f64::NAN, lower: f64::NAN })
            }
            Err(error) => {
                return Err(error).with_context(|| format!("step {step} of {}", self.stage.steps));
            }
        };
        self.count(&mut metrics, losses, lr, work);
        Ok(metrics)
    }

    fn learning_rate(&self, work: &InFlight) -> f64 {
        let (rate, total) = (&self.stage.recipe.optimizer.own, self.stage.steps);
        let span = Span { warmup: rate.warmup.steps(total), total };
        let rate = LearningRate { peak: rate.lr, schedule: &*self.stage.schedule, span };
        rate.at(work.progress.done) * work.evolution.as_ref().map_or(1.0, Evolution::lr_factor)
    }

    /// The next batch, and the indices of its rows.
    fn draw(&self, work: &mut InFlight) -> spo_api::Result<(Vec<usize>, Batch)> {
        let (stage, began) = (&*self.stage, Instant::now());
        let rows = work.orders.train.batch(stage.recipe.batch_size);
        let batch = Batch::new(&stage.train, &rows, stage.view, stage.recipe.micro_batch)?;
        work.clock.data += began.elapsed().as_secs_f64();
        work.progress.tokens += batch.passes.iter().map(Pass::unshared_tokens).sum::<usize>();
        Ok((rows, batch))
    }

    /// Runs the stage's bilevel step on a batch.
    fn solve(&mut self, work: &mut InFlight, batch: Batch, lr: f64) -> spo_api::Result<Solved> {
        let stage = &mut *self.stage;
        let (batch_size, progress) =
            (stage.recipe.batch_size, Progress { step: work.progress.done, total: stage.steps });
        stage.objective.begin(progress.step);
        let data = Scored { rows: &stage.train, reference: work.references.train.as_ref() };
        let drawing = work.orders.lower.iter_mut().zip(&mut work.progress.draws);
        let terms = stage.lower.iter_mut().zip(&work.references.lower).zip(drawing);
        let lower = terms.map(|((term, reference), (order, draws))| LowerTerm {
            objective: &mut *term.objective,
            data: match &term.data {
                Some(rows) => Scored { rows, reference: reference.as_ref() },
                None => data,
            },
            shared: term.data.is_none(),
            draw: Box::new(|| {
                *draws += 1;
                order.take(batch_size)
            }),
        });
        let router_loss = self.plan.router_loss();
        let seed = dropout_seed(self.plan.recipe.run.seed, &stage.recipe.name, progress.step);
        let motion = Motion {
            rule: &*stage.optimizer,
            optimization: &mut work.optimization,
            lr,
            max_grad_norm: stage.recipe.optimizer.own.max_grad_norm,
            in_backward: stage.recipe.optimizer.own.in_backward,
            router_loss,
        };
        let upper = UpperLevel { objective: &mut *stage.objective, data, batch };
        let setting = StepSetting { progress, micro_batch: stage.recipe.micro_batch };
        let session = &mut *self.plan.session;
        let dropping = session.drop_out(Some(seed));
        let mut problem = StepProblem::new(session, upper, lower.collect(), setting, Some(motion))?;
        let outcome = dropping.and_then(|()| stage.step.step(&mut problem));
        let (seen, grad_norm, lower_rows) =
            (problem.observation.take(), problem.grad_norm, problem.lower_rows());
        let drawing = problem.drawing.as_secs_f64();
        drop(problem);
        let outcome = self.plan.session.drop_out(None).and(outcome);
        work.clock.data += drawing;
        Ok(Solved { outcome, seen, grad_norm, lower_rows })
    }

    /// Adds the losses and counters of a step to its metrics.
    fn count(&self, metrics: &mut Metrics, losses: Losses, lr: f64, work: &InFlight) {
        let (stage, progress) = (&*self.stage, &work.progress);
        let passes = (progress.done + 1) as f64 / stage.steps_per_pass();
        for (name, value) in [
            ("loss/upper", (!stage.lower.is_empty()).then_some(losses.upper)),
            ("loss/lower", Some(losses.lower)),
            ("skipped", (progress.skipped > 0).then_some(progress.skipped as f64)),
            ("learning_rate", Some(lr)),
            ("num_tokens", Some(progress.tokens as f64)),
            ("epoch", Some(passes)),
        ] {
            // A level that was not computed has no loss.
            if let Some(value) = value.filter(|v| v.is_finite()) {
                metrics.insert(name.into(), value);
            }
        }
    }

    /// Skips a batch if the recipe allows it. The state of the objectives and the step is restored, but
    /// parameter updates made before the failure stay.
    fn leave_out(&mut self, incident: Incident, memory: Memory, work: &mut InFlight) -> anyhow::Result<()> {
        memory.restore(self.stage)?;
        let place = format!("step {} of {}", incident.step, self.stage.steps);
        let why = self.reason_to_stop(work)?;
        if why.is_none() {
            let skipped = format!("warning: {place} is left out: {}", incident.error);
            self.reporter.note(&skipped);
        }
        if why.is_some() || work.progress.skipped == 0 {
            let note = match self.write_down(&incident, memory, work) {
                Ok(folder) => {
                    let shown = folder.display();
                    format!("the batch is in {shown}: `spo-run replay {}` recomputes it", word(&folder))
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
        work.progress.skipped += 1;
        work.progress.skipped_in_a_row += 1;
        Ok(())
    }

    /// Why a batch cannot be skipped, worded to follow the error; `None` if it can.
    fn reason_to_stop(&mut self, work: &InFlight) -> anyhow::Result<Option<String>> {
        if self.plan.recipe.run.on_nonfinite == OnNonfinite::Stop {
            return Ok(Some(String::new()));
        }
        if !self.plan.session.vectors().norm(Vector::PARAMETERS)?.is_finite() {
            return Ok(Some("; the parameters themselves are not finite".to_owned()));
        }
        let last = work.progress.skipped_in_a_row + 1 >= PATIENCE;
        Ok(last.then(|| format!("; it is the {PATIENCE}th batch in a row")))
    }

    /// Saves a batch for `spo-run replay`, with the reference log-probs of its rows. Returns the folder.
    fn write_down(
        &mut self,
        incident: &Incident,
        memory: Memory,
        work: &InFlight,
    ) -> anyhow::Result<PathBuf> {
        let only = |scores: &Scores, data: &Dataset, rows: &[usize]| {
            let mut taken = Scores::empty(data);
            taken.merge(scores, rows);
            taken
        };
        let mut scores = Vec::new();
        if let Some(of) = &work.references.train {
            scores.push(("train".to_owned(), only(of, &self.stage.train, &incident.rows)));
        }
        let terms = self.stage.lower.iter().zip(&work.references.lower).zip(&incident.lower_rows);
        for (i, ((term, of), rows)) in terms.enumerate() {
            if let Some(of) = of {
                scores.push((lower_name(i), only(of, &self.stage.demonstrations(term), rows)));
            }
        }
        let scores = scores.iter().map(|(name, of)| (name.clone(), of)).collect();
        let mut state = work.state(memory);
        (state.evolution, state.budget) = (None, None);
        let state = self.keeper.state(Some(state));
        let folder = incident.write(self.output.folder(), &mut *self.plan.session, &state, &scores)?;
        Ok(folder)
    }
}

/// A seed of its own for every training step of a run.
fn dropout_seed(run: u64, stage: &str, step: usize) -> u64 {
    // FNV-1a.
    let bytes = run.to_le_bytes().into_iter().chain(stage.bytes()).chain((step as u64).to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
