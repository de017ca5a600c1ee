//! State that is carried from stage to stage, and how it is saved in checkpoints.

use std::collections::BTreeMap;

use spo_api::Session;

use crate::store::logs::{Lengths, Logs};
use crate::store::scores::Scores;
use crate::train::checkpoint::{Checkpoints, NamedScores, RunState, StageState};
use crate::train::starts::Starts;
use crate::train::summary::StageSummary;

/// An interrupted stage.
pub(super) struct Within {
    pub(super) state: StageState,
    pub(super) scores: BTreeMap<String, Scores>,
}

/// State of the earlier stages, and the checkpoints.
pub(super) struct Keeper {
    pub(super) checkpoints: Checkpoints,
    /// The run's fingerprint.
    pub(super) run: String,
    pub(super) finished: Vec<StageSummary>,
    pub(super) starts: Starts,
}

impl Keeper {
    /// The run's state, with `stage` as the current stage.
    pub(super) fn state(&self, stage: Option<StageState>) -> RunState {
        let (finished, starts) = (self.finished.clone(), self.starts.clone());
        RunState { run: self.run.clone(), logs: Lengths::new(), finished, starts, stage }
    }

    /// Writes a checkpoint, within a stage or between stages.
    pub(super) fn save(
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

/// Prefix in a checkpoint for the names of scores that later stages may reuse.
pub(super) const KNOWN: &str = "known/";

/// The reusable scores, under their names in a checkpoint.
pub(super) fn named(known: &Known) -> impl Iterator<Item = (String, &Scores)> {
    known.iter().map(|(key, scores)| (format!("{KNOWN}{key}"), scores))
}

/// Scores computed so far. The key identifies the stage whose model produced them (or `model`), the dataset's
/// hash and the view. Stages that start from the same parameters share their reference scores.
pub(super) type Known = BTreeMap<String, Scores>;
