use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use spo_api::{BilevelProblem, LevelWeights, Passes, Result, Vector, Weigh};

use super::scratch::excursion;
use crate::NumberOr;

/// Estimate of G*, the least value that the lower level can reach, in nats per token: a number that is
/// known, or one of these.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Value {
    /// G of the reference model on the same batch, so that easy and hard batches weigh alike.
    Reference,
    /// The least moving average of G over the batches so far (each new batch counts for a tenth).
    RunningMin,
    /// The least G met on `steps` plain gradient steps `theta <- theta - lr dG` on this batch.
    Inner {
        /// Number of steps.
        #[schemars(range(min = 1))]
        steps: usize,
        /// Length of a step in units of the gradient; no optimizer, no schedule.
        #[schemars(extend("exclusiveMinimum" = 0))]
        lr: f64,
    },
}

impl NumberOr<Value> {
    /// Passes for the estimate, in addition to the step's own passes.
    pub(super) fn passes(self) -> Passes {
        match self {
            NumberOr::Form(Value::Inner { steps, .. }) => Passes::new(steps + 1, steps),
            _ => Passes::default(),
        }
    }

    pub(super) fn needs_reference(self) -> bool {
        self == NumberOr::Form(Value::Reference)
    }

    /// What [`settle`](Self::settle) has to know before G of this batch is known; `None` if that is nothing.
    pub(super) fn estimate(self, problem: &mut dyn BilevelProblem) -> Result<Option<f64>> {
        match self {
            NumberOr::Number(value) => Ok(Some(value)),
            NumberOr::Form(Value::Reference) => problem.reference_lower().map(Some),
            NumberOr::Form(Value::Inner { steps, lr }) => least_on_descent(problem, steps, lr).map(Some),
            NumberOr::Form(Value::RunningMin) => Ok(None),
        }
    }

    /// The estimate of G* where G of this batch is `lower`.
    ///
    /// The least G of a descent includes its start. Without it, a learning rate that is too large would give too high an
    /// estimate, and the constraint would have no effect. G at the start is `lower` itself: another pass over the same
    /// rows may round differently, and a constraint that is 0 would be violated or not by chance.
    pub(super) fn settle(self, estimate: Option<f64>, lower: f64, running_min: &mut RunningMin) -> f64 {
        match (self, estimate) {
            (NumberOr::Form(Value::Inner { .. }), Some(least)) => least.min(lower),
            (_, Some(value)) => value,
            (_, None) => running_min.update(lower),
        }
    }
}

/// The smallest G on the descent, after its first step.
fn least_on_descent(problem: &mut dyn BilevelProblem, steps: usize, lr: f64) -> Result<f64> {
    excursion(problem, |problem, _home| {
        let mut least = f64::INFINITY;
        for step in 0..steps {
            let losses = problem.gradient(Weigh::Fixed(LevelWeights::LOWER), Vector::GRADIENT)?;
            if step > 0 {
                least = least.min(losses.lower);
            }
            problem.vectors().axpy(-lr, Vector::GRADIENT, Vector::PARAMETERS)?;
        }
        Ok(least.min(problem.lower()?))
    })
}

/// The minimum of a moving average of G. The minimum over single batches would be the loss of the easiest
/// batch, not a value that the model can sustain.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(super) struct RunningMin {
    average: Option<f64>,
    least: Option<f64>,
}

impl RunningMin {
    const DECAY: f64 = 0.9;

    /// Adds G of a batch and returns the minimum so far, including this batch.
    pub(super) fn update(&mut self, lower: f64) -> f64 {
        let average = self.average.map_or(lower, |a| Self::DECAY * a + (1.0 - Self::DECAY) * lower);
        let least = self.least.map_or(average, |l| l.min(average));
        *self = RunningMin { average: Some(average), least: Some(least) };
        least
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descent_that_only_climbs_leaves_the_constraint_at_exactly_nothing() {
        let inner = NumberOr::Form(Value::Inner { steps: 3, lr: 0.1 });
        let mut running_min = RunningMin::default();
        // Whatever the last digit of the start, measured anew, would have been.
        assert_eq!(inner.settle(Some(0.7), 0.5, &mut running_min), 0.5);
        assert_eq!(inner.settle(Some(0.4), 0.5, &mut running_min), 0.4);
        // Other estimates may lie above G: inside the safe set.
        let reference = NumberOr::Form(Value::Reference);
        assert_eq!(reference.settle(Some(0.7), 0.5, &mut running_min), 0.7);
        assert_eq!(NumberOr::Form(Value::RunningMin).settle(None, 0.5, &mut running_min), 0.5);
    }
}
