//! The stored description of a sweep: its cells and what they have in common.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use spo_api::Library;
use spo_data::Moment;

/// A sweep that is ready to run, as stored in `sweep.json`.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Plot {
    /// Name of the sweep.
    pub(crate) name: String,
    /// The working directory in which the sweep was started.
    pub(crate) started_in: String,
    /// What chat templates that ask for the time are told, the same in all cells.
    #[serde(default)]
    pub(crate) moment: Option<Moment>,
    /// The arm that the others are compared with.
    pub(crate) baseline: String,
    /// The libraries that parts were loaded from.
    #[serde(default)]
    pub(crate) plugins: Vec<Library>,
    /// The cells, grouped by arm.
    pub(crate) cells: Vec<Cell>,
}

/// One run of a sweep.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Cell {
    /// The name of the cell and of its folder inside the sweep's folder. Its recipe is `NAME.toml`, and its
    /// output is logged to `NAME.log`.
    pub(crate) name: String,
    /// Name of its arm.
    pub(crate) arm: String,
    pub(crate) seed: u64,
    /// Its changes to the recipe, without the seed.
    pub(crate) set: Map<String, Value>,
}
