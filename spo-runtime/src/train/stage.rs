//! One stage of a run: its references, its held-out rows, and what is kept of it.

mod order;
mod steps;

use std::sync::Arc;

use anyhow::Context;
use spo_api::{Metrics, Vector, nearest};
use spo_data::{Dataset, MicroBatch};

use crate::error::BadInput;
use crate::plan::Plan;
use crate::plan::provenance::Provenance;
use crate::plan::stage::PlannedStage;
use crate::plan::view::View;
use crate::recipe::Reference;
use crate::reporter::Reporter;
use crate::stop::Stop;
use crate::store::cache::Cache;
use crate::store::logs::Logs;
use crate::store::output::Output;
use crate::store::scores::Scores;
use crate::store::{bundle, scores as scores_file};
use crate::train::checkpoint::{Memory, StageState, Steps};
use crate::train::diagnostics::{Evolution, StageFacts};
use crate::train::evaluate::answers::{HeldOutLine, Wanted};
use crate::train::evaluate::mass::{Ledger, ledgers};
use crate::train::evaluate::{HeldOut, held_out};
use crate::train::reference::{MovingReference, fill};
use crate::train::start_check;
use crate::train::starts::MODEL;
use crate::train::step::rows::Batch;
use crate::train::summary::StageSummary;

use super::keeper::{Keeper, Known, Within};
use super::model_folder::{export, save};
use order::Order;

/// In an entry of the cache, what the scores are called.
const CACHED: &str = "reference";

/// One stage at work.
pub(super) struct Training<'a> {
    pub(super) plan: &'a mut Plan,
    pub(super) stage: &'a mut PlannedStage,
    /// The parameters of the model as it was opened, if they are the reference.
    pub(super) opened: Option<Vector>,
    pub(super) known: &'a mut Known,
    pub(super) logs: &'a mut Logs,
    pub(super) reporter: &'a mut Reporter,
    pub(super) keeper: &'a mut Keeper,
    pub(super) output: &'a Output,
    pub(super) cache: &'a Cache,
    pub(super) provenance: Option<&'a Provenance>,
    pub(super) stop: &'a Stop,
}

