//! A whole run: the stages in order, each from where it starts to where it is saved.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use spo_api::{
    AdamW, Error, Export, Losses, Metrics, Objective, Progress, Registry, Session, Vector, nearest,
};
use spo_data::{Dataset, MicroBatch, Tokenizer, epoch_order};

use crate::bundle;
use crate::cache::{Cache, Slot};
use crate::checkpoint::{self, Checkpoints, Found, Memory, NamedScores, RunState, StageState, Steps};
use crate::diagnostics::{Evolution, StageFacts};
use crate::document::Document;
use crate::error::{BadInput, Unfinished};
use crate::evaluate::{HeldOut, HeldOutLine, held_out};
use crate::incident::{Incident, PATIENCE};
use crate::judge::judged;
use crate::logs::{Lengths, Logs};
use crate::mass::{Ledger, ledgers};
use crate::observation::Observation;
use crate::output::{Before, Output};
use crate::plan::{Plan, PlannedStage};
use crate::problem::{Levels, LowerSource, LowerTask, Motion, Scored, StepProblem};
use crate::provenance::Provenance;
use crate::recipe::{OnNonfinite, Optimizer, Reference, Stage};
use crate::reference::{MovingReference, fill};
use crate::reporter::Reporter;
use crate::rows::{Batch, Part, Scores, View};
use crate::schedule::LearningRate;
use crate::scores_file;
use crate::start_check;
use crate::starts::{self, MODEL, Starts, Uses};
use crate::stop::Stop;
use crate::summary::{StageSummary, Summary};

/// Runs a recipe from beginning to end, or to its end from where it was interrupted.
///
/// # Errors
/// [`BadInput`](crate::error::BadInput) before training begins when the recipe, the data or the model
/// cannot be used; [`Interrupted`](crate::stop::Interrupted) when a signal came; anything else when the run
/// fails.
pub fn run(registry: &mut Registry, document: &Document, mut reporter: Reporter) -> anyhow::Result<()> {
    let stop = Stop::on_signals()?;
    let plan = Plan::new(registry, document)?;
    let (output, before) = Output::open(&plan)?;
    if before == Before::Finished {
        reporter.note(&format!("{} is finished already", output.folder().display()));
        return Ok(());
    }
    for line in plan.description() {
        reporter.note(&line);
    }
    let folder = output.folder().to_owned();
    Run::new(plan, output, before, stop, &mut reporter)?.go(&mut reporter).context(Unfinished { folder })
}

/// What goes from stage to stage.
struct Run {
    plan: Plan,
    stages: Vec<PlannedStage>,
    uses: Vec<Uses>,
    output: Output,
    logs: Logs,
    keeper: Keeper,
    known: Known,
    cache: Cache,
    /// None without a cache.
    provenance: Option<Provenance>,
    /// Where the next stage was interrupted.
    within: Option<Within>,
    stop: Stop,
}

/// A stage that was interrupted.
struct Within {
    state: StageState,
    scores: BTreeMap<String, Scores>,
}

/// What a checkpoint says of the stages before the one at work, and the checkpoints.
struct Keeper {
    checkpoints: Checkpoints,
    finished: Vec<StageSummary>,
    starts: Starts,
}

impl Keeper {
    /// Where the run stands.
    fn state(&self, stage: Option<StageState>) -> RunState {
        let (finished, starts) = (self.finished.clone(), self.starts.clone());
        RunState { logs: Lengths::new(), finished, starts, stage }
    }

