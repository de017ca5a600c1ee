//! The progress of a stage, and the time it took.

use serde::{Deserialize, Serialize};
use spo_api::Metrics;

use crate::train::figures::{figures, optional_figures};

/// The progress of a stage, without times.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct StageProgress {
    /// Steps done.
    pub(crate) done: usize,
    /// Batches skipped because their numbers were not finite.
    pub(crate) skipped: usize,
    /// Consecutive batches skipped, up to now.
    pub(crate) skipped_in_a_row: usize,
    /// Batches drawn for each term of the lower level.
    pub(crate) draws: Vec<usize>,
    /// Tokens trained on. Each prompt is counted once per answer.
    pub(crate) tokens: usize,
    /// Rows scored under the reference.
    pub(crate) reference_rows: usize,
    /// Metrics of the last step.
    #[serde(deserialize_with = "figures")]
    pub(crate) metrics: Metrics,
    /// Held-out metrics before the first step.
    #[serde(deserialize_with = "optional_figures")]
    pub(crate) before: Option<Metrics>,
    /// The best value of the held-out metric so far.
    pub(crate) best: Option<f64>,
}

/// Where the time of a stage went, in seconds.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Clock {
    /// Time spent assembling batches.
    pub(crate) data: f64,
    /// Time of each step.
    pub(crate) steps: Vec<f64>,
    /// Total time, including evaluations.
    pub(crate) elapsed: f64,
}

impl Clock {
    /// The median step time.
    pub(crate) fn median_step(&self) -> f64 {
        let mut steps = self.steps.clone();
        steps.sort_by(f64::total_cmp);
        steps[steps.len() / 2]
    }
}
