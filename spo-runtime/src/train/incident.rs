//! A batch with non-finite numbers, saved for inspection in `nonfinite/STAGE-STEP`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use spo_api::Session;

use crate::store::bundle;
use crate::store::output::NONFINITE;
use crate::train::checkpoint::{self, NamedScores, RunState};

/// Consecutive batches that may be skipped before the run fails.
pub(crate) const PATIENCE: usize = 10;

const BATCH: &str = "batch.json";

/// Identifies the batch, and what was wrong with it.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Incident {
    pub(crate) stage: String,
    /// The step at which it happened, counted from 1.
    pub(crate) step: usize,
    /// The error that the step returned.
    pub(crate) error: String,
    /// Indices of the batch's rows among the stage's rows.
    pub(crate) rows: Vec<usize>,
    /// Hash of the stage's rows.
    pub(crate) data: String,
    /// For each term of the lower level, the indices of its rows if it has its own batch.
    pub(crate) lower_rows: Vec<Vec<usize>>,
}

impl Incident {
    /// Saves the incident with the state at the beginning of the step. Returns the folder.
    pub(crate) fn write(
        &self,
        run: &Path,
        session: &mut dyn Session,
        state: &RunState,
        scores: &NamedScores<'_>,
    ) -> anyhow::Result<PathBuf> {
        let folder = run.join(NONFINITE).join(format!("{}-{}", self.stage, self.step));
        let text = serde_json::to_string_pretty(self)?;
        bundle::write(&folder, |aside| {
            checkpoint::fill(aside, session, state, scores)?;
            Ok(fs::write(aside.join(BATCH), &text)?)
        })
        .with_context(|| format!("cannot write the batch to {}", folder.display()))?;
        Ok(folder)
    }

    /// Reads a saved incident.
    pub(crate) fn read(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(BATCH);
        let text = spo_api::read_small(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text)
            .with_context(|| format!("{} is damaged, or of another version of spo", path.display()))
    }

    /// Folders of all incidents of a run, latest last.
    pub(crate) fn all(run: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(run.join(NONFINITE)).into_iter().flatten().flatten();
        let written = |path: &PathBuf| fs::metadata(path.join(BATCH)).and_then(|file| file.modified()).ok();
        let mut folders: Vec<_> = entries.map(|e| e.path()).filter(|path| written(path).is_some()).collect();
        folders.sort_by_key(written);
        folders
    }
}
