use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{
    BilevelProblem, BilevelStep, LevelWeights, Part, Passes, Result, StepNeeds, StepReport, Weigh, register,
};

/// `d = dF`: the preference loss alone, no lower level. Plain DPO and its kin.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Single {}

impl Part for Single {}

impl BilevelStep for Single {
    fn needs(&self) -> StepNeeds {
        StepNeeds::default().update_alone(true)
    }

    fn passes(&self) -> Passes {
        Passes::new(1, 1)
    }

    fn step(&mut self, problem: &mut dyn BilevelProblem) -> Result<StepReport> {
        let losses = problem.update(Weigh::Fixed(LevelWeights::UPPER), 1.0)?;
        Ok(StepReport::new(losses))
    }
}

register!(step Single {
    name: "single",
    summary: "the preference loss alone",
    source: "the objective's own paper",
});
