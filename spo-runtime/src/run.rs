//! A whole run: the stages in order, each from where it starts to where it is saved.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use spo_api::{AdamW, Export, Metrics, Objective, Progress, Registry, Session, Statistics, Vector};
use spo_data::{Dataset, MicroBatch, Tokenizer, epoch_order};

use crate::document::Document;
use crate::evaluate::{exact_match, held_out};
use crate::output::{MetricsLog, Output};
use crate::plan::{Plan, PlannedStage};
use crate::problem::{Levels, LowerSource, Motion, Scored, StepProblem, score};
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
    let mut summary = Summary::default();
    let mut starts = Starts::new(&mut *plan.session, &plan.stages)?;
    for mut stage in std::mem::take(&mut plan.stages) {
        starts.enter(&mut *plan.session, &stage)?;
        let name = stage.recipe.name.clone();
        let folder = output.stage(&name);
        let done = Training { plan: &mut plan, stage: &mut stage, log: &mut log, reporter: &mut reporter }
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
        let left = self.wanted.get_mut(&stage.from).expect("counted at the start");
        *left -= 1;
        if *left == 0
            && let Some(copy) = self.kept.remove(&stage.from)
        {
            session.vectors().release(copy);
        }
        session.reset_optimizer();
        Ok(())
    }

    /// Takes note of what a stage made of the parameters.
    fn leave(&mut self, session: &mut dyn Session, stage: &PlannedStage) -> spo_api::Result<()> {
        self.current = stage.recipe.name.clone();
        self.keep(session, &stage.recipe.name, stage.next_from.as_deref())
    }
}

/// One stage at work.
struct Training<'a> {
    plan: &'a mut Plan,
    stage: &'a mut PlannedStage,
    log: &'a mut MetricsLog,
    reporter: &'a mut Reporter,
}

