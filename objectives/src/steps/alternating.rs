use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{
    BilevelProblem, BilevelStep, LevelWeights, Losses, Part, Passes, Result, StepNeeds, StepReport, Vector,
    Weigh, register,
};

/// `k` updates along dG, each on its own batch, then one along dF: bilevel optimization at its most
/// naive. All updates go through the one optimizer and its moments.
///
/// The losses it reports are G before its first update and F before its last.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Alternating {
    /// Number of SFT updates before each preference update.
    #[serde(default = "default_sft_steps")]
    #[schemars(range(min = 1))]
    pub sft_steps: usize,
    /// Learning rate of the SFT updates, as a multiple of the scheduled one.
    #[serde(default = "default_sft_lr_factor")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub sft_lr_factor: f64,
}

fn default_sft_steps() -> usize {
    1
}

fn default_sft_lr_factor() -> f64 {
    1.0
}

impl Part for Alternating {}

impl BilevelStep for Alternating {
    fn needs(&self) -> StepNeeds {
        StepNeeds::two_levels()
    }

    fn passes(&self) -> Passes {
        Passes::new(self.sft_steps + 1, self.sft_steps + 1)
    }

    fn step(&mut self, problem: &mut dyn BilevelProblem) -> Result<StepReport> {
        let mut lower = f64::NAN;
        for i in 0..self.sft_steps {
            if i > 0 {
                problem.next_lower()?;
            }
            let losses = problem.gradient(Weigh::Fixed(LevelWeights::LOWER), Vector::GRADIENT)?;
            if i == 0 {
                lower = losses.lower;
            }
            problem.descend(self.sft_lr_factor)?;
        }
        let Losses { upper, .. } = problem.gradient(Weigh::Fixed(LevelWeights::UPPER), Vector::GRADIENT)?;
        problem.descend(1.0)?;
        Ok(StepReport::new(Losses { upper, lower }))
    }
}

register!(step Alternating {
    name: "alternating",
    summary: "k SFT updates, then one preference update",
    source: "the naive baseline; no paper",
});
