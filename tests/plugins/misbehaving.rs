//! A library of parts that misbehave, written in Rust.

use schemars::JsonSchema;
use serde::Deserialize;
use spo_api::{
    BilevelProblem, BilevelStep, Error, EvaluationMut, Layout, LevelWeights, Objective, Part, Passes,
    PreferenceBatch, Requirements, Result, StepNeeds, StepReport, Vector, Weigh, register,
};

spo_api::export_plugins!();

/// Misbehaves in the way that `how` names.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Misbehaving {
    /// `panic`, `panic-at-start`, `rewards`, `batch-error`.
    #[serde(default = "panic")]
    how: String,
}

fn panic() -> String {
    "panic".into()
}

impl Part for Misbehaving {
    fn validate(&self) -> Result<(), spo_api::ConfigError> {
        assert_ne!(self.how, "panic-at-start", "that is how");
        Ok(())
    }
}

impl Objective for Misbehaving {
    fn requirements(&self) -> Requirements {
        Requirements::of(Layout::Pairs)
    }

    fn evaluate(&mut self, batch: &PreferenceBatch<'_>, out: &mut EvaluationMut<'_>) -> Result<()> {
        match &*self.how {
            "rewards" => out.rewards.chosen = vec![0.0; batch.rows() + 1],
            "batch-error" => return Err(Error::Batch("not this batch".into())),
            _ => panic!("evaluated after {} tokens", batch.chosen.policy.values().len()),
        }
        Ok(())
    }
}

register!(objective Misbehaving {
    name: "misbehaving",
    summary: "panics, or worse",
    source: "a test",
});

/// A step that cannot be made without a key.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Needy {
    /// A factor of the gradient.
    rate: f64,
}

impl Part for Needy {}

impl BilevelStep for Needy {
    fn needs(&self) -> StepNeeds {
        StepNeeds::default()
    }

    fn passes(&self) -> Passes {
        Passes::new(1, 1)
    }

    fn step(&mut self, problem: &mut dyn BilevelProblem) -> Result<StepReport> {
        let weights = LevelWeights { upper: self.rate, lower: 0.0 };
        let losses = problem.gradient(Weigh::Fixed(weights), Vector::GRADIENT)?;
        problem.descend(1.0)?;
        Ok(StepReport::new(losses))
    }
}

register!(step Needy {
    name: "needy",
    summary: "plain descent, scaled",
    source: "a test",
});

/// Leaks a vector at every step.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Hoarder {}

impl Part for Hoarder {}

impl BilevelStep for Hoarder {
    fn needs(&self) -> StepNeeds {
        StepNeeds::default()
    }

    fn passes(&self) -> Passes {
        Passes::new(1, 1)
    }

    fn step(&mut self, problem: &mut dyn BilevelProblem) -> Result<StepReport> {
        problem.vectors().allocate()?;
        let losses = problem.gradient(Weigh::Fixed(LevelWeights::UPPER), Vector::GRADIENT)?;
        problem.descend(1.0)?;
        Ok(StepReport::new(losses))
    }
}

register!(step Hoarder {
    name: "hoarder",
    summary: "plain descent that leaks vectors",
    source: "a test",
});
