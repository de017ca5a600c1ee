//! What goes from stage to stage, and how it is kept in checkpoints.

use std::collections::BTreeMap;

use spo_api::Session;

use crate::store::logs::{Lengths, Logs};
use crate::store::scores::Scores;
use crate::train::checkpoint::{Checkpoints, NamedScores, RunState, StageState};
use crate::train::starts::Starts;
use crate::train::summary::StageSummary;

/// A stage that was interrupted.
pub(super) struct Within {
    pub(super) state: StageState,
    pub(super) scores: BTreeMap<String, Scores>,
}

/// What a checkpoint says of the stages before the one at work, and the checkpoints.
pub(super) struct Keeper {
    pub(super) checkpoints: Checkpoints,
    pub(super) finished: Vec<StageSummary>,
    pub(super) starts: Starts,
}

impl Keeper {
    /// Where the run stands.
    pub(super) fn state(&self, stage: Option<StageState>) -> RunState {
        let (finished, starts) = (self.finished.clone(), self.starts.clone());
        RunState { logs: Lengths::new(), finished, starts, stage }
    }

    /// Writes a checkpoint, within a stage or between two.
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

/// In a checkpoint, what precedes the names of scores that later stages may want.
pub(super) const KNOWN: &str = "known/";

/// What later stages may want to know, under the names it has in a checkpoint.
pub(super) fn named(known: &Known) -> impl Iterator<Item = (String, &Scores)> {
    known.iter().map(|(key, scores)| (format!("{KNOWN}{key}"), scores))
}

/// What was scored already: by the model that a stage of this name left (or `model`), on the dataset of
/// this hash, seen like this. Stages that start from one checkpoint share their reference.
pub(super) type Known = BTreeMap<String, Scores>;
