use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{
    BilevelProblem, BilevelStep, Part, Passes, Result, StepNeeds, StepReport, Vector, register, with_scratch,
};

use super::geometry::{descend_along, descend_with};

/// `d = dF - min(0, <dF, dG>) / ||dG||^2 dG`: where the gradients conflict, dF loses its component
/// against dG, so that to first order the update never raises the SFT loss.
///
/// Gradient surgery projects every task's gradient and adds them up; here SFT is the constraint and not
/// a task, so only dF is projected and dG is not added. It is `barrier` with phi = 0. The promise is
/// about d: an adaptive optimizer, which scales each coordinate, keeps it only roughly. With `update = true`
/// it is about the update: of what the optimizer has added to the parameters, whatever its rule, the component along
/// dG is taken away where it is positive.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Projected {
    /// Project the optimizer's update too, for one more vector.
    #[serde(default)]
    pub update: bool,
}

impl Part for Projected {}

impl BilevelStep for Projected {
    fn needs(&self) -> StepNeeds {
        StepNeeds::two_levels()
    }

    fn passes(&self) -> Passes {
        Passes::new(2, 2)
    }

    fn step(&mut self, problem: &mut dyn BilevelProblem) -> Result<StepReport> {
        if !self.update {
            return descend_with(problem, |geometry, _| geometry.least_factor(0.0));
        }
        with_scratch(problem, 2, |problem, scratch| {
            let (lower_gradient, moved) = (scratch[0], scratch[1]);
            problem.vectors().copy(Vector::PARAMETERS, moved)?;
            let report = descend_along(problem, lower_gradient, |geometry, _| geometry.least_factor(0.0))?;
            let space = problem.vectors();
            space.scale(-1.0, moved)?;
            space.axpy(1.0, Vector::PARAMETERS, moved)?;
            let rise = space.dot(moved, lower_gradient)?;
            let squared = space.dot(lower_gradient, lower_gradient)?;
            if rise > 0.0 && squared > 0.0 {
                space.axpy(-rise / squared, lower_gradient, Vector::PARAMETERS)?;
            }
            // What G would have risen by to first order, had the update stayed as it was.
            Ok(report.with([("bilevel/update_rise", rise)]))
        })
    }
}

register!(step Projected {
    name: "projected",
    summary: "the preference gradient without its component against the SFT gradient",
    source: "Yu et al. 2020 (PCGrad), one-sided",
});
