//! Checkpoints: everything a run needs to resume as if it had never been interrupted.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use spo_api::{Session, read_whole};

use crate::plan::stage::PlannedStage;
use crate::recipe::CheckpointSection;
use crate::store::LARGE;
use crate::store::bundle;
use crate::store::logs::{Lengths, Logs};
use crate::store::output::CHECKPOINTS;
use crate::store::scores::{self, Scores};
use crate::train::budget::BudgetState;
use crate::train::diagnostics::Evolution;
use crate::train::optimization::Optimization;
use crate::train::progress::{Clock, StageProgress};
use crate::train::reference::MovingState;
use crate::train::starts::Starts;
use crate::train::summary::StageSummary;

/// Borrowed scores, by name.
pub(crate) type NamedScores<'a> = BTreeMap<String, &'a Scores>;

const STATE: &str = "state.json";
const SESSION: &str = "session.safetensors";
const SCORES: &str = "scores.safetensors";

/// The files of a checkpoint.
const FILES: [&str; 3] = [STATE, SESSION, SCORES];

/// The state of a run, except parameters and log-probs.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct RunState {
    /// The hash of everything that the run depends on ([`Output::fingerprint`](crate::store::output::Output::fingerprint)).
    pub(crate) run: String,
    /// Lengths of the log files.
    pub(crate) logs: Lengths,
    /// The completed stages.
    pub(crate) finished: Vec<StageSummary>,
    /// Parameters kept for later stages.
    pub(crate) starts: Starts,
    /// The current stage; `None` between stages.
    pub(crate) stage: Option<StageState>,
}

/// The state of a stage.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct StageState {
    pub(crate) progress: StageProgress,
    /// Time spent so far.
    pub(crate) clock: Clock,
    /// The optimizer's state outside the session.
    pub(crate) optimization: Optimization,
    /// State of the objectives and the bilevel step.
    pub(crate) memory: Memory,
    /// State of a moving reference.
    pub(crate) moving: Option<MovingState>,
    /// State of the diagnostics.
    pub(crate) evolution: Option<Evolution>,
    /// State of the budget.
    pub(crate) budget: Option<BudgetState>,
}

/// State other than parameters that persists from batch to batch, such as running means and multipliers.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Memory {
    objective: Vec<u8>,
    step: Vec<u8>,
    /// One entry per term of the lower level.
    lower: Vec<Vec<u8>>,
}

impl Memory {
    /// The state of a stage's objectives and bilevel step, each in its own format.
    pub(crate) fn of(stage: &PlannedStage) -> Self {
        Memory {
            objective: stage.objective.state(),
            step: stage.step.state(),
            lower: stage.lower.iter().map(|term| term.objective.state()).collect(),
        }
    }

    /// Restores the saved state. Fails if it belongs to other objectives or another step.
    pub(crate) fn restore(&self, stage: &mut PlannedStage) -> spo_api::Result<()> {
        stage.objective.restore(&self.objective)?;
        stage.step.restore(&self.step)?;
        stage.lower.iter_mut().zip(&self.lower).try_for_each(|(term, state)| term.objective.restore(state))
    }
}

/// Writes a run's state to a folder.
pub(crate) fn fill(
    folder: &Path,
    session: &mut dyn Session,
    state: &RunState,
    scores: &NamedScores<'_>,
) -> anyhow::Result<()> {
    session.save_state(&folder.join(SESSION))?;
    scores::write(&folder.join(SCORES), scores.iter().map(|(name, scores)| (name.clone(), *scores)))?;
    let (path, text) = (folder.join(STATE), serde_json::to_string_pretty(state)?);
    Ok(spo_api::write_whole(&path, |out| {
        writeln!(out, "{text}").map_err(|error| spo_api::Error::io(&path, error))
    })?)
}

/// The contents of a checkpoint written by [`fill`], except the session's state.
pub(crate) struct Found {
    folder: PathBuf,
    pub(crate) state: RunState,
    /// Log-probs, by name.
    pub(crate) scores: BTreeMap<String, Scores>,
}

