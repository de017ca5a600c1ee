//! A complete run: the stages in order, each from loading its starting parameters to saving its model.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use spo_api::Registry;

use crate::error::Unfinished;
use crate::plan::Plan;
use crate::plan::libraries;
use crate::plan::provenance::Provenance;
use crate::plan::stage::PlannedStage;
use crate::recipe::Reference;
use crate::recipe::document::Document;
use crate::reporter::Reporter;
use crate::stop::Stop;
use crate::store::LARGE;
use crate::store::cache::{Cache, Slot};
use crate::store::logs::Logs;
use crate::store::output::{self, Before, Output};
use crate::train::card;
use crate::train::checkpoint::{self, Checkpoints, Found, RunState};
use crate::train::keeper::{KNOWN, Keeper, Known, Within, named};
use crate::train::model_folder::{export, save};
use crate::train::stage;
use crate::train::starts::{self, Starts, Uses};
use crate::train::summary::{StageSummary, Summary};

/// Runs a recipe, from the beginning or from the last checkpoint. With `force`, also if the machine has less memory than
/// it will need.
///
/// # Errors
/// [`BadInput`](crate::error::BadInput) before training begins if the recipe, the data or the model cannot be
/// used; [`Interrupted`](crate::stop::Interrupted) on a signal; any other error if the run fails.
pub(crate) fn run(
    registry: &mut Registry,
    document: &Document,
    mut reporter: Reporter,
    force: bool,
) -> anyhow::Result<()> {
    let stop = Stop::on_signals()?;
    let plan = Plan::with_cache(registry, document, &stop, &reporter)?;
    if !force {
        plan.memory().check(document)?;
    }
    libraries::remember(document, &plan.libraries);
    let (output, before) = Output::open(&plan.output, &plan.recipe, plan.record())?;
    if before == Before::Finished {
        reporter.note(&format!("{} is finished already", output.folder().display()));
        return Ok(());
    }
    for line in plan.description() {
        reporter.note(&line);
    }
    stop.begin();
    let folder = output.folder().to_owned();
    let run = Run::new(plan, output, before, stop, &mut reporter)?;
    run.go(&mut reporter).with_context(|| {
        let resume = checkpoint::any(&folder).then_some("goes on from the last checkpoint");
        Unfinished { folder, resume }
    })
}

/// State of the whole run.
struct Run {
    plan: Plan,
    stages: Vec<PlannedStage>,
    uses: Vec<Uses>,
    output: Output,
    logs: Logs,
    keeper: Keeper,
    known: Known,
    cache: Cache,
    /// `None` without a cache.
    provenance: Option<Provenance>,
    /// The state of the stage that was interrupted, if any.
    within: Option<Within>,
    stop: Stop,
}

/// File in a cache entry that holds the lines a stage logged.
const LINES: &str = "lines.json";

impl Run {
    /// Starts before the first stage, or from the newest checkpoint.
    fn new(
        mut plan: Plan,
        output: Output,
        before: Before,
        stop: Stop,
        reporter: &mut Reporter,
    ) -> anyhow::Result<Self> {
        let stages = std::mem::take(&mut plan.stages);
        let uses = Uses::of(&plan.recipe);
        let fingerprint = output.fingerprint();
        let checkpoints = Checkpoints::new(output.folder(), plan.recipe.checkpoint.clone());
        let cache = Cache::new(&plan.recipe.cache, output.folder());
        let provenance = plan.recipe.cache.enabled.then(|| Provenance::new(&plan, &stages)).transpose()?;
        let found = match before {
            Before::Unfinished => {
                if let Some(drift) = output.drift() {
                    reporter.note(&format!("the last digits may differ from now on: {drift}"));
                }
                checkpoints.newest(&fingerprint, &mut |folder, error| {
                    reporter.note(&format!("warning: {} is passed over: {error:#}", folder.display()));
                })
            }
            _ => None,
        };
        let lengths = found.as_ref().map(|found| found.state.logs.clone()).unwrap_or_default();
        let logs = Logs::open(output.folder(), &lengths, &plan.recipe)?;
        let starts = match &found {
            Some(_) => Starts::default(),
            None => Starts::new(&mut *plan.session, &uses)?,
        };
        let keeper = Keeper { checkpoints, run: fingerprint, finished: Vec::new(), starts };
        let (known, within) = (Known::new(), None);
        let mut run =
            Run { plan, stages, uses, output, logs, keeper, known, cache, provenance, within, stop };
        match found {
            Some(found) => {
                run.restore(found)?;
                let done = run.within.as_ref().map_or(0, |within| within.state.progress.done);
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

    /// Restores the state of a checkpoint.
    fn restore(&mut self, found: Found) -> anyhow::Result<()> {
        found.restore(&mut *self.plan.session, &self.stages)?;
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
        summary.early().chain(summary.verdicts()).for_each(|line| reporter.note(&line));
        reporter.note(&output::closing(self.output.folder()));
        match summary.broken() {
            Some(stage) => bail!("the budget of stage `{}` was not kept, and is strict", stage.name),
            None => Ok(()),
        }
    }

    fn stage(&mut self, index: usize, reporter: &mut Reporter) -> anyhow::Result<()> {
        let name = self.stages[index].recipe.name.clone();
        let slot = self.slot(index, reporter)?;
        // A stage that was interrupted in this run is finished in this run, not taken from the cache.
        let cached = slot.as_ref().filter(|_| self.within.is_none());
        let cached = cached.and_then(|slot| {
            slot.read(reporter, |folder| {
                let lines = serde_json::from_slice(&spo_api::read_whole(&folder.join(LINES), LARGE)?)?;
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
            let done = self.keeper.finished.last().expect("the stage is finished");
            let after = done.after.as_ref().map(|after| ("held out, after the stage", after));
            let figures: Vec<_> = after.into_iter().chain([("last training step", &done.train)]).collect();
            let card =
                card::of_stage(&self.plan, self.output.planned(), &self.stages[index].recipe, &figures)?;
            let carded = save(&mut *self.plan.session, &folder, what, &self.plan.tokenizer, &card)?;
            reporter.note(&format!("saved {}", folder.display()));
            if !carded {
                reporter.note(&format!("README.md there is not of spo: it is kept, and {name} has no card"));
            }
        }
        if index + 1 < self.stages.len() {
            self.keeper.save(&mut *self.plan.session, &mut self.logs, &self.known, None)?;
            self.stop.check().context("after its last step")?;
        }
        Ok(())
    }

    /// The cache slot of a stage's result, if the recipe enables the cache.
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
        let training = stage::Training {
            plan: &mut self.plan,
            stage,
            opened,
            other: None,
            known: &mut self.known,
            logs: &mut self.logs,
            reporter,
            keeper: &mut self.keeper,
            output: &self.output,
            cache: &self.cache,
            provenance: self.provenance.as_ref(),
            stop: &self.stop,
        };
        stage::run(training, within)
    }
}
