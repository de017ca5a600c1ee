//! The learning rate during a stage: linear warm-up, then the stage's schedule.

use spo_api::{Schedule, Span};

pub(crate) struct LearningRate<'a> {
    pub(crate) peak: f64,
    pub(crate) schedule: &'a dyn Schedule,
    pub(crate) span: Span,
}

impl LearningRate<'_> {
    /// The learning rate of the step that follows `step` completed steps.
    pub(crate) fn at(&self, step: usize) -> f64 {
        match step < self.span.warmup {
            true => self.peak * step as f64 / self.span.warmup as f64,
            false => self.peak * self.schedule.factor(step, self.span),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use spo_api::Registry;
    use spo_objectives::ShareOrSteps;

    use super::*;

    fn rates(schedule: &str, warmup: serde_json::Value, total: usize) -> Vec<f64> {
        let warmup = serde_json::from_value::<ShareOrSteps>(warmup).unwrap().steps(total);
        let schedule = Registry::linked().unwrap().schedule(schedule, &json!({})).unwrap();
        let rate = LearningRate { peak: 1.0, schedule: &*schedule, span: Span { warmup, total } };
        (0..total).map(|step| rate.at(step)).collect()
    }

    #[test]
    fn the_rate_rises_before_it_goes_as_scheduled() {
        assert_eq!(rates("constant", json!(0.0), 3), [1.0, 1.0, 1.0]);
        assert_eq!(rates("linear", json!(0.0), 4), [1.0, 0.75, 0.5, 0.25]);
        assert_eq!(rates("linear", json!(0.5), 4), [0.0, 0.5, 1.0, 0.5]);
        assert_eq!(rates("linear", json!({ "steps": 2 }), 4), [0.0, 0.5, 1.0, 0.5]);
        assert_eq!(rates("constant", json!(1), 2), [0.0, 0.5]);
        assert_eq!(rates("constant", json!({ "steps": 4 }), 2), [0.0, 0.25], "longer than the stage");
    }

    #[test]
    fn a_share_is_rounded_up_as_transformers_does() {
        assert_eq!(rates("constant", json!(0.26), 4), [0.0, 0.5, 1.0, 1.0]);
    }
}
