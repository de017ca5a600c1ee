//! Where what is named by its id on the Hugging Face Hub lies in the hub's cache.

use std::path::{Path, PathBuf};

use spo_hub::{Hub, Repo, What, split_revision};

/// Whether a path is the id of a model, with its revision: it does not exist here, and has the form `owner/name` or
/// `owner/name@revision`.
pub(crate) fn model_id(path: &Path) -> Option<(Repo, Option<&str>)> {
    let (id, revision) = split_revision(path).filter(|_| path.symlink_metadata().is_err())?;
    let is_file = [".gguf", ".safetensors", ".bin", ".json"].iter().any(|end| id.ends_with(end));
    Some((Repo::model(id).filter(|_| !is_file)?, revision))
}

/// The folder that a path of a model stands for: that of the cache for an id that is there, else the path itself.
pub(crate) fn folder(path: &Path, revision: Option<&str>) -> PathBuf {
    let Some((repo, named)) = model_id(path) else { return path.to_owned() };
    let hub = Hub::from_environment();
    let cached = |what: What<'_>| hub.cached(&repo, named.or(revision), &what);
    cached(What::Model).or_else(|| cached(What::Tokenizer)).map_or(path.to_owned(), |found| found.folder)
}
