//! Training: runs, stages and steps, with evaluation, diagnostics and checkpoints.

pub(crate) mod budget;
pub(crate) mod card;
pub(crate) mod checkpoint;
pub(crate) mod diagnostics;
pub(crate) mod evaluate;
mod figures;
pub(crate) mod incident;
mod keeper;
pub(crate) mod model_folder;
pub(crate) mod optimization;
pub(crate) mod progress;
pub(crate) mod reference;
pub(crate) mod run;
mod schedule;
mod stage;
mod start_check;
pub(crate) mod starts;
pub(crate) mod step;
pub(crate) mod summary;
