use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{
    BilevelProblem, BilevelStep, LevelWeights, Part, Passes, Result, StepNeeds, StepReport, Weigh, register,
};

use super::{
    scale::Scale,
    state::{from_state, to_state},
};

/// `d = dF + lambda dG`: a fixed mix of preference loss and SFT loss, the baseline that any bilevel
/// method must beat.
///
/// G is the mean negative log-prob per token; implementations of RPO differ in that normalization,
/// and so in what a given lambda means.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("examples" = [
    { "lambda": 1.0 },
]))]
pub struct Weighted {
    /// Factor of the SFT loss. 0 leaves `single`, and the SFT loss unmeasured.
    #[serde(default = "default_lambda")]
    #[schemars(range(min = 0))]
    pub lambda: f64,
    /// Divide F by its slope where it prefers neither answer, in units of DPO with `beta = 0.1`, so that one lambda means
    /// the same for every objective.
    #[serde(default)]
    pub normalize: bool,
    #[serde(skip)]
    scale: Scale,
}

fn default_lambda() -> f64 {
    1.0
}

impl Part for Weighted {}

impl BilevelStep for Weighted {
    fn needs(&self) -> StepNeeds {
        StepNeeds::two_levels().update_alone(true)
    }

    fn passes(&self) -> Passes {
        Passes::new(1, 1)
    }

    fn step(&mut self, problem: &mut dyn BilevelProblem) -> Result<StepReport> {
        let upper = self.scale.factor(self.normalize, problem)?;
        let weights = LevelWeights { upper, lower: self.lambda };
        let losses = problem.update(Weigh::Fixed(weights), 1.0)?;
        Ok(StepReport::new(losses).with([("bilevel/weight", self.lambda)]))
    }

    fn state(&self) -> Vec<u8> {
        to_state(&self.scale)
    }

    fn restore(&mut self, state: &[u8]) -> Result<()> {
        self.scale = from_state(state)?;
        Ok(())
    }
}

register!(step Weighted {
    name: "weighted",
    summary: "preference loss plus lambda times the SFT loss",
    source: "Pang et al. 2024 (iterative RPO), eq. 1, up to scale",
});
