//! A stage of a plan.

use std::sync::Arc;

use spo_api::{BilevelStep, Objective, Optimizer, Schedule};
use spo_data::Dataset;
use spo_data::task::Judge;

use crate::plan::view::View;
use crate::recipe::Stage;

/// A stage with its parts.
pub(crate) struct PlannedStage {
    /// What the recipe says.
    pub(crate) recipe: Stage,
    /// The name of the stage it starts from, or `model`.
    pub(crate) from: String,
    /// F.
    pub(crate) objective: Box<dyn Objective>,
    /// How the levels become an update.
    pub(crate) step: Box<dyn BilevelStep>,
    /// What the objective sees of the rows.
    pub(crate) view: View,
    /// Rows to train on.
    pub(crate) train: Arc<Dataset>,
    /// Held-out rows.
    pub(crate) eval: Option<Arc<Dataset>>,
    /// Whether held-out prompts are answered and compared.
    pub(crate) exact_match: bool,
    /// Who judges its answers beyond that.
    pub(crate) judge: Option<Judge>,
    /// The terms of its lower level.
    pub(crate) lower: Vec<PlannedTerm>,
    /// How the gradient moves the parameters.
    pub(crate) optimizer: Box<dyn Optimizer>,
    /// How the learning rate goes after the warm-up.
    pub(crate) schedule: Box<dyn Schedule>,
    /// Optimizer steps.
    pub(crate) steps: usize,
}

/// A term of a lower level.
pub(crate) struct PlannedTerm {
    /// Its loss on demonstrations.
    pub(crate) objective: Box<dyn Objective>,
    /// Its own demonstrations; `None` where it learns from those of the upper batch. At most one term does.
    pub(crate) data: Option<Arc<Dataset>>,
}

impl PlannedStage {
    /// The name of its bilevel step.
    pub(crate) fn step_name(&self) -> &str {
        &self.recipe.bilevel.part.name
    }

    /// The demonstrations that a term of the lower level draws from.
    pub(crate) fn demonstrations(&self, term: &PlannedTerm) -> Arc<Dataset> {
        term.data.as_ref().unwrap_or(&self.train).clone()
    }
}
