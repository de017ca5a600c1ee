//! A batch whose numbers are not finite, written down so that it can be looked at: `nonfinite/STAGE-STEP`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use spo_api::Session;

use crate::store::bundle;
use crate::train::checkpoint::{self, NamedScores, RunState};

/// So many batches in a row are left out before a run gives up.
pub(crate) const PATIENCE: usize = 10;

const BATCH: &str = "batch.json";

/// Which batch it was, and what was wrong with it.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Incident {
    /// Name of the stage.
    pub(crate) stage: String,
    /// Step at which it happened, counted from 1.
    pub(crate) step: usize,
    /// What the step said.
    pub(crate) error: String,
    /// Indices of the batch's rows among the stage's.
    pub(crate) rows: Vec<usize>,
    /// Hash of the stage's rows.
    pub(crate) data: String,
    /// Of each term of the lower level the indices of its rows, where it has a batch of its own.
    pub(crate) lower_rows: Vec<Vec<usize>>,
}

impl Incident {
    /// Writes it down with everything the step began with; where.
    pub(crate) fn write(
        &self,
        run: &Path,
        session: &mut dyn Session,
        state: &RunState,
        scores: &NamedScores<'_>,
    ) -> anyhow::Result<PathBuf> {
        let folder = run.join("nonfinite").join(format!("{}-{}", self.stage, self.step));
        let text = serde_json::to_string_pretty(self)?;
        bundle::write(&folder, |aside| {
            checkpoint::fill(aside, session, state, scores)?;
            Ok(fs::write(aside.join(BATCH), &text)?)
        })
        .with_context(|| format!("cannot write the batch to {}", folder.display()))?;
        Ok(folder)
    }

    /// Reads what was written into a folder.
    pub(crate) fn read(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(BATCH);
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text)
            .with_context(|| format!("{} is damaged, or of another version of spo", path.display()))
    }

    /// Where those of a run are, the latest last.
    pub(crate) fn all(run: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(run.join("nonfinite")).into_iter().flatten().flatten();
        let written = |path: &PathBuf| fs::metadata(path.join(BATCH)).and_then(|file| file.modified()).ok();
        let mut folders: Vec<_> = entries.map(|e| e.path()).filter(|path| written(path).is_some()).collect();
        folders.sort_by_key(written);
        folders
    }
}
