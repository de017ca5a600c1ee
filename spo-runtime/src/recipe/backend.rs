//! The recipe's `backend`.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::part::text_or_table;

/// `[backend]`: the engine. `backend = "tch"` is short for a table with a name alone.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Backend")]
pub(crate) struct BackendSpec {
    /// Name of a registered backend; `spo-run list` shows them.
    pub(crate) name: String,
    /// `auto`, `cpu`, `cuda`, `cuda:1`, `metal`.
    pub(crate) device: String,
    /// Type of weights and activations: `f32`, or `bf16` where the device has it.
    pub(crate) dtype: String,
    /// The backend's own options; `spo-run describe NAME` shows them.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub(crate) options: Map<String, Value>,
}

impl Default for BackendSpec {
    fn default() -> Self {
        BackendSpec { name: "candle".into(), device: "auto".into(), dtype: "f32".into(), options: Map::new() }
    }
}

/// Reads a backend from its name or its table.
pub(super) fn name_or_table<'de, D: Deserializer<'de>>(from: D) -> Result<BackendSpec, D::Error> {
    text_or_table(from, "the name of a backend or a table", |name| BackendSpec {
        name: name.to_owned(),
        ..BackendSpec::default()
    })
}

/// The schema of both forms.
pub(super) fn schema(generator: &mut SchemaGenerator) -> Schema {
    let table = BackendSpec::json_schema(generator);
    let default = BackendSpec::default().name;
    json_schema!({
        "anyOf": [{ "type": "string" }, table],
        "x-spo-part": { "kind": "backend", "name": "name", "default": default, "under": "options" },
    })
}
