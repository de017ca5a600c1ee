//! `[sweep]`: many runs of one recipe.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use spo_api::ConfigError;

use super::name;

/// The most cells of a sweep. Every cell is checked, and listed, before the first begins.
const MOST_CELLS: usize = 10_000;

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
        let grid = self.grid.values().filter_map(Value::as_array).map(Vec::len);
        let arms = grid.fold(length.unwrap_or(1), usize::saturating_mul).saturating_add(self.case.len());
        let cells = arms.saturating_mul(self.seeds.len().max(1));
        if cells > MOST_CELLS {
            let message = format!("comes to {cells} cells, at most {MOST_CELLS} are possible");
            return Err(ConfigError::at("sweep", message));
        }
        for (i, case) in self.case.iter().enumerate() {
            name::check(&format!("sweep.case[{i}].name"), &case.name)?;
        }
        let mut seeds = self.seeds.clone();
        seeds.sort_unstable();
        if let Some(twice) = seeds.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(ConfigError::at("sweep.seeds", format!("names {} twice", twice[0])));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn cells_are_counted_before_they_are_made() {
        let ten: Vec<usize> = (0..10).collect();
        let sweep = |keys: usize, seeds: u64| Sweep {
            grid: (0..keys).map(|i| (format!("stage.0.k{i}"), json!(ten))).collect(),
            seeds: (0..seeds).collect(),
            ..Sweep::default()
        };
        assert_eq!(sweep(3, 10).validate(), Ok(()));
        for (keys, seeds, cells) in
            [(9, 1, "1000000000"), (4, 2, "20000"), (0, 20_000, "20000"), (30, 3, "18446744073709551615")]
        {
            let error = sweep(keys, seeds).validate().unwrap_err();
            assert!(error.message.contains(&format!("comes to {cells} cells")), "{error}");
        }
    }
}
