//! A stage of a plan.

use std::sync::Arc;

use spo_api::Objective;
use spo_data::Dataset;
use spo_data::task::Judge;

use crate::plan::view::View;
use crate::recipe::Stage;
use crate::recipe::compose::Bilevel;

/// A stage with its parts.
pub(crate) struct PlannedStage {
    /// What the recipe says.
    pub(crate) recipe: Stage,
    /// The name of the stage it starts from, or `model`.
    pub(crate) from: String,
    /// F.
    pub(crate) objective: Box<dyn Objective>,
    /// The step, with G.
    pub(crate) bilevel: Bilevel,
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
    /// The lower level's own demonstrations.
    pub(crate) lower_data: Option<Arc<Dataset>>,
    /// Those of its further terms.
    pub(crate) tasks: Vec<Arc<Dataset>>,
    /// Optimizer steps.
    pub(crate) steps: usize,
}
