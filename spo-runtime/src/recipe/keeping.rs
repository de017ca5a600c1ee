//! What a run stores on disk: checkpoints to resume from, and results that other runs can reuse.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::every::Every;

/// What happens when the output folder holds an unfinished run of the same recipe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Resume {
    /// It is left alone, and the recipe is refused.
    #[default]
    Never,
    /// It is continued.
    Auto,
}

/// What happens when a loss or a gradient is not finite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OnNonfinite {
    /// The run stops.
    #[default]
    Stop,
    /// The batch is left out and counted (`skipped` in the metrics). Ten in a row stop the run all the same.
    Skip,
}

/// `[checkpoint]`: what an interrupted run continues from. One is written at the end of every stage and
/// when the run is asked to stop (Ctrl-C, SIGTERM), and the run's last ones are removed when it is complete.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Checkpoint")]
pub(crate) struct CheckpointSection {
    /// And after every so many steps of a stage, or such a share of it (`0.1` for ten times); 0 for never.
    pub(crate) every: Every,
    /// And after so many minutes; 0 for never.
    #[schemars(range(min = 0))]
    pub(crate) minutes: f64,
    /// The newest ones that are kept. With more than one, a run survives that the newest is damaged.
    #[schemars(range(min = 1))]
    pub(crate) keep_last: usize,
    /// Save the model of a stage whenever a held-out figure is better than ever before in it, beside its
    /// final one (`STAGE/best`): `{ metric = "eval_loss" }`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) best: Option<Best>,
}

impl Default for CheckpointSection {
    fn default() -> Self {
        CheckpointSection { every: Every::NEVER, minutes: 15.0, keep_last: 2, best: None }
    }
}

/// `checkpoint.best`: what makes a model the best.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Best {
    /// Name of a held-out figure: `eval_loss`, `eval_pair_accuracy`, ...
    pub(crate) metric: String,
    /// Whether it is to be small or large.
    #[serde(default)]
    pub(crate) goal: Goal,
}

/// Which way a figure is to go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Goal {
    /// Down, like a loss.
    #[default]
    Min,
    /// Up, like an accuracy.
    Max,
}

impl Goal {
    /// Whether a value is better than the best so far. A non-finite value never is.
    pub(crate) fn improves(self, new: f64, best: Option<f64>) -> bool {
        new.is_finite()
            && best.is_none_or(|best| match self {
                Goal::Min => new < best,
                Goal::Max => new > best,
            })
    }
}

/// `[cache]`: work that runs share: the reference's log-probs, and the results of stages. Entries are found by a
/// hash of everything they depend on, the program included, so that a stale one is never found.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Cache")]
pub(crate) struct CacheSection {
    /// Use it.
    pub(crate) enabled: bool,
    /// Where it lies; `.cache` beside the run's folder unless given. It can be deleted at any time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) folder: Option<PathBuf>,
    /// Names of stages whose results are kept too, the first ones of the recipe without a gap: a run that
    /// begins with the same stages takes them from there. In a sweep this is found out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) stages: Vec<String>,
}

impl Default for CacheSection {
    fn default() -> Self {
        CacheSection { enabled: true, folder: None, stages: Vec::new() }
    }
}
