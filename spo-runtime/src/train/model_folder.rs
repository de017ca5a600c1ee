//! Saving a stage's model to a folder.

use std::path::Path;

use anyhow::Context;
use spo_api::{Export, Session};
use spo_data::Tokenizer;

use crate::plan::Plan;
use crate::train::card;

/// The format in which a stage's model is saved.
pub(super) fn export(plan: &Plan) -> Export {
    if plan.recipe.model.adapter.is_some() { Export::Adapter } else { Export::Model }
}

/// Saves a model with its tokenizer and its [card]. Returns whether the card was written, and not a README.md of the user's
/// kept.
pub(crate) fn save(
    session: &mut dyn Session,
    folder: &Path,
    what: Export,
    tokenizer: &Tokenizer,
    card: &str,
) -> anyhow::Result<bool> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    session.save(folder, what)?;
    tokenizer.save(folder)?;
    card::write(folder, card)
}
