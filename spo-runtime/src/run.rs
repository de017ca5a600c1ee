//! A whole run: the stages in order, each from where it starts to where it is saved.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use spo_api::{AdamW, Export, Metrics, Objective, Progress, Registry, Session, Vector};
use spo_data::{Dataset, MicroBatch, Tokenizer, epoch_order};

use crate::diagnostics::{Evolution, StageFacts};
use crate::document::Document;
use crate::evaluate::{HeldOut, HeldOutLine, held_out};
use crate::lines::JsonLines;
use crate::observation::Observation;
use crate::output::{MetricsLog, Output};
use crate::plan::{Plan, PlannedStage};
use crate::problem::{Levels, LowerSource, Motion, Scored, StepProblem};
use crate::recipe::{Optimizer, Reference, Stage};
use crate::reference::{MovingReference, fill};
use crate::reporter::Reporter;
use crate::rows::{Batch, Part, Scores, View};
use crate::schedule::LearningRate;
use crate::summary::{StageSummary, Summary};

/// Runs a recipe from beginning to end.
///
/// # Errors
/// [`BadInput`](crate::error::BadInput) before training begins when the recipe, the data or the model
/// cannot be used; anything else when the run fails.
pub fn run(registry: &Registry, document: &Document, mut reporter: Reporter) -> anyhow::Result<()> {
    let mut plan = Plan::new(registry, document)?;
    let output = Output::create(&plan)?;
    for line in plan.description() {
        reporter.note(&line);
    }
    let mut log = output.metrics()?;
    let mut held_out = output.held_out()?;
    let mut diagnostics = plan.recipe.diagnostics.as_ref().map(|_| output.diagnostics()).transpose()?;
    let mut summary = Summary::default();
    let mut starts = Starts::new(&mut *plan.session, &plan.stages)?;
    let mut known = Known::new();
    for mut stage in std::mem::take(&mut plan.stages) {
        starts.enter(&mut *plan.session, &stage)?;
        let name = stage.recipe.name.clone();
        let folder = output.stage(&name);
        let opened = (stage.recipe.reference == Reference::Model).then(|| starts.kept["model"]);
        let logs = Logs { metrics: &mut log, held_out: &mut held_out, diagnostics: diagnostics.as_mut() };
        let (known, reporter) = (&mut known, &mut reporter);
        let done = Training { plan: &mut plan, stage: &mut stage, opened, known, logs, reporter }
            .run()
            .with_context(|| format!("stage `{name}`"))?;
        starts.leave(&mut *plan.session, &stage)?;
        if stage.recipe.save {
            let what = if plan.recipe.model.adapter.is_some() { Export::Adapter } else { Export::Model };
            save(&mut *plan.session, &folder, what, &plan.tokenizer)?;
            reporter.note(&format!("saved {}", folder.display()));
        }
        summary.stages.push(done);
    }
    output.finish(&summary)?;
    reporter.note(&summary.to_string());
    Ok(())
}

/// Writes a stage's model beside its tokenizer.
fn save(session: &mut dyn Session, folder: &Path, what: Export, tokenizer: &Tokenizer) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    session.save(folder, what)?;
    tokenizer.save(folder)?;
    Ok(())
}

/// Parameters that later stages start from.
struct Starts {
    kept: BTreeMap<String, Vector>,
    /// For every name: how many stages still start from it.
    wanted: BTreeMap<String, usize>,
    current: String,
}

impl Starts {
    fn new(session: &mut dyn Session, stages: &[PlannedStage]) -> spo_api::Result<Self> {
        let mut wanted = BTreeMap::new();
        for stage in stages {
            *wanted.entry(stage.from.clone()).or_insert(0) += 1;
            if stage.recipe.reference == Reference::Model {
                *wanted.entry("model".into()).or_insert(0) += 1;
            }
        }
        let mut starts = Starts { kept: BTreeMap::new(), wanted, current: "model".into() };
        let next = stages.first().map(|s| s.from.as_str());
        starts.keep(session, "model", next)?;
        Ok(starts)
    }

