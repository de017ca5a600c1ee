use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{
    BilevelProblem, BilevelStep, LevelWeights, Part, Passes, Result, StepNeeds, StepReport, Vector, Weigh,
    register,
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
}

fn default_lambda() -> f64 {
    1.0
}

impl Part for Weighted {}

impl BilevelStep for Weighted {
    fn needs(&self) -> StepNeeds {
        StepNeeds { lower: true, ..StepNeeds::default() }
    }

    fn passes(&self) -> Passes {
        Passes { forward: 1, backward: 1 }
    }

    fn step(&mut self, problem: &mut dyn BilevelProblem) -> Result<StepReport> {
        let weights = LevelWeights { upper: 1.0, lower: self.lambda };
        let losses = problem.gradient(Weigh::Fixed(weights), Vector::GRADIENT)?;
        problem.descend(1.0)?;
        Ok(StepReport { losses, metrics: [("bilevel/weight".into(), self.lambda)].into() })
    }
}

register!(step Weighted {
    name: "weighted",
    summary: "preference loss plus lambda times the SFT loss",
    source: "Pang et al. 2024 (iterative RPO), eq. 1, up to scale",
});