    /// Writes a checkpoint, within a stage or between two.
    fn save(
        &mut self,
        session: &mut dyn Session,
        logs: &mut Logs,
        known: &Known,
        stage: Option<(StageState, NamedScores<'_>)>,
    ) -> anyhow::Result<()> {
        let (stage, mut scores) =
            stage.map_or_else(Default::default, |(state, scores)| (Some(state), scores));
        scores.extend(named(known));
        let state = self.state(stage);
        self.checkpoints.save(session, logs, state, &scores)
    }
}

/// In an entry of the cache, what the scores are called.
const CACHED: &str = "reference";

/// In an entry of the cache, the lines that a stage logged.
const LINES: &str = "lines.json";

/// In a checkpoint, what precedes the names of scores that later stages may want.
const KNOWN: &str = "known/";

impl Run {
    /// Before the first stage, or where the newest checkpoint says.
    fn new(
        mut plan: Plan,
        output: Output,
        before: Before,
        stop: Stop,
        reporter: &mut Reporter,
    ) -> anyhow::Result<Self> {
        let stages = std::mem::take(&mut plan.stages);
        let uses = Uses::of(&plan.recipe);
        let checkpoints = Checkpoints::new(output.folder(), plan.recipe.checkpoint.clone());
        let cache = Cache::new(&plan.recipe.cache, output.folder());
        let provenance = plan.recipe.cache.enabled.then(|| Provenance::new(&plan, &stages)).transpose()?;
        let found = match before {
            Before::Unfinished => {
                if let Some(drift) = output.drift(&plan) {
                    reporter.note(&format!("the last digits may differ from now on: {drift}"));
                }
                checkpoints.newest(&mut |folder, error| {
                    reporter.note(&format!("warning: {} is passed over: {error:#}", folder.display()));
                })
            }
            _ => None,
        };
        let lengths = found.as_ref().map(|found| found.state.logs.clone()).unwrap_or_default();
        let logs = Logs::open(output.folder(), &lengths, plan.recipe.diagnostics.is_some())?;
        let starts = match &found {
            Some(_) => Starts::default(),
            None => Starts::new(&mut *plan.session, &uses)?,
        };
        let keeper = Keeper { checkpoints, finished: Vec::new(), starts };
        let (known, within) = (Known::new(), None);
        let mut run =
            Run { plan, stages, uses, output, logs, keeper, known, cache, provenance, within, stop };
        match found {
            Some(found) => {
                run.restore(found)?;
                let done = run.within.as_ref().map_or(0, |within| within.state.steps.done);
                let stage = &run.stages[run.keeper.finished.len()].recipe.name;
                reporter.note(&format!("going on after step {done} of stage `{stage}`"));
            }
            None if before == Before::Unfinished => {
                reporter.note("there is no checkpoint to go on from: from the beginning");
            }
            None => {}
        }
        Ok(run)
    }

    /// Goes to where a checkpoint stands.
    fn restore(&mut self, found: Found) -> anyhow::Result<()> {
        found.restore(&mut *self.plan.session)?;
        let RunState { finished, starts, stage, .. } = found.state;
        (self.keeper.finished, self.keeper.starts, self.known) = (finished, starts, Known::new());
        let mut scores = BTreeMap::new();
        for (name, of) in found.scores {
            match name.strip_prefix(KNOWN) {
                Some(key) => self.known.insert(key.to_owned(), of),
                None => scores.insert(name, of),
            };
        }
        self.within = stage.map(|state| Within { state, scores });
        Ok(())
    }

    fn go(mut self, reporter: &mut Reporter) -> anyhow::Result<()> {
        for index in self.keeper.finished.len()..self.stages.len() {
            let name = self.stages[index].recipe.name.clone();
            self.stage(index, reporter).with_context(|| format!("stage `{name}`"))?;
        }
        let summary = Summary { stages: self.keeper.finished };
        self.output.finish(&summary)?;
        self.keeper.checkpoints.remove()?;
        reporter.note(&summary.to_string());
        Ok(())
    }

