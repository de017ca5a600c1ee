//! Models and data sets by their ids on the Hugging Face Hub (`owner/name`).
//!
//! The hub's Python client keeps what it downloads in a cache: a folder for every repository, with `blobs` (the contents),
//! `snapshots` (a folder of links for every commit) and `refs` (the commit of a branch or a tag). This crate reads that cache
//! and, with the feature `download`, adds to it. It heeds the same variables: `HF_HOME`, `HF_HUB_CACHE`, `HF_HUB_OFFLINE`,
//! `HF_ENDPOINT`, `HF_TOKEN` and `HF_TOKEN_PATH`.
//!
//! ```no_run
//! use spo_hub::{Hub, Repo, What};
//!
//! # fn main() -> spo_hub::Result<()> {
//! let repo = Repo::model("HuggingFaceTB/SmolLM2-135M-Instruct").expect("an owner and a name");
//! let snapshot = Hub::from_environment().fetch(&repo, None, &What::Model, &mut |_| {})?;
//! println!("{} at {}", snapshot.folder.display(), snapshot.commit);
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]

mod cache;
mod card;
#[cfg(feature = "download")]
mod download;
mod hub;
mod model;
#[cfg(feature = "download")]
mod online;
mod repo;
mod rows;

pub use hub::{Hub, Progress, What};
pub use repo::{Repo, is_commit, split_revision};
pub use rows::{in_folder, is_rows};

use std::path::PathBuf;

/// A commit of a repository in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The folder of its files. Perhaps not all of them are there.
    pub folder: PathBuf,
    /// The commit, in hexadecimal.
    pub commit: String,
}

/// Why something is not to be had: what was asked for, what is wrong, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub(crate) String);

/// A result whose error is an [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

pub(crate) fn refused<T>(message: impl Into<String>) -> Result<T> {
    Err(Error(message.into()))
}
