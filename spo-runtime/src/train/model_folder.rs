//! Saving a stage's model to a folder.

use std::path::Path;

use anyhow::Context;
use spo_api::{Export, Session};
use spo_data::Tokenizer;

use crate::plan::Plan;

/// The format in which a stage's model is saved.
pub(super) fn export(plan: &Plan) -> Export {
    if plan.recipe.model.adapter.is_some() { Export::Adapter } else { Export::Model }
}

/// Saves a stage's model and tokenizer.
pub(crate) fn save(
    session: &mut dyn Session,
    folder: &Path,
    what: Export,
    tokenizer: &Tokenizer,
) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    session.save(folder, what)?;
    tokenizer.save(folder)?;
    Ok(())
}
