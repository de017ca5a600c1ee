//! A sweep as it is written down: its cells, and what they have in common.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use spo_api::Library;

/// A sweep that is ready to run. In this form it is written to `sweep.json`.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Plot {
    /// Name of the sweep.
    pub(crate) name: String,
    /// The folder its recipe was run in.
    pub(crate) started_in: PathBuf,
    /// The arm that the others are compared with.
    pub(crate) baseline: String,
    /// The libraries that parts were loaded from.
    #[serde(default)]
    pub(crate) plugins: Vec<Library>,
    /// The cells, arm by arm.
    pub(crate) cells: Vec<Cell>,
}

/// One run of a sweep.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Cell {
    /// Its name, and that of its folder inside the sweep's; its recipe is `NAME.toml`, what it printed
    /// `NAME.log`.
    pub(crate) name: String,
    /// Name of its arm.
    pub(crate) arm: String,
    /// Its seed.
    pub(crate) seed: u64,
    /// What it changes in the recipe, the seed aside.
    pub(crate) set: Map<String, Value>,
}