    /// Keeps the current parameters under a name, if stages beyond the next one want them.
    fn keep(
        &mut self,
        session: &mut dyn Session,
        name: &str,
        next_from: Option<&str>,
    ) -> spo_api::Result<()> {
        let wanted = self.wanted.get(name).copied().unwrap_or(0);
        if wanted > usize::from(next_from == Some(name)) {
            let copy = session.vectors().allocate()?;
            session.vectors().copy(Vector::PARAMETERS, copy)?;
            self.kept.insert(name.to_owned(), copy);
        }
        Ok(())
    }

    /// Brings the parameters to where a stage starts.
    fn enter(&mut self, session: &mut dyn Session, stage: &PlannedStage) -> spo_api::Result<()> {
        if stage.from != self.current {
            session.vectors().copy(self.kept[&stage.from], Vector::PARAMETERS)?;
        }
        self.done_with(session, &stage.from);
        session.reset_optimizer();
        Ok(())
    }

    fn done_with(&mut self, session: &mut dyn Session, name: &str) {
        let left = self.wanted.get_mut(name).expect("counted at the start");
        *left -= 1;
        if *left == 0
            && let Some(copy) = self.kept.remove(name)
        {
            session.vectors().release(copy);
        }
    }

    /// Takes note of what a stage made of the parameters.
    fn leave(&mut self, session: &mut dyn Session, stage: &PlannedStage) -> spo_api::Result<()> {
        if stage.recipe.reference == Reference::Model {
            self.done_with(session, "model");
        }
        self.current = stage.recipe.name.clone();
        self.keep(session, &stage.recipe.name, stage.next_from.as_deref())
    }
}

/// What was scored already: by the model that a stage of this name left (or `model`), on the dataset at
/// this address, seen like this. Stages that start from one checkpoint share their reference.
type Known = HashMap<(String, *const Dataset, View), Scores>;

/// One stage at work.
struct Training<'a> {
    plan: &'a mut Plan,
    stage: &'a mut PlannedStage,
    /// The parameters of the model as it was opened, if they are the reference.
    opened: Option<Vector>,
    known: &'a mut Known,
    logs: Logs<'a>,
    reporter: &'a mut Reporter,
}

/// The files that grow while a stage is at work.
struct Logs<'a> {
    metrics: &'a mut MetricsLog,
    held_out: &'a mut JsonLines,
    diagnostics: Option<&'a mut JsonLines>,
}

impl<'a> Training<'a> {
    fn run(mut self) -> anyhow::Result<StageSummary> {
        self.reporter.begin(&self.stage.recipe.name, self.stage.steps);
        let references = self.references()?;
        let mut evaluator = self.evaluator()?;
        let before = self.evaluate(&mut evaluator, 0, true)?;
        let began = Instant::now();
        let Steps { tokens, metrics, mut seconds } = self.steps(references, &mut evaluator)?;
        let whole = began.elapsed().as_secs_f64();
        seconds.sort_by(f64::total_cmp);
        let after = self.evaluate(&mut evaluator, self.stage.steps, true)?;
        self.reporter.end();
        Ok(StageSummary {
            name: self.stage.recipe.name.clone(),
            from: self.stage.from.clone(),
            bilevel: self.stage.bilevel.name.clone(),
            steps: self.stage.steps,
            seconds: whole,
            step_seconds: seconds[seconds.len() / 2],
            tokens,
            train: metrics,
            before,
            after,
        })
    }

