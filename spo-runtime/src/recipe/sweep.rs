//! `[sweep]`: many runs of one recipe.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use spo_api::ConfigError;

/// `[sweep]`: many runs of one recipe, cell by cell, and what they come to. Keys of the recipe are named as
/// for `--set`; a cell is an arm (a choice of values) with a seed.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Sweep {
    /// Every combination of these values: `"stage.align.objective" = ["dpo", { name = "ipo", beta = 0.1 }]`.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub(crate) grid: Map<String, Value>,
    /// Lists of one length whose values go together, first with first; crossed with the grid.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub(crate) zip: Map<String, Value>,
    /// Further arms by name, each with its own changes:
    /// `{ name = "long", set = { "stage.align.epochs" = 3 } }`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) case: Vec<Case>,
    /// Run every arm with each of these seeds; with `run.seed` alone unless given.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) seeds: Vec<u64>,
    /// The arm that the others are compared with; the first unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) baseline: Option<String>,
    /// Cells that run at the same time, each in a process of its own; the cores are divided between them.
    #[schemars(range(min = 1))]
    pub(crate) jobs: usize,
    /// Memory for all cells together, GiB. Then one cell runs alone first and shows how much one takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub(crate) memory: Option<f64>,
    /// What the table at the end shows of the last stage; held-out figures unless given.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) metrics: Vec<String>,
}

impl Default for Sweep {
    fn default() -> Self {
        Sweep {
            grid: Map::new(),
            zip: Map::new(),
            case: Vec::new(),
            seeds: Vec::new(),
            baseline: None,
            jobs: 1,
            memory: None,
            metrics: Vec::new(),
        }
    }
}

/// `sweep.case`: an arm by name.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    /// Its name.
    pub(crate) name: String,
    /// What it changes.
    #[serde(default)]
    pub(crate) set: Map<String, Value>,
}

impl Sweep {
    /// Checks rules that involve several keys.
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if self.grid.is_empty() && self.zip.is_empty() && self.case.is_empty() && self.seeds.is_empty() {
            return Err(ConfigError::at("sweep", "needs `grid`, `zip`, `case` or `seeds`"));
        }
        let mut length = None;
        for (section, table) in [("grid", &self.grid), ("zip", &self.zip)] {
            for (path, values) in table {
                let at = |message: String| ConfigError::at(format!("sweep.{section}.{path}"), message);
                let values = match values {
                    Value::Array(values) if !values.is_empty() => values,
                    other => return Err(at(format!("must be a list of values to try, got {other}"))),
                };
                if section == "zip" && *length.get_or_insert(values.len()) != values.len() {
                    let expected = length.unwrap_or_default();
                    return Err(at(format!(
                        "has {} values, the list before it has {expected}",
                        values.len()
                    )));
                }
            }
        }
        for (i, case) in self.case.iter().enumerate() {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+".contains(c);
            if case.name.is_empty() || !case.name.chars().all(plain) {
                let message = "must be letters, digits, `-`, `_`, `=` and `+`: it names a folder";
                return Err(ConfigError::at(format!("sweep.case[{i}].name"), message));
            }
        }
        let mut seeds = self.seeds.clone();
        seeds.sort_unstable();
        if let Some(twice) = seeds.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(ConfigError::at("sweep.seeds", format!("names {} twice", twice[0])));
        }
        Ok(())
    }
}