impl Training<'_> {
    pub(super) fn run(mut self, within: Option<Within>) -> anyhow::Result<StageSummary> {
        self.reporter.begin(&self.stage.recipe.name, self.stage.steps);
        let (references, mut evaluator, evolution, mut steps) = match within {
            Some(within) => self.go_on(within)?,
            None => {
                let mut steps = Steps::default();
                let references = self.references(&mut steps)?;
                let mut evaluator = self.evaluator(&mut steps)?;
                steps.before = self.evaluate(&mut evaluator, 0, &mut steps)?;
                self.check_start(&references)?;
                let evolution = self.evolution()?;
                (references, evaluator, evolution, steps)
            }
        };
        self.steps(references, &mut evaluator, evolution, &mut steps)?;
        let after = self.evaluate(&mut evaluator, self.stage.steps, &mut steps)?;
        self.reporter.end();
        let Steps {
            tokens,
            metrics,
            before,
            mut seconds,
            elapsed,
            data_seconds,
            reference_rows,
            skipped,
            ..
        } = steps;
        seconds.sort_by(f64::total_cmp);
        Ok(StageSummary {
            name: self.stage.recipe.name.clone(),
            from: self.stage.from.clone(),
            bilevel: self.stage.bilevel.name.clone(),
            steps: self.stage.steps,
            seconds: elapsed,
            data_seconds,
            step_seconds: seconds[seconds.len() / 2],
            tokens,
            reference_rows,
            skipped,
            train: metrics,
            before,
            after,
        })
    }

    /// The reference is scored before training: by the model as the stage finds it, or as it was opened.
    fn references(&mut self, steps: &mut Steps) -> anyhow::Result<References> {
        let (recipe, lower_data) = (self.stage.recipe.clone(), self.stage.lower_data.clone());
        let of_lower = self.stage.bilevel.step.needs().reference_lower;
        let of_train = self.stage.objective.requirements().reference || (of_lower && lower_data.is_none());
        let train = match of_train {
            true => {
                let data = self.stage.train.clone();
                // A short stage does not see all rows.
                let rows = self
                    .order()
                    .take(self.stage.steps.saturating_mul(recipe.batch_size).min(data.examples.len()));
                Some(self.scores(&data, self.stage.view, rows, steps)?)
            }
            false => None,
        };
        let lower = match &lower_data {
            Some(data) if of_lower => {
                Some(self.scores(data, View::DEMONSTRATIONS, (0..data.examples.len()).collect(), steps)?)
            }
            _ => None,
        };
        let mut tasks = Vec::new();
        for data in self.stage.tasks.clone().iter().filter(|_| of_lower) {
            let all = (0..data.examples.len()).collect();
            tasks.push(self.scores(data, View::DEMONSTRATIONS, all, steps)?);
        }
        let moving = match recipe.reference {
            Reference::Moving(how) if of_train => Some(MovingReference::new(&mut *self.plan.session, how)?),
            _ => None,
        };
        Ok(References { train, lower, tasks, moving })
    }

    /// The reference's scores of these rows at least.
    fn scores(
        &mut self,
        data: &Arc<Dataset>,
        view: View,
        rows: Vec<usize>,
        steps: &mut Steps,
    ) -> anyhow::Result<Scores> {
        let mut scores = self.known.remove(&self.key(data, view)).unwrap_or_else(|| Scores::empty(data));
        let mut missing: Vec<usize> = rows.into_iter().filter(|&row| !scores.knows(row)).collect();
        if missing.is_empty() {
            return Ok(scores);
        }
        // In an order that other seeds share.
        missing.sort_unstable();
        let at_once = self.plan.recipe.evaluation.batch_size;
        let by = if self.opened.is_some() { MODEL } else { &self.stage.from };
        let stages = self.keeper.finished.iter().position(|stage| stage.name == by).map_or(0, |i| i + 1);
        let slot = match self.provenance {
            Some(known) => {
                let key = known.log_probs(stages, &data.hash(), view, &missing, at_once);
                self.cache.slot(&key, self.stop, self.reporter)?
            }
            None => None,
        };
        let file = "scores.safetensors";
        if let Some(slot) = &slot
            && let Some(found) = slot.read(self.reporter, |folder| {
                let found = scores_file::read(&folder.join(file))?.remove(CACHED);
                found.filter(|found| found.chosen.len() == scores.chosen.len()).context("it is of other rows")
            })
        {
            scores.merge(&found, &missing);
            let rows = missing.len();
            self.reporter.note(&format!("reference: the log-probs of {rows} rows are taken from the cache"));
            return Ok(scores);
        }
        let (reporter, stop) = (&mut *self.reporter, self.stop);
        let mut progress = |done, total| {
            reporter.scoring("the reference", done, total);
            Ok(stop.check()?)
        };
        let session = &mut *self.plan.session;
        fill(&mut scores, session, data, view, &missing, at_once, self.opened, &mut progress)?;
        steps.reference_rows += missing.len();
        if let Some(slot) = &slot {
            let mut made = Scores::empty(data);
            made.merge(&scores, &missing);
            slot.write(self.reporter, |folder| {
                scores_file::write(&folder.join(file), [(CACHED.to_owned(), &made)])
            });
        }
        Ok(scores)
    }

    /// Where the policy begins as the reference, their log-probs must agree on the first batch.
    fn check_start(&mut self, references: &References) -> anyhow::Result<()> {
        let (Some(reference), data) = (&references.train, self.stage.train.clone()) else { return Ok(()) };
        if self.opened.is_some() && self.stage.from != MODEL {
            return Ok(());
        }
        let recipe = &self.stage.recipe;
        let rows = self.order().take(recipe.batch_size);
        let batch = Batch::new(&data, &rows, self.stage.view, recipe.micro_batch);
        start_check::check(&mut *self.plan.session, &batch, &data, reference)
    }

    /// The order in which the stage sees its rows.
    fn order(&self) -> Order {
        let (seed, rows) = (self.plan.recipe.run.seed, self.stage.train.examples.len());
        Order::new(seed, rows, self.stage.recipe.shuffle)
    }

    fn key(&self, data: &Dataset, view: View) -> String {
        let by = if self.opened.is_some() { MODEL } else { &self.stage.from };
        format!("{by} {} {:?} {:?}", data.hash(), view.layout, view.mismatched)
    }

    /// What a stage that was interrupted had in its hands.
    fn go_on(&mut self, within: Within) -> anyhow::Result<(References, Evaluator, Option<Evolution>, Steps)> {
        let Within { state, mut scores } = within;
        state.memory.restore(self.stage)?;
        let moving = match (self.stage.recipe.reference, state.moving) {
            (Reference::Moving(how), Some(state)) => Some(MovingReference::restored(how, state)),
            _ => None,
        };
        let mut take = |name: &str| scores.remove(name);
        let (train, lower) = (take("train"), take("lower"));
        let tasks = (0..self.stage.tasks.len()).filter_map(|i| take(&task_name(i))).collect();
        let references = References { train, lower, tasks, moving };
        let mut evaluator = self.evaluator_against(take("held_out/reference"));
        evaluator.start = take("held_out/start");
        Ok((references, evaluator, state.evolution, state.steps))
    }

    /// Writes a checkpoint.
    fn keep(
        &mut self,
        references: &References,
        evaluator: &Evaluator,
        evolution: &Option<Evolution>,
        steps: &Steps,
    ) -> anyhow::Result<()> {
        let moving = references.moving.as_ref().map(MovingReference::state);
        let (memory, evolution) = (Memory::of(self.stage), evolution.clone());
        let state = StageState { steps: steps.clone(), memory, moving, evolution };
        let scores = [
            ("train", references.train.as_ref()),
            ("lower", references.lower.as_ref()),
            ("held_out/reference", evaluator.held_out.as_ref().and_then(|rows| rows.reference.as_ref())),
            ("held_out/start", evaluator.start.as_ref()),
        ];
        let scores = scores.into_iter().filter_map(|(name, scores)| Some((name.to_owned(), scores?)));
        let of_tasks = references.tasks.iter().enumerate().map(|(i, scores)| (task_name(i), scores));
        let scores = scores.chain(of_tasks);
        let stage = Some((state, scores.collect()));
        self.keeper.save(&mut *self.plan.session, self.logs, self.known, stage)
    }

    fn evaluator(&mut self, steps: &mut Steps) -> anyhow::Result<Evaluator> {
        let reference = match self.stage.eval.clone().filter(|_| self.opened.is_some()) {
            Some(data) => {
                let all = (0..data.examples.len()).collect();
                Some(self.scores(&data, self.held_out_view(&data), all, steps)?)
            }
            None => None,
        };
        Ok(self.evaluator_against(reference))
    }

    fn held_out_view(&self, data: &Dataset) -> View {
        View { layout: data.layout, mismatched: self.stage.view.mismatched }
    }

    fn evaluator_against(&self, reference: Option<Scores>) -> Evaluator {
        let rows = MicroBatch::Rows(self.plan.recipe.evaluation.batch_size);
        let held_out = self.stage.eval.clone().map(|data| {
            let batch = Batch::whole(&data, self.held_out_view(&data), rows);
            HeldOutRows { data, batch, reference }
        });
        Evaluator { held_out, start: None }
    }

    /// What follows where probability goes, if the recipe asks for it.
    fn evolution(&mut self) -> anyhow::Result<Option<Evolution>> {
        let (Some(recipe), Some(log)) = (&self.plan.recipe.diagnostics, &mut self.logs.diagnostics) else {
            return Ok(None);
        };
        let facts = StageFacts {
            name: &self.stage.recipe.name,
            steps: self.stage.steps,
            data: self.stage.eval.as_ref().unwrap_or(&self.stage.train),
            held_out: self.stage.eval.is_some(),
            at_once: self.plan.recipe.evaluation.batch_size,
            seed: self.plan.recipe.run.seed,
        };
        Evolution::begin(recipe, &facts, &mut *self.plan.session, &self.plan.tokenizer, log).map(Some)
    }

    /// Held-out figures after `step` steps, logged and shown. At the beginning and at the end prompts are
    /// answered too, and every row is kept.
    fn evaluate(
        &mut self,
        evaluator: &mut Evaluator,
        step: usize,
        steps: &mut Steps,
    ) -> anyhow::Result<Option<Metrics>> {
        let answer = step == 0 || step == self.stage.steps;
        let Some(HeldOutRows { data, batch, reference }) = &evaluator.held_out else { return Ok(None) };
        let (session, objective) = (&mut *self.plan.session, &mut *self.stage.objective);
        let start = evaluator.start.as_ref();
        let HeldOut { mut metrics, scores } =
            held_out(session, objective, batch, data, start, reference.as_ref())?;
        let name = &self.stage.recipe.name;
        if answer {
            let mut line = HeldOutLine::new(name, step, data, &scores);
            let wanted = Wanted {
                exact_match: self.stage.exact_match,
                judge: self.stage.judge,
                samples: self.plan.recipe.evaluation.samples,
            };
            metrics.extend(line.answer(session, data, &self.plan.tokenizer, &wanted)?);
            self.logs.held_out.write(&line)?;
        }
        if self.plan.recipe.evaluation.mass {
            metrics.extend(Ledger::mean(&ledgers(session, data)?).metrics());
        }
        evaluator.start.get_or_insert(scores);
        self.logs.metrics(name, step, &metrics)?;
        self.reporter.evaluation(step, &metrics);
        self.keep_best(step, &metrics, steps)?;
        Ok(Some(metrics))
    }

    /// Saves the model if it is the best of the stage so far. The one the stage began with is none of its own.
    fn keep_best(&mut self, step: usize, metrics: &Metrics, steps: &mut Steps) -> anyhow::Result<()> {
        let plan = &mut *self.plan;
        let Some(best) = &plan.recipe.checkpoint.best else { return Ok(()) };
        let Some(&figure) = metrics.get(&best.metric) else {
            let names = || metrics.keys().map(String::as_str);
            let hint =
                nearest(&best.metric, names()).map_or(String::new(), |n| format!("; did you mean `{n}`?"));
            let listed = names().collect::<Vec<_>>().join(", ");
            let message = format!(
                "error: checkpoint.best.metric: no held-out figure is called `{}`{hint} There are {listed}",
                best.metric
            );
            return Err(BadInput(message).into());
        };
        if step == 0 || !best.goal.improves(figure, steps.best) {
            return Ok(());
        }
        let folder = self.output.stage(&self.stage.recipe.name);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let what = export(plan);
        bundle::write(&folder.join("best"), |aside| {
            save(&mut *plan.session, aside, what, &plan.tokenizer)?;
            let about = serde_json::json!({ "step": step, &best.metric: figure });
            Ok(std::fs::write(aside.join("best.json"), format!("{about:#}\n"))?)
        })?;
        steps.best = Some(figure);
        Ok(())
    }
}

/// What the reference says of a stage's rows.
struct References {
    train: Option<Scores>,
    lower: Option<Scores>,
    tasks: Vec<Scores>,
    moving: Option<MovingReference>,
}

/// The name of the reference's scores of a further term of the lower level, in a checkpoint.
fn task_name(index: usize) -> String {
    format!("task{index}")
}

/// Held-out rows of a stage, with what they scored when it began.
struct Evaluator {
    /// `None` when the recipe has no held-out rows.
    held_out: Option<HeldOutRows>,
    start: Option<Scores>,
}

/// Held-out rows, with the reference's scores where it is not the model as the stage found it.
struct HeldOutRows {
    data: Arc<Dataset>,
    batch: Batch,
    reference: Option<Scores>,
}
