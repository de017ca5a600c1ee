//! Helpers for the end-to-end tests. Not part of the public interface.

use std::path::Path;

use spo_api::Registry;

use crate::plan::Plan;
use crate::recipe::document::Document;
use crate::store::scores;

/// Finds, builds and checks everything that a recipe names, as every command does first.
pub fn plan(registry: &mut Registry, recipe: &Path) -> anyhow::Result<()> {
    Plan::new(registry, &Document::read(recipe, &[])?).map(drop)
}

/// The exit code of a command that fails with this error.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    crate::error::exit_code(error)
}

/// Adds `by` to every log-prob of the rejected answers in a file of scores.
pub fn shift_rejected(file: &Path, by: f64) -> anyhow::Result<()> {
    let mut read = scores::read(file)?;
    let rejected = read.values_mut().flat_map(|scores| scores.rejected.iter_mut().flatten());
    rejected.for_each(|log_prob| *log_prob += by);
    scores::write(file, read.iter().map(|(name, scores)| (name.clone(), scores)))
}