    fn stage(&mut self, index: usize, reporter: &mut Reporter) -> anyhow::Result<()> {
        let name = self.stages[index].recipe.name.clone();
        let slot = self.slot(index, reporter)?;
        // What has begun here is brought to its end here.
        let cached = slot.as_ref().filter(|_| self.within.is_none());
        let cached = cached.and_then(|slot| {
            slot.read(reporter, |folder| {
                let lines = serde_json::from_slice(&std::fs::read(folder.join(LINES))?)?;
                Ok((Found::read(folder)?, lines))
            })
        });
        if let Some((found, lines)) = cached {
            self.restore(found)?;
            self.logs.append(&lines)?;
            reporter.note(&format!("stage `{name}` is taken from the cache"));
        } else {
            let done = self.train(index, reporter)?;
            self.keeper.starts.leave(&mut *self.plan.session, &self.uses, index)?;
            self.keeper.finished.push(done);
            if let Some(slot) = &slot {
                let lines = serde_json::to_string(&self.logs.of_stage(&name)?)?;
                slot.write(reporter, |folder| {
                    let (state, scores) = (self.keeper.state(None), named(&self.known).collect());
                    checkpoint::fill(folder, &mut *self.plan.session, &state, &scores)?;
                    Ok(std::fs::write(folder.join(LINES), &lines)?)
                });
            }
        }
        if self.stages[index].recipe.save {
            let folder = self.output.stage(&name);
            let what = export(&self.plan);
            save(&mut *self.plan.session, &folder, what, &self.plan.tokenizer)?;
            reporter.note(&format!("saved {}", folder.display()));
        }
        if index + 1 < self.stages.len() {
            self.keeper.save(&mut *self.plan.session, &mut self.logs, &self.known, None)?;
            self.stop.check().context("after its last step")?;
        }
        Ok(())
    }

    /// The place of a stage's result in the cache, if the recipe wants it there.
    fn slot(&self, index: usize, reporter: &Reporter) -> anyhow::Result<Option<Slot>> {
        let name = &self.stages[index].recipe.name;
        let Some(provenance) =
            self.provenance.as_ref().filter(|_| self.plan.recipe.cache.stages.contains(name))
        else {
            return Ok(None);
        };
        let kept = starts::wanted(&self.uses, index + 1, name);
        self.cache.slot(&provenance.result(index + 1, &kept), &self.stop, reporter)
    }

    fn train(&mut self, index: usize, reporter: &mut Reporter) -> anyhow::Result<StageSummary> {
        let within = self.within.take();
        if within.is_none() {
            self.keeper.starts.enter(&mut *self.plan.session, &self.uses, index)?;
        }
        let stage = &mut self.stages[index];
        let opened = self.keeper.starts.opened().filter(|_| stage.recipe.reference == Reference::Model);
        Training {
            plan: &mut self.plan,
            stage,
            opened,
            known: &mut self.known,
            logs: &mut self.logs,
            reporter,
            keeper: &mut self.keeper,
            output: &self.output,
            cache: &self.cache,
            provenance: self.provenance.as_ref(),
            stop: &self.stop,
        }
        .run(within)
    }
}

/// What later stages may want to know, under the names it has in a checkpoint.
fn named(known: &Known) -> impl Iterator<Item = (String, &Scores)> {
    known.iter().map(|(key, scores)| (format!("{KNOWN}{key}"), scores))
}

/// What a stage's model is saved as.
fn export(plan: &Plan) -> Export {
    if plan.recipe.model.adapter.is_some() { Export::Adapter } else { Export::Model }
}

/// Writes a stage's model beside its tokenizer.
fn save(session: &mut dyn Session, folder: &Path, what: Export, tokenizer: &Tokenizer) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    session.save(folder, what)?;
    tokenizer.save(folder)?;
    Ok(())
}

/// What was scored already: by the model that a stage of this name left (or `model`), on the dataset of
/// this hash, seen like this. Stages that start from one checkpoint share their reference.
type Known = BTreeMap<String, Scores>;

/// One stage at work.
struct Training<'a> {
    plan: &'a mut Plan,
    stage: &'a mut PlannedStage,
    /// The parameters of the model as it was opened, if they are the reference.
    opened: Option<Vector>,
    known: &'a mut Known,
    logs: &'a mut Logs,
    reporter: &'a mut Reporter,
    keeper: &'a mut Keeper,
    output: &'a Output,
    cache: &'a Cache,
    provenance: Option<&'a Provenance>,
    stop: &'a Stop,
}

