//! What every kind of part owes: an entry that can be listed, and a configuration that is checked.

use serde_json::{Map, Value, json};
use spo_api::{Build, ConfigError, Entry};

use super::Outcome;

/// Builds the part and throws it away.
fn build(entry: &Entry, config: &Value) -> Result<(), ConfigError> {
    match entry.build {
        Build::Objective(build) => build(config).map(drop),
        Build::Step(build) => build(config).map(drop),
        Build::Optimizer(build) => build(config).map(drop),
        Build::Schedule(build) => build(config).map(drop),
        Build::Backend(build) => build(config).map(drop),
    }
}

/// The name, the words and the schema of an entry.
pub(super) fn entry(entry: &Entry, schema: &Value) -> Result<String, Outcome> {
    for (what, text) in [("summary", entry.summary), ("source", entry.source)] {
        if text.trim().is_empty() || text.contains('\n') {
            return Err(format!("its {what} must be one line that is not empty, got {text:?}").into());
        }
    }
    if schema["type"] != "object" {
        let message = "its schema must describe a table: `\"type\": \"object\"` with `properties`";
        return Err(message.to_owned().into());
    }
    let properties = schema["properties"].as_object();
    let silent =
        properties.into_iter().flatten().find(|(_, p)| p["description"].as_str().unwrap_or("").is_empty());
    if let Some((key, _)) = silent {
        return Err(format!("its key `{key}` has no description: `spo-run describe` would show none").into());
    }
    if schema["description"].as_str().unwrap_or("").is_empty() {
        let message = "its schema has no description, from which `spo-run describe` tells the formula; in Rust, a doc \
                       comment on the type";
        return Err(message.to_owned().into());
    }
    Ok(format!("{} keys, all described", properties.map_or(0, Map::len)))
}

/// A configuration that the part accepts: the author's, the defaults, or a guess at required keys.
pub(super) fn usable(entry: &Entry, schema: &Value, given: Option<&Value>) -> Result<Value, String> {
    let mut config = Map::new();
    if let Some(given) = given {
        return build(entry, given).map(|()| given.clone()).map_err(|e| format!("it refuses --config: {e}"));
    }
    for key in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        config.insert(key.to_owned(), guess(&schema["properties"][key]));
    }
    let config = Value::Object(config);
    build(entry, &config).map_err(|e| {
        format!("it cannot be made from {config}: {e}; if keys are required, say their values with --config")
    })?;
    Ok(config)
}

/// A value that a schema allows.
fn guess(schema: &Value) -> Value {
    if let Some(value) =
        schema.get("default").or_else(|| schema["examples"].get(0)).or_else(|| schema["enum"].get(0))
    {
        return value.clone();
    }
    let bound = |name: &str| schema[name].as_f64();
    match schema["type"].as_str() {
        Some("boolean") => json!(false),
        Some("string") => json!("a"),
        Some("array") => json!([]),
        Some("object") => json!({}),
        kind => {
            let low = bound("minimum").or(bound("exclusiveMinimum").map(|b| b + 0.1));
            let high = bound("maximum").or(bound("exclusiveMaximum").map(|b| b - 1e-3));
            let x = match (low, high) {
                (Some(low), Some(high)) => (low + high) / 2.0,
                (Some(low), None) => low,
                (None, Some(high)) => high.min(1.0),
                (None, None) => 1.0,
            };
            if kind == Some("integer") { json!(x.ceil() as i64) } else { json!(x) }
        }
    }
}

/// Mistakes that must be refused, with the key at fault in the message.
pub(super) fn refusals(
    entry: &Entry,
    schema: &Value,
    usable: Result<Value, String>,
) -> Result<String, Outcome> {
    let usable = usable?;
    let mut refused = 0;
    let mut must_refuse = |key: &str, value: Value, why: &str| -> Result<(), Outcome> {
        let mut config = usable.clone();
        config[key] = value.clone();
        match build(entry, &config) {
            Ok(()) => Err(format!("it accepts `{key} = {value}`, {why}: a mistake in a recipe would go unseen").into()),
            Err(e) if e.key.as_deref().is_some_and(|k| k.starts_with(key)) || e.message.contains(key) => {
                refused += 1;
                Ok(())
            }
            Err(e) => Err(format!(
                "it refuses `{key} = {value}` with the message \"{e}\", which does not name the key: report the key beside \
                 the message"
            )
            .into()),
        }
    };
    must_refuse("no_such_key", json!(1), "a key it does not have")?;
    for (key, property) in schema["properties"].as_object().into_iter().flatten() {
        if matches!(property["type"].as_str(), Some("number" | "integer" | "boolean" | "string")) {
            must_refuse(key, json!({"no": ["such", "value"]}), "a table where a value belongs")?;
        }
        for (bound, past, why) in [
            ("minimum", -1.0, "less than the schema's minimum"),
            ("exclusiveMinimum", 0.0, "not greater than the schema's bound"),
            ("maximum", 1.0, "more than the schema's maximum"),
            ("exclusiveMaximum", 0.0, "not less than the schema's bound"),
        ] {
            if let Some(bound) = property[bound].as_f64() {
                let past = bound + past;
                let whole = property["type"] == "integer";
                must_refuse(key, if whole { json!(past as i64) } else { json!(past) }, why)?;
            }
        }
    }
    Ok(format!("made from {usable}; {refused} mistakes refused, each by its key"))
}
