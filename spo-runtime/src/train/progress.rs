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
    /// Where the rule for ending the stage early stands.
    pub(crate) patience: Patience,
}

/// Whether a stage ends early.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Patience {
    /// The best value of its figure so far.
    pub(crate) best: Option<f64>,
    /// Evaluations since then.
    pub(crate) waited: usize,
    /// Whether the stage ends here.
    pub(crate) over: bool,
}

/// Where the time of a stage went, in seconds.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Clock {
    /// Time spent assembling batches.
    pub(crate) data: f64,
    /// Time of the steps.
    pub(crate) steps: StepTimes,
    /// Total time, including evaluations.
    pub(crate) elapsed: f64,
}

/// The times of all steps: their sum, and their median from a sample that stays small however many steps there are.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct StepTimes {
    /// Their sum, in seconds.
    pub(crate) sum: f64,
    steps: u64,
    /// Every so many-th step is in the sample.
    every: u64,
    sample: Vec<f64>,
}

impl Default for StepTimes {
    fn default() -> Self {
        StepTimes { sum: 0.0, steps: 0, every: 1, sample: Vec::new() }
    }
}

impl StepTimes {
    /// The most times that are kept. When the sample is full, every second one is dropped, and from then on every second
    /// one is not taken.
    const MOST: usize = 4096;

    pub(crate) fn add(&mut self, seconds: f64) {
        if self.steps.is_multiple_of(self.every) {
            if self.sample.len() == Self::MOST {
                let mut index = 0..;
                self.sample.retain(|_| index.next().is_some_and(|i: usize| i.is_multiple_of(2)));
                self.every *= 2;
            }
            self.sample.push(seconds);
        }
        self.sum += seconds;
        self.steps += 1;
    }

    /// The median; of an even number, the higher of the two in the middle.
    pub(crate) fn median(&self) -> f64 {
        let mut times = self.sample.clone();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_many_steps_needs_few_of_them() {
        let mut times = StepTimes::default();
        let last = 100_000u32;
        for i in 0..last {
            times.add(f64::from(i));
            assert!(times.sample.len() <= StepTimes::MOST);
        }
        // The steps of the sample are evenly spread, so that of a ramp has its median in the middle.
        let spread = times.sample.windows(2).all(|two| two[1] - two[0] == times.every as f64);
        assert!(spread && times.sample[0] == 0.0, "{:?}", &times.sample[..4]);
        assert!(
            (times.median() - f64::from(last) / 2.0).abs() < 2.0 * times.every as f64,
            "{}",
            times.median()
        );
        assert_eq!(times.sum, f64::from(last) * f64::from(last - 1) / 2.0);
        let mut few = StepTimes::default();
        [3.0, 1.0, 2.0, 5.0].into_iter().for_each(|seconds| few.add(seconds));
        assert_eq!(few.median(), 3.0);
    }
}