    /// The reference is scored before training: by the model as the stage finds it, or as it was opened.
    fn references(&mut self) -> anyhow::Result<References> {
        let (recipe, lower_data) = (self.stage.recipe.clone(), self.stage.lower_data.clone());
        let of_lower = self.stage.bilevel.step.needs().reference_lower;
        let of_train = self.stage.objective.requirements().reference || (of_lower && lower_data.is_none());
        let train = match of_train {
            true => {
                let data = self.stage.train.clone();
                // A short stage does not see all rows.
                let mut order = Order::new(self.plan.recipe.run.seed, data.examples.len(), recipe.shuffle);
                let rows = order.take((self.stage.steps * recipe.batch_size).min(data.examples.len()));
                Some(self.scores(&data, self.stage.view, rows)?)
            }
            false => None,
        };
        let lower = match &lower_data {
            Some(data) if of_lower => {
                Some(self.scores(data, View::DEMONSTRATIONS, (0..data.examples.len()).collect())?)
            }
            _ => None,
        };
        let moving = match recipe.reference {
            Reference::Moving(how) if of_train => Some(MovingReference::new(&mut *self.plan.session, how)?),
            _ => None,
        };
        Ok(References { train, lower, moving })
    }

    /// The reference's scores of these rows at least.
    fn scores(&mut self, data: &Arc<Dataset>, view: View, rows: Vec<usize>) -> anyhow::Result<Scores> {
        let key = self.key(data, view);
        let mut scores = self.known.remove(&key).unwrap_or_else(|| Scores::empty(data));
        let at_once = self.plan.recipe.evaluation.batch_size;
        let reporter = &mut *self.reporter;
        let mut progress = |done, total| reporter.scoring("the reference", done, total);
        let session = &mut *self.plan.session;
        fill(&mut scores, session, data, view, rows, at_once, self.opened, &mut progress)?;
        Ok(scores)
    }

    fn key(&self, data: &Arc<Dataset>, view: View) -> (String, *const Dataset, View) {
        let by = if self.opened.is_some() { "model" } else { &self.stage.from };
        (by.to_owned(), Arc::as_ptr(data), view)
    }

    fn evaluator(&mut self) -> anyhow::Result<Evaluator> {
        let rows = self.plan.recipe.evaluation.batch_size;
        let mut held_out = None;
        if let Some(data) = self.stage.eval.clone() {
            let view = View { layout: data.layout, mismatched: self.stage.view.mismatched };
            let all = (0..data.examples.len()).collect();
            let reference = self.opened.is_some().then(|| self.scores(&data, view, all)).transpose()?;
            let batch = Batch::whole(&data, view, MicroBatch::Rows(rows));
            held_out = Some(HeldOutRows { data, batch, reference });
        }
        Ok(Evaluator { held_out, start: None })
    }

