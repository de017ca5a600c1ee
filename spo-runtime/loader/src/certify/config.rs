//! What every kind of part owes: an entry that can be listed, and a configuration that is checked.

use serde_json::{Map, Value, json};
use spo_api::Entry;

use super::Outcome;

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
    if let Some(given) = given {
        return entry
            .build
            .check(given)
            .map(|()| given.clone())
            .map_err(|e| format!("it refuses --config: {e}"));
    }
    let config = required(schema, schema);
    entry.build.check(&config).map_err(|e| {
        format!("it cannot be made from {config}: {e}; if keys are required, say their values with --config")
    })?;
    Ok(config)
}

/// A value that a schema allows.
fn guess(schema: &Value, root: &Value) -> Value {
    let told = schema.get("default").or_else(|| schema["examples"].get(0));
    told.cloned().or_else(|| choices(schema, root).into_iter().next()).unwrap_or_default()
}

/// Values that a schema allows, one for each way in which they may differ in kind.
fn choices(schema: &Value, root: &Value) -> Vec<Value> {
    let mut found = Vec::new();
    if let Some(name) = schema["$ref"].as_str().and_then(|target| target.strip_prefix("#/$defs/")) {
        found.extend(choices(&root["$defs"][name], root));
    }
    for alternative in ["anyOf", "oneOf"].iter().filter_map(|word| schema[*word].as_array()).flatten() {
        found.extend(choices(alternative, root));
    }
    found.extend(schema["enum"].as_array().into_iter().flatten().chain(schema.get("const")).cloned());
    if !found.is_empty() {
        return found;
    }
    // A key that need not be there is of its type or null.
    let kind = schema["type"].as_str().or_else(|| schema["type"][0].as_str()).unwrap_or_default();
    match kind {
        "boolean" => vec![json!(false), json!(true)],
        "string" => vec![json!("a")],
        "array" => vec![json!([])],
        "object" => vec![required(schema, root)],
        "number" | "integer" => {
            let bound = |name: &str| schema[name].as_f64();
            let low = bound("minimum").or(bound("exclusiveMinimum").map(|b| b + 0.1));
            let high = bound("maximum").or(bound("exclusiveMaximum").map(|b| b - 1e-3));
            let x = match (low, high) {
                (Some(low), Some(high)) => (low + high) / 2.0,
                (Some(low), None) => low,
                (None, Some(high)) => high.min(1.0),
                (None, None) => 1.0,
            };
            let next = if high.is_none_or(|high| x + 1.0 <= high) { vec![x, x + 1.0] } else { vec![x] };
            let number = |x: f64| if kind == "integer" { json!(x.ceil() as i64) } else { json!(x) };
            next.into_iter().map(number).collect()
        }
        _ => vec![],
    }
}

/// The table with the keys that a schema requires, and no others.
fn required(schema: &Value, root: &Value) -> Value {
    let keys = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    keys.map(|key| (key.to_owned(), guess(&schema["properties"][key], root))).collect::<Map<_, _>>().into()
}

/// Tables that a part accepts: with the keys it requires, and with every choice of every key, alone and two at a
/// time. For tests that are to see all that a part can do.
pub fn modes(entry: &Entry) -> Vec<Value> {
    let schema = (entry.schema)();
    let schema = schema.as_value();
    let base = required(schema, schema);
    let mut settings = Vec::new();
    for (key, property) in schema["properties"].as_object().into_iter().flatten() {
        let usual = base.get(key).or_else(|| property.get("default"));
        let mut others = choices(property, schema);
        others.retain(|value| Some(value) != usual && !value.is_null());
        // One number beside the usual one is enough.
        let number = others.iter().find(|value| value.is_number()).cloned();
        others.retain(|value| !value.is_number());
        settings.extend(number.into_iter().chain(others).map(|value| (key, value)));
    }
    let with = |table: &Value, (key, value): &(&String, Value)| {
        let mut table = table.clone();
        table[key.as_str()] = value.clone();
        table
    };
    let mut modes = vec![base.clone()];
    for (i, one) in settings.iter().enumerate() {
        modes.push(with(&base, one));
        let others = settings[i + 1..].iter().filter(|other| other.0 != one.0);
        modes.extend(others.map(|other| with(&with(&base, one), other)));
    }
    modes.retain(|mode| entry.build.check(mode).is_ok());
    modes
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
        match entry.build.check(&config) {
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
