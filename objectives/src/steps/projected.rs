use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{BilevelProblem, BilevelStep, Part, Passes, Result, StepNeeds, StepReport, register};

use super::geometry::descend_with;

/// `d = dF - min(0, <dF, dG>) / ||dG||^2 dG`: where the gradients conflict, dF loses its component
/// against dG, so that to first order the update never raises the SFT loss.
///
/// Gradient surgery projects every task's gradient and adds them up; here SFT is the constraint and not
/// a task, so only dF is projected and dG is not added. It is `barrier` with phi = 0. The promise is
/// about d: an adaptive optimizer, which scales each coordinate, keeps it only roughly.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Projected {}

impl Part for Projected {}

impl BilevelStep for Projected {
    fn needs(&self) -> StepNeeds {
        StepNeeds::two_levels()
    }

    fn passes(&self) -> Passes {
        Passes::new(2, 2)
    }

    fn step(&mut self, problem: &mut dyn BilevelProblem) -> Result<StepReport> {
        descend_with(problem, |geometry, _| geometry.least_factor(0.0))
    }
}

register!(step Projected {
    name: "projected",
    summary: "the preference gradient without its component against the SFT gradient",
    source: "Yu et al. 2020 (PCGrad), one-sided",
});