    /// What follows where probability goes, if the recipe asks for it.
    fn evolution(&mut self) -> anyhow::Result<Option<Evolution<'a>>> {
        let (Some(recipe), Some(log)) = (&self.plan.recipe.diagnostics, self.logs.diagnostics.take()) else {
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

    /// Trains.
    fn steps(&mut self, mut references: References, evaluator: &mut Evaluator) -> anyhow::Result<Steps> {
        let seed = self.plan.recipe.run.seed;
        let recipe = self.stage.recipe.clone();
        let (train, lower, total) =
            (self.stage.train.clone(), self.stage.lower_data.clone(), self.stage.steps);
        let rate = LearningRate::new(&recipe.optimizer, total);
        let mut order = Order::new(seed, train.examples.len(), recipe.shuffle);
        let mut lower_order =
            Order::new(seed.wrapping_add(1), lower.as_ref().unwrap_or(&train).examples.len(), true);
        let mut draw = || lower_order.take(recipe.batch_size);
        let (mut tokens, mut metrics, mut seconds) = (0, Metrics::new(), Vec::with_capacity(total));
        let mut evolution = self.evolution()?;
        for step in 0..total {
            if let Some(evolution) = &mut evolution {
                evolution.before_step(&mut *self.plan.session, step, &|text| self.reporter.note(text))?;
            }
            let lr = rate.at(step) * evolution.as_ref().map_or(1.0, Evolution::lr_factor);
            let began = Instant::now();
            let rows = order.take(recipe.batch_size);
            let batch = Batch::new(&train, &rows, self.stage.view, recipe.micro_batch);
            let step_tokens: usize = batch.parts.iter().map(Part::unshared_tokens).sum();
            tokens += step_tokens;
            if let (Some(moving), Some(scores)) = (&references.moving, &mut references.train) {
                moving.score(&mut *self.plan.session, &batch, scores)?;
            }
            let data = Scored { rows: &train, reference: references.train.as_ref() };
            let lower_data = match &lower {
                Some(own) => Scored { rows: own, reference: references.lower.as_ref() },
                None => data,
            };
            self.stage.objective.begin(step);
            let motion = motion(&recipe, lr, Progress { step, total });
            let bilevel = &mut self.stage.bilevel;
            let source = bilevel.lower.is_some().then_some(LowerSource {
                data: lower_data,
                own: lower.is_some(),
                draw: &mut draw,
            });
            let levels = Levels {
                upper: &mut *self.stage.objective,
                lower: bilevel.lower.as_mut().map(|l| &mut **l as &mut dyn Objective),
            };
            let mut problem = StepProblem::new(&mut *self.plan.session, levels, data, batch, source, motion)?;
            let report =
                bilevel.step.step(&mut problem).with_context(|| format!("step {} of {total}", step + 1))?;

            metrics = problem.observation.as_ref().map(Observation::metrics).unwrap_or_default();
            metrics.extend(report.metrics);
            let epoch = ((step + 1) * recipe.batch_size) as f64 / train.examples.len() as f64;
            for (name, value) in [
                ("grad_norm", problem.grad_norm),
                ("loss/upper", bilevel.lower.is_some().then_some(report.losses.upper)),
                ("loss/lower", Some(report.losses.lower)),
                ("learning_rate", Some(motion.optimizer.lr)),
                ("num_tokens", Some(tokens as f64)),
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
            self.logs.metrics.write(&recipe.name, step + 1, &metrics)?;
            let took = began.elapsed().as_secs_f64();
            self.reporter.step(step + 1, &metrics, step_tokens as f64 / took);
            seconds.push(took);
            if let Some(evolution) = &mut evolution {
                evolution.after_step(&mut *self.plan.session, step + 1, &metrics)?;
            }
            let every = self.plan.recipe.evaluation.every;
            if every > 0 && (step + 1) % every == 0 && step + 1 < total {
                self.evaluate(evaluator, step + 1, false)?;
            }
        }
        if let Some(evolution) = evolution {
            evolution.finish(&mut *self.plan.session, &|text| self.reporter.note(text))?;
        }
        match (references.moving, references.train) {
            (Some(moving), _) => moving.release(&mut *self.plan.session),
            (None, Some(scores)) => {
                self.known.insert(self.key(&train, self.stage.view), scores);
            }
            (None, None) => {}
        }
        Ok(Steps { tokens, metrics, seconds })
    }

    /// Held-out figures, logged and shown; `answer`: whether prompts are answered too, and every row kept.
    fn evaluate(
        &mut self,
        evaluator: &mut Evaluator,
        step: usize,
        answer: bool,
    ) -> anyhow::Result<Option<Metrics>> {
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
        }
        evaluator.start.get_or_insert(scores);
        self.logs.metrics.write(name, step, &metrics)?;
        self.reporter.evaluation(step, &metrics);
        Ok(Some(metrics))
    }
}

/// What the steps of a stage came to.
struct Steps {
    /// Tokens trained on.
    tokens: usize,
    /// Metrics of the last step.
    metrics: Metrics,
    /// Seconds of each step.
    seconds: Vec<f64>,
}

/// What the reference says of a stage's rows.
struct References {
    train: Option<Scores>,
    lower: Option<Scores>,
    moving: Option<MovingReference>,
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