impl Training<'_> {
    fn run(self) -> anyhow::Result<StageSummary> {
        let Training { plan, stage, log, reporter } = self;
        let session = &mut *plan.session;
        let recipe = &stage.recipe;
        let train = stage.train.clone();
        let lower = stage.lower_data.clone();
        let step_needs = stage.bilevel.step.needs();
        let eval_rows = plan.recipe.evaluation.batch_size;

        // The reference is the model as the stage finds it, so its log-probs are known before training.
        let needs_reference = stage.objective.requirements().reference;
        let keeps = needs_reference || (step_needs.reference_lower && lower.is_none());
        let reference = keeps.then(|| scores(session, &train, stage.view, eval_rows));
        let reference = reference.transpose()?;
        let lower_reference = match &lower {
            Some(data) if step_needs.reference_lower => {
                Some(scores(session, data, View::DEMONSTRATIONS, eval_rows)?)
            }
            _ => None,
        };
        let data = Scored { rows: &train, reference: reference.as_ref() };

        let mut evaluator = Evaluator::new(stage, eval_rows, plan.tokenizer.stop_tokens());
        let before = evaluator.evaluate(session, &mut *stage.objective, true)?;
        if let Some(metrics) = &before {
            log.write(&recipe.name, 0, metrics)?;
        }

        reporter.begin(&recipe.name, stage.steps);
        if let Some(metrics) = &before {
            reporter.evaluation(0, metrics);
        }
        let rate = LearningRate::new(&recipe.optimizer, stage.steps);
        let mut order = Order::new(plan.recipe.run.seed, train.examples.len(), recipe.shuffle);
        let demonstrations = lower.as_ref().unwrap_or(&train);
        let mut lower_order =
            Order::new(plan.recipe.run.seed.wrapping_add(1), demonstrations.examples.len(), true);
        let [beta1, beta2] = recipe.optimizer.betas;
        let mut tokens = 0;
        let began = Instant::now();
        let mut last = Metrics::new();
        for step in 0..stage.steps {
            let step_began = Instant::now();
            let rows = order.take(recipe.batch_size);
            let batch = Batch::new(&train, &rows, stage.view, recipe.micro_batch);
            let step_tokens: usize = batch.parts.iter().map(Part::unshared_tokens).sum();
            tokens += step_tokens;
            let lr = rate.at(step);
            let motion = Motion {
                micro_batch: recipe.micro_batch,
                optimizer: AdamW {
                    lr,
                    beta1,
                    beta2,
                    epsilon: recipe.optimizer.epsilon,
                    weight_decay: recipe.optimizer.weight_decay,
                    exempt_bias_and_norm: !recipe.optimizer.decay_bias_and_norm,
                    gradient_scale: 1.0,
                },
                max_grad_norm: recipe.optimizer.max_grad_norm,
                progress: Progress { step, total: stage.steps },
            };
            let mut draw = || lower_order.take(recipe.batch_size);
            let source = stage.bilevel.lower.is_some().then(|| LowerSource {
                data: match &lower {
                    Some(own) => Scored { rows: own, reference: lower_reference.as_ref() },
                    None => data,
                },
                own: lower.is_some(),
                draw: &mut draw,
            });
            let levels = Levels {
                upper: &mut *stage.objective,
                lower: stage.bilevel.lower.as_mut().map(|l| &mut **l as &mut dyn Objective),
            };
            let mut problem = StepProblem::new(session, levels, data, batch, source, motion)?;
            let report = stage
                .bilevel
                .step
                .step(&mut problem)
                .with_context(|| format!("step {} of {}", step + 1, stage.steps))?;

            let mut metrics = problem.observation.as_ref().map(|o| o.metrics()).unwrap_or_default();
            metrics.extend(report.metrics);
            for (name, value) in [
                ("grad_norm", problem.grad_norm),
                ("loss/upper", stage.bilevel.lower.is_some().then_some(report.losses.upper)),
                ("loss/lower", Some(report.losses.lower)),
                ("learning_rate", Some(lr)),
                ("num_tokens", Some(tokens as f64)),
                ("epoch", Some(((step + 1) * recipe.batch_size) as f64 / train.examples.len() as f64)),
            ] {
                if let Some(value) = value.filter(|v| v.is_finite()) {
                    metrics.insert(name.into(), value);
                }
            }
            log.write(&recipe.name, step + 1, &metrics)?;
            reporter.step(step + 1, &metrics, step_tokens as f64 / step_began.elapsed().as_secs_f64());
            last = metrics;

            let every = plan.recipe.evaluation.every;
            if every > 0 && (step + 1) % every == 0 && step + 1 < stage.steps {
                if let Some(metrics) = evaluator.evaluate(session, &mut *stage.objective, false)? {
                    log.write(&recipe.name, step + 1, &metrics)?;
                    reporter.evaluation(step + 1, &metrics);
                }
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        let after = evaluator.evaluate(session, &mut *stage.objective, true)?;
        if let Some(metrics) = &after {
            log.write(&recipe.name, stage.steps, metrics)?;
            reporter.evaluation(stage.steps, metrics);
        }
        reporter.end();
        Ok(StageSummary {
            name: recipe.name.clone(),
            from: stage.from.clone(),
            bilevel: stage.bilevel.name.clone(),
            steps: stage.steps,
            seconds,
            tokens,
            train: last,
            before,
            after,
        })
    }
}

/// Scores a whole dataset under the current parameters.
fn scores(session: &mut dyn Session, data: &Dataset, view: View, rows: usize) -> spo_api::Result<Scores> {
    let batch = Batch::whole(data, view, MicroBatch::Rows(rows));
    let scored = score(session, &batch.parts, Statistics::default())?;
    Ok(Scores::new(data, &batch, &scored))
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

/// Held-out figures of a stage, against those it began with.
struct Evaluator {
    eval: Option<Arc<Dataset>>,
    batch: Option<Batch>,
    exact_match: bool,
    stop: Vec<u32>,
    start: Option<Scores>,
}

impl Evaluator {
    fn new(stage: &PlannedStage, rows: usize, stop: &[u32]) -> Self {
        let batch = stage.eval.as_ref().map(|eval| {
            let view = View { layout: eval.layout, mismatched: stage.view.mismatched };
            Batch::whole(eval, view, MicroBatch::Rows(rows))
        });
        let exact_match = stage.exact_match;
        Evaluator { eval: stage.eval.clone(), batch, exact_match, stop: stop.to_vec(), start: None }
    }

    /// `None` when the recipe has no held-out rows. `answer`: whether prompts are answered too.
    fn evaluate(
        &mut self,
        session: &mut dyn Session,
        objective: &mut dyn Objective,
        answer: bool,
    ) -> spo_api::Result<Option<Metrics>> {
        let (Some(eval), Some(batch)) = (&self.eval, &self.batch) else { return Ok(None) };
        let mut seen = held_out(session, objective, batch, eval, self.start.as_ref())?;
        if self.exact_match && answer {
            seen.metrics.insert("eval_exact_match".into(), exact_match(session, eval, &self.stop)?);
        }
        self.start.get_or_insert(seen.scores);
        Ok(Some(seen.metrics))
    }
}
