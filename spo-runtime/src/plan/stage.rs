//! A planned stage.

use std::sync::Arc;

use spo_api::{BilevelStep, Objective, Optimizer, Schedule};
use spo_data::Dataset;
use spo_data::task::Judge;

use crate::plan::held_out::Demonstrations;
use crate::plan::view::View;
use crate::recipe::Stage;

/// A stage with its parts.
pub(crate) struct PlannedStage {
    /// The stage's section of the recipe.
    pub(crate) recipe: Stage,
    /// The name of the stage it starts from, or `model`.
    pub(crate) from: String,
    /// The upper-level objective F.
    pub(crate) objective: Box<dyn Objective>,
    /// The bilevel step, which turns the two levels into an update.
    pub(crate) step: Box<dyn BilevelStep>,
    /// How the objective sees the rows.
    pub(crate) view: View,
    /// Training rows.
    pub(crate) train: Arc<Dataset>,
    /// Held-out rows.
    pub(crate) eval: Option<Arc<Dataset>>,
    /// Whether to answer held-out prompts and count exact matches.
    pub(crate) exact_match: bool,
    /// The judge that scores the answers, if any.
    pub(crate) judge: Option<Judge>,
    /// The terms of the lower level.
    pub(crate) lower: Vec<PlannedTerm>,
    pub(crate) optimizer: Box<dyn Optimizer>,
    /// The learning-rate schedule after warm-up.
    pub(crate) schedule: Box<dyn Schedule>,
    /// Number of optimizer steps.
    pub(crate) steps: usize,
}

/// A term of the lower level.
pub(crate) struct PlannedTerm {
    /// Its loss on demonstrations.
    pub(crate) objective: Box<dyn Objective>,
    /// Its own demonstrations; `None` if it uses those of the upper batch. At most one term does.
    pub(crate) data: Option<Arc<Dataset>>,
    /// What a budget is measured on, if the step keeps one.
    pub(crate) held_out: Option<Demonstrations>,
}

impl PlannedStage {
    /// The name of the bilevel step.
    pub(crate) fn step_name(&self) -> &str {
        &self.recipe.bilevel.part.name
    }

    /// Training steps in one pass over the training rows. A stage of so many passes ends each with the rows that are
    /// left, as TRL does. The batches of a stage of so many steps are all full, and run on into the next pass.
    pub(crate) fn steps_per_pass(&self) -> f64 {
        let (rows, batch_size) = (self.train.examples.len(), self.recipe.batch_size);
        match self.recipe.steps {
            None => rows.div_ceil(batch_size) as f64,
            Some(_) => rows as f64 / batch_size as f64,
        }
    }

    /// The demonstrations that a term of the lower level draws from.
    pub(crate) fn demonstrations(&self, term: &PlannedTerm) -> Arc<Dataset> {
        term.data.as_ref().unwrap_or(&self.train).clone()
    }
}
