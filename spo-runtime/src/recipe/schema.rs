//! The JSON Schema of recipes: the schema of their types, with the registry's parts filled in.

use serde_json::{Map, Value, json};
use spo_api::{Entry, Registry};
use spo_data::task;

use super::Recipe;

/// The key by which a recipe's types mark the place of a part. Its value gives the kind of part, the key that
/// holds the name, the default part, and the key of the part's own table if it is separate from the runtime's
/// keys.
const MARK: &str = "x-spo-part";

/// The prefix of definitions for recipes that extend others.
const EXTENDING: &str = "extending.";

/// The schema of recipes with these parts: all names and keys, with their types and ranges. A recipe that extends
/// another may leave out what that one has; any other is complete.
pub(crate) fn schema(registry: &Registry) -> Value {
    let mut recipe = schemars::schema_for!(Recipe).to_value();
    let mut definitions = Definitions { registry, made: Map::new() };
    definitions.fill(&mut recipe);
    let table = recipe.as_object_mut().expect("the schema of a recipe is a table");
    let dialect = table.shift_remove("$schema");
    let sections = table.shift_remove("$defs");
    let mut known = sections.and_then(|known| known.as_object().cloned()).unwrap_or_default();
    known.extend(definitions.made);

    let mut extending = json!({ "recipe": recipe, "known": known });
    rename(&mut extending, EXTENDING);
    require_nothing(&mut extending);
    let part = &mut extending["known"];
    part["Stage"]["required"] = json!(["name"]);
    let part = part.as_object().into_iter().flatten().map(|(name, of)| (format!("{EXTENDING}{name}"), of));
    let part: Vec<(String, Value)> = part.map(|(name, of)| (name, of.clone())).collect();
    known.insert("Recipe".into(), recipe);
    known.extend(part);

    // Editors complete keys from what stands at the root, and not from what is below a condition.
    let mut schema = extending["recipe"].take();
    schema["$schema"] = dialect.into();
    schema["if"] = json!({ "required": ["extends"] });
    schema["else"] = json!({ "$ref": "#/$defs/Recipe" });
    schema["$defs"] = Value::Object(known);
    schema
}

/// Lets all keys be left out.
fn require_nothing(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(require_nothing),
        Value::Object(table) => {
            // A key may be called `required` too.
            if table.get("required").is_some_and(Value::is_array) {
                table.shift_remove("required");
            }
            table.values_mut().for_each(require_nothing);
        }
        _ => {}
    }
}

/// The parts that were added to the schema, as separate definitions.
struct Definitions<'r> {
    registry: &'r Registry,
    made: Map<String, Value>,
}

impl Definitions<'_> {
    /// Replaces every mark inside a schema with the parts of its kind.
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

    /// A bare name, or the table of one of the parts, including the runtime's `own` keys.
    fn alternatives(&mut self, mark: &Value, own: &Value) -> Vec<Value> {
        let kind = mark["kind"].as_str().unwrap_or_default();
        let parts = self.parts(kind);
        let own = &self.apart(kind, own);
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
            let name = properties.entry(key).or_insert_with(|| json!({}));
            name["enum"] = json!(names);
            table["required"] = named.chain(required(own)).chain(required(&table)).collect();
            table["properties"] = Value::Object(properties);
            table["additionalProperties"] = json!(false);
            alternatives.push(table);
        }
        alternatives
    }

    /// The runtime's keys of a kind of part. What is large is defined once, for it would be repeated in every part.
    fn apart(&mut self, kind: &str, own: &Value) -> Value {
        let mut own = own.clone();
        for (key, value) in own["properties"].as_object_mut().into_iter().flatten() {
            let Some(alternatives) = value.as_object_mut().and_then(|value| value.shift_remove("anyOf"))
            else {
                continue;
            };
            let name = format!("{kind}.own.{key}");
            value["$ref"] = format!("#/$defs/{name}").into();
            self.made.insert(name, json!({ "anyOf": alternatives }));
        }
        own
    }

    fn parts(&mut self, kind: &str) -> Vec<Part> {
        if kind == "task" {
            let parts = task::schemas().map(|(name, schema)| (vec![json!(name)], schema.to_value()));
            return parts.map(|(names, schema)| self.part(kind, names, schema)).collect();
        }
        let entries: Vec<&Entry> = self.registry.iter().filter(|entry| entry.build.kind() == kind).collect();
        entries
            .into_iter()
            .map(|entry| {
                self.part(kind, entry.names().map(Value::from).collect(), (entry.schema)().to_value())
            })
            .collect()
    }

    /// A part. Its definitions are moved next to the recipe's, under unique names.
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

/// The names of a part, and the schema of its own table.
struct Part {
    names: Vec<Value>,
    schema: Value,
}

