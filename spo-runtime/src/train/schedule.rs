//! Learning rates over a stage, as transformers' schedulers give them.

use crate::recipe::{Optimizer, Schedule};

/// Learning rate of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LearningRate {
    peak: f64,
    schedule: Schedule,
    warmup: usize,
    total: usize,
}

impl LearningRate {
    /// The schedule of a stage of `total` steps.
    pub(crate) fn new(optimizer: &Optimizer, total: usize) -> Self {
        // transformers rounds the warmup up.
        let warmup = (optimizer.warmup * total as f64).ceil() as usize;
        LearningRate { peak: optimizer.lr, schedule: optimizer.schedule, warmup, total }
    }

    /// Learning rate of the step after `step` others.
    pub(crate) fn at(&self, step: usize) -> f64 {
        if step < self.warmup {
            return self.peak * step as f64 / self.warmup as f64;
        }
        let rest = (self.total - self.warmup).max(1) as f64;
        let progress = (step - self.warmup) as f64 / rest;
        self.peak
            * match self.schedule {
                Schedule::Constant => 1.0,
                Schedule::Linear => (1.0 - progress).max(0.0),
                Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(schedule: Schedule, warmup: f64, total: usize) -> Vec<f64> {
        let optimizer: Optimizer = serde_json::from_value(serde_json::json!({"lr": 1.0})).unwrap();
        let rate = LearningRate::new(&Optimizer { schedule, warmup, ..optimizer }, total);
        (0..total).map(|step| rate.at(step)).collect()
    }

    #[test]
    fn schedules_are_those_of_transformers() {
        assert_eq!(rates(Schedule::Constant, 0.0, 3), [1.0, 1.0, 1.0]);
        assert_eq!(rates(Schedule::Linear, 0.0, 4), [1.0, 0.75, 0.5, 0.25]);
        assert_eq!(rates(Schedule::Linear, 0.5, 4), [0.0, 0.5, 1.0, 0.5]);
        let cosine = rates(Schedule::Cosine, 0.25, 4);
        let expected = [0.0, 1.0, 0.75, 0.25];
        assert!(cosine.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{cosine:?}");
        assert_eq!(rates(Schedule::Constant, 1.0, 2), [0.0, 0.5]);
    }
}
