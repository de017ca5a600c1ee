//! How far a stage has come, and how long it took.

use serde::{Deserialize, Serialize};
use spo_api::Metrics;

use crate::train::figures::{figures, optional_figures};

/// What a stage has come to so far. It holds no times.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct StageProgress {
    /// Steps done.
    pub(crate) done: usize,
    /// Batches left out because their numbers were not finite.
    pub(crate) skipped: usize,
    /// Those since the last one that was not left out.
    pub(crate) skipped_in_a_row: usize,
    /// Batches drawn for each term of the lower level.
    pub(crate) draws: Vec<usize>,
    /// Tokens trained on, each prompt counted with each of its answers.
    pub(crate) tokens: usize,
    /// Rows the reference scored.
    pub(crate) reference_rows: usize,
    /// Metrics of the last step.
    #[serde(deserialize_with = "figures")]
    pub(crate) metrics: Metrics,
    /// Held-out figures before the first.
    #[serde(deserialize_with = "optional_figures")]
    pub(crate) before: Option<Metrics>,
    /// The best held-out figure.
    pub(crate) best: Option<f64>,
}

/// Where the time of a stage went, in seconds.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Clock {
    /// In which batches were put together.
    pub(crate) data: f64,
    /// Of each step.
    pub(crate) steps: Vec<f64>,
    /// Of the whole, evaluations included.
    pub(crate) elapsed: f64,
}

impl Clock {
    /// The median of a step.
    pub(crate) fn median_step(&self) -> f64 {
        let mut steps = self.steps.clone();
        steps.sort_by(f64::total_cmp);
        steps[steps.len() / 2]
    }
}