impl Found {
    /// Reads a checkpoint and verifies the checksum of every file.
    pub(crate) fn read(folder: &Path) -> anyhow::Result<Self> {
        bundle::verify(folder)?;
        let text = read_whole(&folder.join(STATE), LARGE)?;
        let state = serde_json::from_slice(&text).context("its state is of another version of spo")?;
        Ok(Found { folder: folder.to_owned(), state, scores: scores::read(&folder.join(SCORES))? })
    }

    /// Restores the session. `stages` are the stages of the run.
    pub(crate) fn restore(&self, session: &mut dyn Session, stages: &[PlannedStage]) -> spo_api::Result<()> {
        let rule = self.state.stage.is_some().then(|| &stages[self.state.finished.len()].optimizer);
        // A session can only restore optimizer state for the rule it has adopted.
        session.adopt_optimizer(rule.and_then(|rule| rule.kernel()).as_ref())?;
        session.restore_state(&self.folder.join(SESSION))
    }
}

/// Whether the run in this folder has a checkpoint.
pub(crate) fn any(run: &Path) -> bool {
    !list(&run.join(CHECKPOINTS)).is_empty()
}

/// Step counts and folders of checkpoints, newest last.
fn list(checkpoints: &Path) -> Vec<(usize, PathBuf)> {
    let entries = fs::read_dir(checkpoints).into_iter().flatten().flatten();
    let numbered = |entry: fs::DirEntry| {
        let steps = entry.file_name().to_str()?.parse().ok()?;
        Some((steps, entry.path()))
    };
    let mut list: Vec<_> = entries.filter_map(numbered).collect();
    list.sort_unstable();
    list
}

/// The checkpoints of a run: `checkpoints/STEPS`, where STEPS counts steps across all stages.
pub(crate) struct Checkpoints {
    folder: PathBuf,
    policy: CheckpointSection,
    since: Instant,
}

impl Checkpoints {
    /// The checkpoints of the run in this folder.
    pub(crate) fn new(run: &Path, policy: CheckpointSection) -> Self {
        Checkpoints { folder: run.join(CHECKPOINTS), policy, since: Instant::now() }
    }

    /// Whether a checkpoint is due after `step` of the `total` steps of a stage.
    pub(crate) fn due(&self, step: usize, total: usize) -> bool {
        let minutes = Duration::try_from_secs_f64(60.0 * self.policy.minutes).unwrap_or(Duration::MAX);
        self.policy.every.due(step, total) || (!minutes.is_zero() && self.since.elapsed() >= minutes)
    }

    /// Writes a checkpoint and removes the oldest ones in excess of the limit.
    pub(crate) fn save(
        &mut self,
        session: &mut dyn Session,
        logs: &mut Logs,
        mut state: RunState,
        scores: &NamedScores<'_>,
    ) -> anyhow::Result<()> {
        state.logs = logs.sync()?;
        let within = state.stage.as_ref().map_or(0, |stage| stage.progress.done);
        let steps = within + state.finished.iter().map(|stage| stage.steps).sum::<usize>();
        let folder = self.folder.join(format!("{steps:08}"));
        bundle::write(&folder, |aside| fill(aside, session, &state, scores))
            .with_context(|| format!("cannot write checkpoint {}", folder.display()))?;
        self.since = Instant::now();
        for (_, old) in list(&self.folder).into_iter().rev().skip(self.policy.keep_last) {
            bundle::remove(&old).with_context(|| format!("cannot remove {}", old.display()))?;
        }
        Ok(())
    }

    /// The newest intact checkpoint of the run with this fingerprint. Calls `damaged` for each other one.
    pub(crate) fn newest(&self, run: &str, damaged: &mut dyn FnMut(&Path, &anyhow::Error)) -> Option<Found> {
        let read = |folder: &Path| {
            let found = Found::read(folder)?;
            ensure!(
                found.state.run == run,
                "it is of a run with another recipe, other data or another model"
            );
            Ok(found)
        };
        let mut newest_first = list(&self.folder).into_iter().rev();
        newest_first.find_map(|(_, folder)| read(&folder).inspect_err(|error| damaged(&folder, error)).ok())
    }

    /// Removes all checkpoints, including partial ones left by a process that died.
    pub(crate) fn remove(&self) -> anyhow::Result<()> {
        bundle::remove_all(&self.folder, &FILES)
            .with_context(|| format!("cannot remove {}", self.folder.display()))
    }
}
