//! Whether a stage can be trained without a gradient that is kept (`optimizer.in_backward`).

use spo_api::ModelInfo;

use crate::plan::stage::PlannedStage;
use crate::recipe::{OnNonfinite, Recipe};

/// Why a stage needs the whole gradient, and what to do; `None` if it does not. `fused` says whether the backend runs the
/// optimizer itself.
pub(super) fn problem(
    recipe: &Recipe,
    stage: &PlannedStage,
    info: &ModelInfo,
    fused: bool,
) -> Option<String> {
    let own = &stage.recipe.optimizer.own;
    if own.max_grad_norm > 0.0 {
        return Some(format!(
            "parameters are updated before the norm of the whole gradient is known, to which `max_grad_norm` ({}) refers: set \
             `max_grad_norm = 0`",
            own.max_grad_norm
        ));
    }
    if stage.recipe.micro_batch.is_some() {
        return Some("a gradient that is not kept cannot be added up over the parts of a batch: leave `micro_batch` out".into());
    }
    if !stage.step.needs().update_alone {
        return Some(format!(
            "the step `{}` computes with the gradient: take `single`, `weighted`, `spo`, or `penalty` without an inner value",
            stage.step_name()
        ));
    }
    if stage.lower.iter().any(|term| term.data.is_some()) {
        return Some(
            "the gradients of two batches have to be added up where the lower level has data of its own"
                .into(),
        );
    }
    if recipe.run.on_nonfinite == OnNonfinite::Skip {
        return Some(
            "a batch with a gradient that is not finite has changed some parameters when that is found: set \
             `run.on_nonfinite = \"stop\"`"
                .into(),
        );
    }
    if recipe.model.adapter.is_some() {
        return Some("saves nothing, because the gradient of an adapter is small: leave it out".into());
    }
    if !info.updates_in_backward {
        return Some(format!("the {} backend keeps the whole gradient: leave it out", recipe.backend.name));
    }
    (!fused).then(|| {
        format!(
            "`{}` is not run by the backend: take `adamw` or `adamw-8bit`",
            stage.recipe.optimizer.part.name
        )
    })
}
