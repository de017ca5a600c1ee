//! The engine that a recipe runs on.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// `[backend]`: the engine. `backend = "tch"` is short for a table with a name alone.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct BackendChoice {
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

impl Default for BackendChoice {
    fn default() -> Self {
        BackendChoice {
            name: "candle".into(),
            device: "auto".into(),
            dtype: "f32".into(),
            options: Map::new(),
        }
    }
}

/// Reads a backend from its name or its table.
pub(super) fn name_or_table<'de, D: Deserializer<'de>>(from: D) -> Result<BackendChoice, D::Error> {
    struct Either;

    impl<'de> Visitor<'de> for Either {
        type Value = BackendChoice;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("the name of a backend or a table")
        }

        fn visit_str<E>(self, name: &str) -> Result<BackendChoice, E> {
            Ok(BackendChoice { name: name.to_owned(), ..BackendChoice::default() })
        }

        fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<BackendChoice, A::Error> {
            BackendChoice::deserialize(MapAccessDeserializer::new(table))
        }
    }

    from.deserialize_any(Either)
}

/// The schema of either form.
pub(super) fn schema(generator: &mut SchemaGenerator) -> Schema {
    let table = generator.subschema_for::<BackendChoice>();
    json_schema!({ "anyOf": [{ "type": "string" }, table] })
}