impl Training<'_> {
    fn run(mut self, within: Option<Within>) -> anyhow::Result<StageSummary> {
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
        let Steps { tokens, metrics, before, mut seconds, elapsed, reference_rows, skipped, .. } = steps;
        seconds.sort_by(f64::total_cmp);
        Ok(StageSummary {
            name: self.stage.recipe.name.clone(),
            from: self.stage.from.clone(),
            bilevel: self.stage.bilevel.name.clone(),
            steps: self.stage.steps,
            seconds: elapsed,
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

    /// Trains, from where the stage stands to its end.
    fn steps(
        &mut self,
        mut references: References,
        evaluator: &mut Evaluator,
        mut evolution: Option<Evolution>,
        steps: &mut Steps,
    ) -> anyhow::Result<()> {
        let seed = self.plan.recipe.run.seed;
        let recipe = self.stage.recipe.clone();
        let (train, lower, total) =
            (self.stage.train.clone(), self.stage.lower_data.clone(), self.stage.steps);
        let rate = LearningRate::new(&recipe.optimizer, total);
        let mut order = self.order();
        let mut lower_order =
            Order::new(seed.wrapping_add(1), lower.as_ref().unwrap_or(&train).examples.len(), true);
        order.skip(steps.done * recipe.batch_size);
        lower_order.skip(steps.lower_draws * recipe.batch_size);
        let tasks = self.stage.tasks.clone();
        steps.task_draws.resize(tasks.len(), 0);
        let mut task_orders = Vec::new();
        for (i, (task, draws)) in tasks.iter().zip(&steps.task_draws).enumerate() {
            let mut order = Order::new(seed.wrapping_add(2 + i as u64), task.examples.len(), true);
            order.skip(draws * recipe.batch_size);
            task_orders.push(order);
        }
        let (stage_began, before) = (Instant::now(), steps.elapsed);
        for step in steps.done..total {
            if let (Some(evolution), Some(log)) = (&mut evolution, &mut self.logs.diagnostics) {
                let note = |text: &str| self.reporter.note(text);
                evolution.before_step(&mut *self.plan.session, log, step, &note)?;
            }
            let lr = rate.at(step) * evolution.as_ref().map_or(1.0, Evolution::lr_factor);
            let began = Instant::now();
            let mut draw = || {
                steps.lower_draws += 1;
                lower_order.take(recipe.batch_size)
            };
            let rows = order.take(recipe.batch_size);
            let batch = Batch::new(&train, &rows, self.stage.view, recipe.micro_batch);
            let step_tokens: usize = batch.parts.iter().map(Part::unshared_tokens).sum();
            if let (Some(moving), Some(scores)) = (&references.moving, &mut references.train) {
                moving.score(&mut *self.plan.session, &batch, scores)?;
            }
            let data = Scored { rows: &train, reference: references.train.as_ref() };
            let lower_data = match &lower {
                Some(own) => Scored { rows: own, reference: references.lower.as_ref() },
                None => data,
            };
            let memory = Memory::of(self.stage);
            self.stage.objective.begin(step);
            let motion = motion(&recipe, lr, Progress { step, total });
            let bilevel = &mut self.stage.bilevel;
            let source = bilevel.lower.is_some().then_some(LowerSource {
                data: lower_data,
                own: lower.is_some(),
                draw: &mut draw,
            });
            let drawing = task_orders.iter_mut().zip(&mut steps.task_draws);
            let lower_tasks = bilevel.tasks.iter_mut().zip(&tasks).zip(drawing).enumerate();
            let lower_tasks = lower_tasks.map(|(i, (((objective, _), rows), (order, draws)))| LowerTask {
                objective: &mut **objective,
                data: Scored { rows, reference: references.tasks.get(i) },
                draw: Box::new(|| {
                    *draws += 1;
                    order.take(recipe.batch_size)
                }),
            });
            let lower_tasks = lower_tasks.collect();
            let levels = Levels {
                upper: &mut *self.stage.objective,
                lower: bilevel.lower.as_mut().map(|l| &mut **l as &mut dyn Objective),
            };
            let mut problem =
                StepProblem::new(&mut *self.plan.session, levels, data, batch, source, lower_tasks, motion)?;
            let outcome = bilevel.step.step(&mut problem);
            let (seen, grad_norm) = (problem.observation.take(), problem.grad_norm);
            let (lower_rows, task_rows) = (problem.lower_rows(), problem.task_rows());
            drop(problem);
            let (mut metrics, losses) = match outcome {
                Ok(report) => {
                    let mut metrics = seen.as_ref().map(Observation::metrics).unwrap_or_default();
                    metrics.extend(report.metrics);
                    (metrics, report.losses)
                }
                Err(Error::NonFinite(error)) => {
                    let incident = Incident {
                        stage: recipe.name.clone(),
                        step: step + 1,
                        error,
                        rows,
                        data: train.hash(),
                        lower_rows,
                        lower_own: lower.is_some(),
                        task_rows,
                    };
                    self.leave_out(incident, memory, &references, steps)?;
                    (Metrics::new(), Losses { upper: f64::NAN, lower: f64::NAN })
                }
                Err(error) => return Err(error).with_context(|| format!("step {} of {total}", step + 1)),
            };
            if !metrics.is_empty() {
                steps.skipped_in_a_row = 0;
            }
            steps.tokens += step_tokens;
            let epoch = ((step + 1) * recipe.batch_size) as f64 / train.examples.len() as f64;
            for (name, value) in [
                ("grad_norm", grad_norm.filter(|_| !metrics.is_empty())),
                ("loss/upper", self.stage.bilevel.lower.is_some().then_some(losses.upper)),
                ("loss/lower", Some(losses.lower)),
                ("skipped", (steps.skipped > 0).then_some(steps.skipped as f64)),
                ("learning_rate", Some(motion.optimizer.lr)),
                ("num_tokens", Some(steps.tokens as f64)),
                ("epoch", Some(epoch)),
            ] {
                // A level that was not computed has no loss.
                if let Some(value) = value.filter(|v| v.is_finite()) {
                    metrics.insert(name.into(), value);
                }
            }
            if let Some(moving) = &mut references.moving {
                moving.follow(&mut *self.plan.session, step + 1)?;
            }
            self.logs.metrics(&recipe.name, step + 1, &metrics)?;
            let took = began.elapsed().as_secs_f64();
            self.reporter.step(step + 1, &metrics, step_tokens as f64 / took);
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
                self.known.insert(self.key(&train, self.stage.view), scores);
            }
            (None, None) => {}
        }
        Ok(())
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
            let right = line.answer(
                session,
                data,
                &self.plan.tokenizer,
                self.stage.exact_match,
                self.plan.recipe.evaluation.samples,
            )?;
            metrics.extend(right.map(|share| ("eval_exact_match".to_owned(), share)));
            self.logs.held_out.write(&line)?;
            if let Some(judge) = self.stage.judge {
                metrics.extend(judged(session, data, &self.plan.tokenizer, judge)?);
            }
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

/// Rows in the order in which training sees them: epoch after epoch, each in an order of its own.
struct Order {
    seed: u64,
    rows: usize,
    shuffle: bool,
    epoch: u64,
    waiting: std::vec::IntoIter<usize>,
}

impl Order {
    fn new(seed: u64, rows: usize, shuffle: bool) -> Self {
        Order { seed, rows, shuffle, epoch: 0, waiting: Vec::new().into_iter() }
    }

    /// Goes to where so many rows have been taken.
    fn skip(&mut self, count: usize) {
        self.epoch = (count / self.rows) as u64;
        self.waiting = Vec::new().into_iter();
        self.take(count % self.rows);
    }

    fn take(&mut self, count: usize) -> Vec<usize> {
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count {
            match self.waiting.next() {
                Some(row) => taken.push(row),
                None => {
                    let order = match self.shuffle {
                        true => epoch_order(self.rows, self.seed, self.epoch),
                        false => (0..self.rows).collect(),
                    };
                    self.waiting = order.into_iter();
                    self.epoch += 1;
                }
            }
        }
        taken
    }
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
