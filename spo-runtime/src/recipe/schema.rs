//! The JSON Schema of recipes: that of the types, with the parts of the registry in their places.

use serde_json::{Map, Value, json};
use spo_api::{Entry, Registry};
use spo_data::task;

use super::Recipe;

/// The key by which the types of a recipe mark where a part belongs: of which kind it is, which key names it, which
/// part is meant where none is named, and under which key its own table stands if not beside the runtime's keys.
const MARK: &str = "x-spo-part";

/// The schema of what a recipe may say with these parts: every name, every key, their types and ranges.
pub(crate) fn schema(registry: &Registry) -> Value {
    let mut schema = schemars::schema_for!(Recipe).to_value();
    let mut definitions = Definitions { registry, made: Map::new() };
    definitions.fill(&mut schema);
    let known = schema["$defs"].as_object_mut().expect("a recipe has sections of types of their own");
    known.extend(definitions.made);
    schema
}

/// The parts that were written into the schema, as definitions of their own.
struct Definitions<'r> {
    registry: &'r Registry,
    made: Map<String, Value>,
}

impl Definitions<'_> {
    /// Replaces every mark below a schema by the parts of its kind.
    fn fill(&mut self, schema: &mut Value) {
        match schema {
            Value::Array(items) => items.iter_mut().for_each(|item| self.fill(item)),
            Value::Object(table) => {
                table.values_mut().for_each(|inner| self.fill(inner));
                if let Some(mark) = table.remove(MARK) {
                    let own = table["anyOf"][1].take();
                    table.insert("anyOf".into(), Value::Array(self.alternatives(&mark, &own)));
                }
            }
            _ => {}
        }
    }

    /// A bare name, or the table of one of the parts, with the runtime's `own` keys beside the part's.
    fn alternatives(&mut self, mark: &Value, own: &Value) -> Vec<Value> {
        let parts = self.parts(mark["kind"].as_str().unwrap_or_default());
        let key = mark["name"].as_str().unwrap_or_default();
        let of = |schema: &Value| schema["properties"].as_object().cloned().unwrap_or_default();
        let names: Vec<Value> = parts.iter().flat_map(|part| part.names.clone()).collect();
        let mut alternatives = vec![json!({ "enum": names })];
        for Part { names, schema: mut table } in parts {
            let required = |schema: &Value| schema["required"].as_array().cloned().unwrap_or_default();
            let named = (names[0] != mark["default"]).then(|| json!(key)).into_iter();
            let mut properties = of(own);
            match mark["under"].as_str() {
                Some(under) => {
                    properties.insert(under.to_owned(), table.clone());
                    table = json!({ "type": "object", "description": table["description"] });
                }
                None => properties.extend(of(&table)),
            }
            properties.insert(key.to_owned(), json!({ "enum": names }));
            table["required"] = named.chain(required(own)).chain(required(&table)).collect();
            table["properties"] = Value::Object(properties);
            table["additionalProperties"] = json!(false);
            alternatives.push(table);
        }
        alternatives
    }

    fn parts(&mut self, kind: &str) -> Vec<Part> {
        if kind == "task" {
            let parts = task::schemas().map(|(name, schema)| (vec![json!(name)], schema.to_value()));
            return parts.map(|(names, schema)| self.part(kind, names, schema)).collect();
        }
        let entries: Vec<&Entry> = self.registry.iter().filter(|entry| entry.build.kind() == kind).collect();
        let names = |entry: &Entry| {
            std::iter::once(entry.name).chain(entry.aliases.iter().copied()).map(Value::from).collect()
        };
        entries.into_iter().map(|entry| self.part(kind, names(entry), (entry.schema)().to_value())).collect()
    }

    /// A part whose definitions are put beside those of the recipe, under names that no other has.
    fn part(&mut self, kind: &str, names: Vec<Value>, mut schema: Value) -> Part {
        let prefix = format!("{kind}.{}.", names[0].as_str().unwrap_or_default());
        rename(&mut schema, &prefix);
        let table = schema.as_object_mut().expect("the schema of a part is a table");
        table.remove("$schema");
        if let Some(Value::Object(definitions)) = table.remove("$defs") {
            let definitions = definitions.into_iter().map(|(name, inner)| (format!("{prefix}{name}"), inner));
            self.made.extend(definitions);
        }
        Part { names, schema }
    }
}

/// A part: its names and the schema of its own table.
struct Part {
    names: Vec<Value>,
    schema: Value,
}

/// Puts a prefix before the name of every definition that a schema refers to.
fn rename(schema: &mut Value, prefix: &str) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, prefix)),
        Value::Object(table) => {
            if let Some(Value::String(reference)) = table.get_mut("$ref") {
                *reference = reference.replacen("#/$defs/", &format!("#/$defs/{prefix}"), 1);
            }
            table.values_mut().for_each(|inner| rename(inner, prefix));
        }
        _ => {}
    }
}
