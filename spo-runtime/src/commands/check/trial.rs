//! How long a recipe will take, from a few steps of it.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};
use spo_api::{Registry, Statistics, read_small};
use spo_data::MicroBatch;

use crate::plan::{Plan, machine};
use crate::recipe::Recipe;
use crate::recipe::document::Document;
use crate::reporter::{Reporter, Voice, time};
use crate::store::bundle;
use crate::train::run;
use crate::train::step::loss::score;
use crate::train::step::rows::Batch;
use crate::train::summary::Summary;

/// Steps of each stage that are measured. Their median is taken, because the first is slower.
const STEPS: usize = 3;

/// What a run will take.
pub(super) struct Time {
    stages: Vec<StageTime>,
    /// The most memory that the trial had in use, in bytes, where the system tells.
    peak: Option<u64>,
}

struct StageTime {
    name: String,
    steps: usize,
    /// Of one step.
    step: Duration,
    /// Rows that are scored in all: for the reference, and at the evaluations.
    rows: usize,
    /// Of scoring one row.
    row: Duration,
}

impl StageTime {
    fn total(&self) -> Duration {
        self.step.mul_f64(self.steps as f64) + self.row.mul_f64(self.rows as f64)
    }
}

impl Time {
    /// Scores a batch of each stage, then trains a few steps of each in a folder of its own, which is removed. The plan
    /// is let go first, so that there is one model in memory at a time.
    pub(super) fn measure(registry: &mut Registry, mut plan: Plan) -> anyhow::Result<Self> {
        let mut scored = Vec::new();
        for i in 0..plan.stages.len() {
            scored.push((rows_scored(&plan, i), row_time(&mut plan, i)?));
        }
        let planned: Vec<(String, usize)> =
            plan.stages.iter().map(|stage| (stage.recipe.name.clone(), stage.steps)).collect();
        let folder = Folder(std::env::temp_dir().join(format!("spo-check-{}", std::process::id())));
        let recipe = short(plan.recipe.clone(), &folder);
        drop(plan);
        let text = toml::to_string(&recipe).context("cannot write the recipe of the trial")?;
        let document = Document::parse("the trial's recipe", text, &[])?;
        run::run(registry, &document, Reporter::new(Voice::Quiet), false).context("the trial failed")?;
        let summary: Summary = serde_json::from_slice(&read_small(&folder.0.join("summary.json"))?)?;
        let stages = summary.stages.iter().zip(planned).zip(scored);
        let stages = stages.map(|((done, (name, steps)), (rows, row))| StageTime {
            name,
            steps,
            step: Duration::from_secs_f64(done.step_seconds),
            rows,
            row,
        });
        Ok(Time { stages: stages.collect(), peak: machine::peak_memory(std::process::id()) })
    }

    pub(super) fn json(&self) -> Value {
        let stage = |stage: &StageTime| {
            json!({
                "name": stage.name,
                "step_seconds": stage.step.as_secs_f64(),
                "steps": stage.steps,
                "rows_scored": stage.rows,
                "row_seconds": stage.row.as_secs_f64(),
                "seconds": stage.total().as_secs_f64(),
            })
        };
        json!({ "stages": self.stages.iter().map(stage).collect::<Vec<_>>(), "peak_memory": self.peak })
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total: Duration = self.stages.iter().map(StageTime::total).sum();
        writeln!(f, "\ntime: about {}, without answers to held-out prompts", time(total))?;
        for stage in &self.stages {
            let StageTime { name, steps, step, rows, row } = stage;
            let rows = match rows {
                0 => String::new(),
                rows => format!(", and {rows} rows to score in {:.3} s each", row.as_secs_f64()),
            };
            let all = time(stage.total());
            writeln!(f, "  {name}: {steps} steps of {:.2} s{rows}: {all}", step.as_secs_f64())?;
        }
        match self.peak {
            Some(peak) => writeln!(f, "  most memory in use: {:.0} MiB", peak as f64 / f64::from(1 << 20)),
            None => Ok(()),
        }
    }
}

/// The folder of the trial.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = bundle::remove(&self.0);
    }
}

/// The recipe with a few steps, and without what is only done now and then.
fn short(mut recipe: Recipe, folder: &Folder) -> Recipe {
    (recipe.run.output, recipe.run.overwrite) = (Some(folder.0.clone()), true);
    recipe.run.tensorboard = false;
    (recipe.evaluation, recipe.checkpoint) = Default::default();
    recipe.evaluation.samples = 0;
    recipe.evaluation.exact_match = Some(false);
    (recipe.diagnostics, recipe.cache.enabled) = (None, false);
    recipe.cache.stages.clear();
    (recipe.data.eval, recipe.data.split) = (None, None);
    for stage in &mut recipe.stage {
        (stage.steps, stage.epochs, stage.early_stopping, stage.save) = (Some(STEPS), None, None, false);
        if let Some(data) = &mut stage.data {
            (data.eval, data.split) = (None, None);
        }
    }
    recipe
}

/// How many rows a stage scores beside its steps: for the reference, and at the evaluations.
fn rows_scored(plan: &Plan, stage: usize) -> usize {
    let every = plan.recipe.evaluation.every;
    let stage = &plan.stages[stage];
    let drawn = (stage.steps * stage.recipe.batch_size).min(stage.train.examples.len());
    let reference = if stage.objective.requirements().reference { drawn } else { 0 };
    let between = (1..stage.steps).filter(|step| every.due(*step, stage.steps)).count();
    let eval = stage.eval.as_ref().map_or(0, |eval| eval.examples.len());
    reference + (2 + between) * eval
}

/// How long scoring one row takes.
fn row_time(plan: &mut Plan, stage: usize) -> anyhow::Result<Duration> {
    let at_once = plan.recipe.evaluation.batch_size;
    let stage = &plan.stages[stage];
    let rows: Vec<usize> = (0..stage.train.examples.len().min(at_once)).collect();
    let batch = Batch::new(&stage.train, &rows, stage.view, Some(MicroBatch::Rows(at_once)))?;
    let began = Instant::now();
    score(&mut *plan.session, &batch.passes, Statistics::default())?;
    Ok(began.elapsed().div_f64(rows.len().max(1) as f64))
}