/// Adds a prefix to the names of all definitions that a schema refers to.
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use spo_backend_candle as _;
    use spo_backend_tabular as _;

    use super::*;
    use crate::recipe::document::Document;

    fn validator() -> jsonschema::Validator {
        jsonschema::validator_for(&schema(&Registry::linked().unwrap())).unwrap()
    }

    /// The project's recipes, with their names.
    fn recipes() -> Vec<(String, Value)> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes");
        let folders = [folder.clone(), folder.join("evidence")];
        let files = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap());
        let files = files.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some());
        let read = |path: std::path::PathBuf| {
            let document = Document::read(&path, &[]).unwrap().to_toml().unwrap();
            (
                path.display().to_string(),
                serde_json::to_value(toml::from_str::<toml::Value>(&document).unwrap()).unwrap(),
            )
        };
        files.map(read).collect()
    }

    #[test]
    fn every_part_and_its_keys_are_in_the_schema() {
        let registry = Registry::linked().unwrap();
        let schema = schema(&registry).to_string();
        for entry in registry.iter() {
            assert!(schema.contains(&format!("\"{}\"", entry.name)), "{}", entry.name);
            let own = (entry.schema)();
            for key in own.as_value()["properties"].as_object().into_iter().flatten().map(|(key, _)| key) {
                assert!(schema.contains(&format!("\"{key}\":")), "{}: {key}", entry.name);
            }
        }
    }

    #[test]
    fn the_recipes_of_the_project_are_valid() {
        let (validator, recipes) = (validator(), recipes());
        assert!(recipes.len() > 15);
        for (name, recipe) in recipes {
            let errors: Vec<String> = validator.iter_errors(&recipe).map(|error| error.to_string()).collect();
            assert!(errors.is_empty(), "{name}: {errors:?}");
        }
    }

    #[test]
    fn what_extends_another_recipe_may_leave_out_what_that_one_has() {
        let validator = validator();
        let recipe = json!({
            "extends": "base.toml",
            "stage": [{ "name": "align", "objective": { "beta": 0.2 }, "optimizer": { "warmup": 0.1 } }],
        });
        assert!(validator.is_valid(&recipe));
        let without = |key: &str| {
            let mut recipe = recipe.clone();
            recipe.as_object_mut().unwrap().remove(key);
            recipe
        };
        assert!(validator.is_valid(&without("stage")));
        assert!(!validator.is_valid(&without("extends")));
        for stage in [
            json!({ "batch_size": 2 }),
            json!({ "name": "align", "bach_size": 2 }),
            json!({ "name": "align", "objective": { "bta": 1 } }),
        ] {
            assert!(!validator.is_valid(&json!({ "extends": "base.toml", "stage": [stage] })), "{stage}");
        }
    }

    #[test]
    fn a_misspelt_key_or_name_of_a_part_is_marked() {
        let validator = validator();
        let recipe = |stage: Value, more: Value| {
            let mut recipe = json!({
                "model": { "path": "m" },
                "data": { "train": "t.jsonl" },
                "stage": [{ "name": "s", "objective": "dpo", "optimizer": { "lr": 1e-5 } }],
            });
            recipe["stage"][0].as_object_mut().unwrap().extend(stage.as_object().unwrap().clone());
            recipe.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            recipe
        };
        let none = json!({});
        for stage in [
            json!({ "objective": { "name": "dpo", "beta": 0.1 } }),
            json!({ "objective": [{ "name": "sft", "weight": 0.5 }, "simpo"] }),
            json!({ "bilevel": { "step": "penalty", "lambda": 1.0, "lower": [{ "name": "sft", "data": "x.jsonl" }] } }),
            json!({ "optimizer": { "name": "sgd", "lr": 0.1, "momentum": 0.9, "schedule": { "name": "polynomial", "power": 2.0 } } }),
            json!({ "optimizer": { "lr": 0.1, "warmup": { "steps": 10 } } }),
        ] {
            assert!(validator.is_valid(&recipe(stage.clone(), none.clone())), "{stage}");
        }
        for stage in [
            json!({ "objective": { "name": "dpo", "bta": 0.1 } }),
            json!({ "objective": { "name": "dpo", "beta": 0 } }),
            json!({ "objective": "dpoo" }),
            json!({ "objective": { "beta": 0.1 } }),
            json!({ "objective": [{ "name": "sft", "wieght": 0.5 }] }),
            json!({ "bilevel": { "step": "penalty", "lamda": 1.0 } }),
            json!({ "bilevel": { "step": "penalty", "lower": { "name": "sft", "wight": 1 } } }),
            json!({ "optimizer": { "lr": 0.1, "warm_up": 0.1 } }),
            json!({ "optimizer": { "name": "adamv", "lr": 0.1 } }),
            json!({ "optimizer": { "lr": 0.1, "schedule": "cosin" } }),
            json!({ "optimizer": { "lr": 0.1, "warmup": 2.0 } }),
        ] {
            assert!(!validator.is_valid(&recipe(stage.clone(), none.clone())), "{stage}");
        }
        let task = |name: &str, key: &str| json!({ "data": { "task": { "name": name, key: 4 } } });
        assert!(validator.is_valid(&recipe(none.clone(), task("codewords", "letters"))));
        assert!(!validator.is_valid(&recipe(none.clone(), task("codewords", "leters"))));
        assert!(!validator.is_valid(&recipe(none.clone(), task("codeword", "letters"))));
        let backend = |name: &str, options: Value| json!({ "backend": { "name": name, "options": options } });
        assert!(validator.is_valid(&recipe(none.clone(), backend("candle", json!({ "memory": 6.0 })))));
        assert!(!validator.is_valid(&recipe(none.clone(), backend("candle", json!({ "memry": 6.0 })))));
        assert!(!validator.is_valid(&recipe(none, backend("candel", json!({})))));
    }
}
