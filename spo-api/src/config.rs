//! Configuration of parts: a JSON table that is checked against the part's type and schema.

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// An invalid configuration. The runtime translates `key` to a position in the recipe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[error("{}{message}", key.as_ref().map(|k| format!("{k}: ")).unwrap_or_default())]
pub struct ConfigError {
    /// The kind of mistake, for code that must distinguish them.
    pub kind: ConfigErrorKind,
    /// Path of the offending key within the part's table (`value.steps`); `None` for the whole table.
    pub key: Option<String>,
    /// What is wrong and what was expected.
    pub message: String,
    /// The nearest valid choice, if there is one.
    pub suggestion: Option<String>,
}

/// Kinds of mistakes in a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigErrorKind {
    /// A key that the table does not have.
    UnknownKey,
    /// An unknown name of a part or of a choice.
    UnknownName,
    /// A required key is missing.
    MissingKey,
    /// A value has the wrong type for its key.
    WrongType,
    /// A number is outside the range of its key.
    OutOfRange,
    /// Anything else, such as a rule that spans several keys.
    Other,
}

impl ConfigError {
    /// An error about one key.
    pub fn at(key: impl Into<String>, message: impl Into<String>) -> Self {
        ConfigError { key: Some(key.into()), ..ConfigError::whole(message) }
    }

    /// An error about the table as a whole.
    pub fn whole(message: impl Into<String>) -> Self {
        ConfigError { kind: ConfigErrorKind::Other, key: None, message: message.into(), suggestion: None }
    }

    /// The same error with another kind.
    pub fn of_kind(self, kind: ConfigErrorKind) -> Self {
        ConfigError { kind, ..self }
    }

    /// There is no `what` with this name. The message lists `names`; the suggestion may also be an alias.
    pub fn unknown_name(what: &str, name: &str, names: &[&str], aliases: &[&str]) -> Self {
        let message = format!("unknown {what} `{name}`, expected one of {}", names.join(", "));
        let suggestion = nearest(name, names.iter().chain(aliases).copied()).map(str::to_owned);
        ConfigError { suggestion, ..ConfigError::whole(message).of_kind(ConfigErrorKind::UnknownName) }
    }
}

/// A part that is its own configuration. Its public fields are the keys of its table in the recipe, and
/// their doc comments are the help texts. Its own doc comment is printed by `spo-run describe` (formula
/// first).
///
/// Derive `Deserialize` with `#[serde(deny_unknown_fields)]`, give optional keys a `#[serde(default)]`, and
/// state ranges in the schema (`#[schemars(range(min = 0, max = 1))]`,
/// `#[schemars(extend("exclusiveMinimum" = 0))]`); they are enforced. State that is not configuration has
/// `#[serde(skip)]`.
pub trait Part: DeserializeOwned + JsonSchema {
    /// Checks rules that involve several keys.
    ///
    /// # Errors
    /// A [`ConfigError`] that names the key to change.
    fn validate(&self) -> Result<(), ConfigError> {
        Ok(())
    }
}

/// Builds a part from its table.
///
/// # Errors
/// [`ConfigError`] for unknown keys, wrong types, numbers outside the range stated in the schema, and
/// anything that [`Part::validate`] rejects.
pub fn parse<P: Part>(config: &Value) -> Result<P, ConfigError> {
    let schema = schemars::schema_for!(P);
    let schema = schema.as_value();
    // serde would read a list as a table without keys.
    check_lists(config, schema, schema, "")?;
    let part: P = serde_path_to_error::deserialize(config).map_err(|error| {
        let path = error.path().to_string();
        let key = (path != "." && !path.is_empty()).then_some(path);
        refusal(config, schema, key, error.inner().to_string())
    })?;
    // Checked after deserialization, so that a wrong type is reported as such.
    check_ranges(config, schema, schema, "")?;
    part.validate()?;
    Ok(part)
}

/// Converts an error of serde. Comparing the table with the schema gives the kind of mistake and the
/// nearest valid choice.
fn refusal(config: &Value, schema: &Value, key: Option<String>, message: String) -> ConfigError {
    // A choice that requires a value was given as a bare name: serde's path then includes the name.
    if let Some((parent, choice)) = key.as_deref().and_then(|key| key.rsplit_once('.'))
        && segments(parent).try_fold(config, at) == Some(&Value::from(choice))
    {
        let message = format!("`{choice}` needs a value, as in `{{ {choice} = ... }}`");
        return ConfigError::at(parent, message).of_kind(ConfigErrorKind::WrongType);
    }
    let (kind, suggestion) = diagnose(config, schema, key.as_deref());
    let found = segments(key.as_deref().unwrap_or_default()).try_fold(config, at);
    let message = found.and_then(|found| of_wrong_type(&message, found)).unwrap_or(message);
    ConfigError { kind, key, message, suggestion: suggestion.map(str::to_owned) }
}

/// What serde says of a value of a wrong type, which is about types of Rust, in words of a recipe.
fn of_wrong_type(message: &str, found: &Value) -> Option<String> {
    let rest = ["invalid type: ", "invalid value: "].iter().find_map(|begin| message.strip_prefix(begin))?;
    let (_, expected) = rest.rsplit_once(", expected ")?;
    let expected = match expected {
        "u8" | "u32" | "u64" | "usize" => "a whole number of 0 or more",
        "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" | "a JSON number" => "a number",
        "a boolean" => "true or false",
        "a string" => "a text",
        "a sequence" => "a list",
        "a map" => "a table",
        "map with a single key" => "a table with one key",
        "string or map" => "a name, or a table with one key",
        name if name.starts_with("struct ") => "a table",
        other => other,
    };
    let found = match found {
        Value::Object(table) if table.is_empty() => "an empty table".to_owned(),
        Value::Object(table) if expected == "a table with one key" => {
            table.keys().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(" and ")
        }
        Value::Object(_) => "a table".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        other => other.to_string(),
    };
    Some(format!("expected {expected}, got {found}"))
}

/// The kind of mistake at a rejected key, according to the schema at that position, and the nearest valid
/// choice.
pub(crate) fn diagnose<'a>(
    config: &Value,
    schema: &'a Value,
    key: Option<&str>,
) -> (ConfigErrorKind, Option<&'a str>) {
    let mut value = Some(config);
    let mut readings = self::readings([schema], schema);
    for segment in segments(key.unwrap_or_default()) {
        let inner: Vec<_> = readings.iter().filter_map(|reading| schema_at(reading, segment)).collect();
        if inner.is_empty() {
            return (ConfigErrorKind::UnknownKey, nearest(segment, keys(&readings)));
        }
        value = value.and_then(|value| at(value, segment));
        readings = self::readings(inner, schema);
    }
    let Some(value) = value else { return (ConfigErrorKind::Other, None) };
    let unknown = |word| {
        let choices = readings.iter().flat_map(|reading| choices(reading)).chain(keys(&readings));
        (ConfigErrorKind::UnknownName, nearest(word, choices))
    };
    let allows = |value: &Value| readings.iter().any(|reading| has_type(reading, value));
    let kind = match value {
        // A choice that requires a table was given as a bare name.
        Value::String(word) if keys(&readings).any(|known| known == word) => ConfigErrorKind::WrongType,
        Value::String(word) if readings.iter().any(|reading| choices(reading).next().is_some()) => {
            return unknown(word);
        }
        Value::Object(table) if allows(value) => {
            let any_name = readings.iter().any(|reading| reading["additionalProperties"].is_object());
            let unlisted = |key: &&String| keys(&readings).all(|known| known != *key);
            if let Some(word) = table.keys().find(unlisted).filter(|_| !any_name) {
                return unknown(word);
            }
            let lacks = |reading: &&Value| {
                let required = reading["required"].as_array().into_iter().flatten();
                required.filter_map(Value::as_str).any(|key| !table.contains_key(key))
            };
            if readings.iter().any(lacks) { ConfigErrorKind::MissingKey } else { ConfigErrorKind::Other }
        }
        value if !allows(value) => ConfigErrorKind::WrongType,
        value if readings.iter().any(|reading| beyond(reading, value).is_some()) => {
            ConfigErrorKind::OutOfRange
        }
        _ => ConfigErrorKind::Other,
    };
    (kind, None)
}

/// The keys and indices of a path like `value.steps` or `[1].beta`.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split(['.', '[']).map(|segment| segment.trim_end_matches(']')).filter(|segment| !segment.is_empty())
}

/// The value under a key or at an index.
fn at<'a>(value: &'a Value, segment: &str) -> Option<&'a Value> {
    match value {
        Value::Array(items) => items.get(segment.parse::<usize>().ok()?),
        value => value.get(segment),
    }
}

/// The schema of the value under a key or at an index.
fn schema_at<'a>(schema: &'a Value, segment: &str) -> Option<&'a Value> {
    let of_any_name = || schema.get("additionalProperties").filter(|schema| schema.is_object());
    schema["properties"].get(segment).or_else(of_any_name).or_else(|| {
        let index = segment.parse::<usize>().ok()?;
        schema["prefixItems"].get(index).or_else(|| schema.get("items"))
    })
}

/// All schemas that apply to one value, with references resolved and alternatives listed side by side.
fn readings<'a>(schemas: impl IntoIterator<Item = &'a Value>, root: &'a Value) -> Vec<&'a Value> {
    let mut found: Vec<&Value> = schemas.into_iter().collect();
    let mut next = 0;
    while let Some(&schema) = found.get(next) {
        let name = schema["$ref"].as_str().and_then(|target| target.strip_prefix("#/$defs/"));
        let target = name.and_then(|name| root["$defs"].get(name));
        let alternatives = ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|word| schema[word].as_array());
        for schema in target.into_iter().chain(alternatives.flatten()) {
            // A reference may be circular.
            if !found.iter().any(|known| std::ptr::eq(*known, schema)) {
                found.push(schema);
            }
        }
        next += 1;
    }
    found
}

/// The keys that tables may have at this position.
fn keys<'a>(readings: &[&'a Value]) -> impl Iterator<Item = &'a str> {
    readings
        .iter()
        .filter_map(|schema| schema["properties"].as_object())
        .flat_map(|map| map.keys())
        .map(|key| &**key)
}

/// The strings that a schema allows.
fn choices(schema: &Value) -> impl Iterator<Item = &str> {
    let listed = schema["enum"].as_array().into_iter().flatten();
    listed.chain(schema.get("const")).filter_map(Value::as_str)
}

/// Whether a schema states types that include the value's type.
fn has_type(schema: &Value, value: &Value) -> bool {
    let is = |kind: &Value| match kind.as_str().unwrap_or_default() {
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => value.is_null(),
    };
    match &schema["type"] {
        Value::Array(kinds) => kinds.iter().any(is),
        Value::Null => false,
        kind => is(kind),
    }
}

/// Checks a table against a schema: keys, types, choices and ranges. For parts that are not written in
/// Rust, and so cannot use [`parse`].
pub(crate) fn check_schema(config: &Value, schema: &Value) -> Result<(), ConfigError> {
    let Some(table) = config.as_object() else {
        let message = format!("expected a table, got {config}");
        return Err(ConfigError::whole(message).of_kind(ConfigErrorKind::WrongType));
    };
    let empty = serde_json::Map::new();
    let properties = schema["properties"].as_object().unwrap_or(&empty);
    for (key, value) in table {
        let Some(property) = properties.get(key) else {
            let listed: Vec<_> = properties.keys().map(|k| format!("`{k}`")).collect();
            let expected = if listed.is_empty() { "none".into() } else { listed.join(", ") };
            let message = format!("unknown field `{key}`, expected {expected}");
            let suggestion = nearest(key, properties.keys().map(String::as_str)).map(str::to_owned);
            let error = ConfigError { suggestion, ..ConfigError::at(key, message) };
            return Err(error.of_kind(ConfigErrorKind::UnknownKey));
        };
        let kinds: Vec<&str> = match &property["type"] {
            Value::String(kind) => vec![kind],
            Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
            _ => vec![],
        };
        if !kinds.is_empty() && !has_type(property, value) {
            let message = format!("expected {}, got {value}", kinds.join(" or "));
            return Err(ConfigError::at(key, message).of_kind(ConfigErrorKind::WrongType));
        }
        if let Some(words) = property["enum"].as_array().filter(|words| !words.contains(value)) {
            let suggestion = value.as_str().and_then(|word| nearest(word, choices(property)));
            let message = format!("expected one of {}, got {value}", Value::from(words.clone()));
            let error =
                ConfigError { suggestion: suggestion.map(str::to_owned), ..ConfigError::at(key, message) };
            return Err(error.of_kind(ConfigErrorKind::UnknownName));
        }
    }
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    if let Some(key) = required.into_iter().find(|key| !table.contains_key(*key)) {
        return Err(ConfigError::whole(format!("missing field `{key}`")).of_kind(ConfigErrorKind::MissingKey));
    }
    check_ranges(config, schema, schema, "")
}

/// The candidate nearest to `word` by edit distance, if it is close enough to be a likely misspelling.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|c| (strsim::damerau_levenshtein(word, c), c))
        .filter(|(distance, c)| *distance <= word.len().max(c.len()).div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, c)| c)
}

/// Describes how a number violates the bounds of a schema.
fn beyond(schema: &Value, value: &Value) -> Option<String> {
    let x = value.as_f64()?;
    let bound = |name: &str| schema[name].as_f64();
    let violated = [
        (bound("minimum").filter(|b| x < *b), "at least"),
        (bound("exclusiveMinimum").filter(|b| x <= *b), "greater than"),
        (bound("maximum").filter(|b| x > *b), "at most"),
        (bound("exclusiveMaximum").filter(|b| x >= *b), "less than"),
    ];
    let (bound, relation) = violated.into_iter().find_map(|(bound, relation)| Some((bound?, relation)))?;
    Some(format!("must be {relation} {bound}, got {value}"))
}

/// Checks that no list stands where a table is expected.
fn check_lists(value: &Value, schema: &Value, root: &Value, path: &str) -> Result<(), ConfigError> {
    let readings = readings([schema], root);
    if value.is_array() && !readings.iter().any(|reading| allows_lists(reading)) {
        let kinds = readings.iter().filter_map(|reading| reading["type"].as_str());
        let mut words: Vec<&str> = kinds.filter_map(in_words).collect();
        words.dedup();
        if words.contains(&"a table") {
            let message = format!("expected {}, got a list", words.join(" or "));
            let key = (!path.is_empty()).then(|| path.to_owned());
            let error = ConfigError { key, ..ConfigError::whole(message) };
            return Err(error.of_kind(ConfigErrorKind::WrongType));
        }
    }
    for (key, inner) in value.as_object().into_iter().flatten() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        for schema in readings.iter().filter_map(|reading| schema_at(reading, key)) {
            check_lists(inner, schema, root, &path)?;
        }
    }
    for (i, item) in value.as_array().into_iter().flatten().enumerate() {
        for schema in readings.iter().filter_map(|reading| reading.get("items")) {
            check_lists(item, schema, root, &format!("{path}[{i}]"))?;
        }
    }
    Ok(())
}

/// Whether a schema allows a list: by its type, or because it states nothing.
fn allows_lists(schema: &Value) -> bool {
    const STATEMENTS: [&str; 7] = ["type", "enum", "const", "$ref", "anyOf", "oneOf", "allOf"];
    has_type(schema, &Value::Array(Vec::new())) || STATEMENTS.iter().all(|word| schema.get(word).is_none())
}

/// A type of JSON Schema in words.
fn in_words(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "object" => "a table",
        "string" => "a text",
        "number" | "integer" => "a number",
        "boolean" => "true or false",
        _ => return None,
    })
}

/// Checks numbers against the bounds of the schema, because serde checks only types.
fn check_ranges(value: &Value, schema: &Value, root: &Value, path: &str) -> Result<(), ConfigError> {
    // Alternatives (an option, an enum) differ in type or key, so the bounds of an alternative that does
    // not apply are never violated.
    for schema in readings([schema], root) {
        if let Some(message) = beyond(schema, value) {
            return Err(ConfigError::at(path, message).of_kind(ConfigErrorKind::OutOfRange));
        }
        for (key, inner) in value.as_object().into_iter().flatten() {
            if let Some(schema) = schema["properties"].get(key) {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                check_ranges(inner, schema, root, &path)?;
            }
        }
        for (i, item) in value.as_array().into_iter().flatten().enumerate() {
            if let Some(schema) = schema.get("items") {
                check_ranges(item, schema, root, &format!("{path}[{i}]"))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Example {
        #[schemars(extend("exclusiveMinimum" = 0))]
        beta: f64,
        #[serde(default)]
        #[schemars(range(min = 0, max = 1))]
        label_smoothing: f64,
        #[serde(default)]
        mode: Mode,
        #[serde(default)]
        #[allow(dead_code, reason = "only its bounds are of interest")]
        inner: Vec<Option<Inner>>,
        #[serde(default)]
        #[allow(dead_code, reason = "only its bounds are of interest")]
        warmup: Option<Warmup>,
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(rename_all = "kebab-case", deny_unknown_fields)]
    enum Warmup {
        None,
        Linear(#[allow(dead_code, reason = "only its bounds are of interest")] Inner),
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[schemars(range(min = 1))]
        #[allow(dead_code, reason = "only its bounds are of interest")]
        steps: Option<usize>,
    }

    #[derive(Debug, Default, Deserialize, JsonSchema)]
    #[serde(rename_all = "kebab-case")]
    enum Mode {
        #[default]
        KeepStart,
        KeepEnd,
    }

    impl Part for Example {
        fn validate(&self) -> Result<(), ConfigError> {
            if self.label_smoothing > self.beta && matches!(self.mode, Mode::KeepEnd) {
                return Err(ConfigError::at("label_smoothing", "must not exceed beta"));
            }
            Ok(())
        }
    }

    fn error(config: Value) -> (Option<String>, String, Option<String>) {
        let e = parse::<Example>(&config).unwrap_err();
        (e.key, e.message, e.suggestion)
    }

    #[test]
    fn a_schema_alone_refuses_what_a_type_would() {
        let schema = json!({"properties": {
            "beta": {"type": "number", "exclusiveMinimum": 0},
            "mode": {"enum": ["mean", "sum"]},
            "steps": {"type": ["integer", "null"]},
        }, "required": ["beta"]});
        let refusal = |config| check_schema(&config, &schema).unwrap_err();
        assert_eq!(check_schema(&json!({"beta": 1, "mode": "sum", "steps": null}), &schema), Ok(()));
        for (config, words) in [
            (json!([]), "expected a table, got []"),
            (json!({}), "missing field `beta`"),
            (json!({"beta": "x"}), "beta: expected number, got \"x\""),
            (json!({"beta": 0}), "beta: must be greater than 0, got 0"),
            (json!({"beta": 1, "steps": 1.5}), "steps: expected integer or null, got 1.5"),
            (json!({"beta": 1, "bta": 2}), "bta: unknown field `bta`, expected `beta`, `mode`, `steps`"),
        ] {
            assert_eq!(refusal(config).to_string(), words);
        }
        assert_eq!(refusal(json!({"bta": 2})).suggestion.as_deref(), Some("beta"));
        assert_eq!(refusal(json!({"beta": 1, "mode": "men"})).suggestion.as_deref(), Some("mean"));
    }

    #[test]
    fn a_wrong_type_is_told_in_words() {
        for (config, words) in [
            (json!([0.1]), "expected a table, got a list"),
            (json!({"beta": 1, "inner": [[3]]}), "inner[0]: expected a table, got a list"),
            (json!({"beta": 1, "warmup": {"linear": [3]}}), "warmup.linear: expected a table, got a list"),
            (json!({"beta": 1, "warmup": {"linear": 3}}), "warmup.linear: expected a table, got 3"),
            (json!({"beta": 1, "warmup": 3}), "warmup: expected a name, or a table with one key, got 3"),
            (json!({"beta": {}}), "beta: expected a number, got an empty table"),
            (json!({"beta": "x"}), "beta: expected a number, got \"x\""),
            (json!({"beta": 1, "inner": 3}), "inner: expected a list, got 3"),
            (
                json!({"beta": 1, "inner": [{"steps": 1.5}]}),
                "inner[0].steps: expected a whole number of 0 or more, got 1.5",
            ),
        ] {
            let error = parse::<Example>(&config).unwrap_err();
            assert_eq!((error.kind, error.to_string()), (ConfigErrorKind::WrongType, words.to_owned()));
        }
        for (warmup, words) in [
            (
                json!({"linear": {}, "none": 1}),
                "warmup: expected a table with one key, got `linear` and `none`",
            ),
            (json!({}), "warmup: expected a table with one key, got an empty table"),
        ] {
            assert_eq!(
                parse::<Example>(&json!({"beta": 1, "warmup": warmup})).unwrap_err().to_string(),
                words
            );
        }
    }

    #[test]
    fn every_refusal_has_its_kind() {
        use ConfigErrorKind::*;
        for (config, kind, suggestion) in [
            (json!({"beta": 1, "label_smothing": 0.1}), UnknownKey, Some("label_smoothing")),
            (json!({"beta": 1, "warmup": {"linear": {"step": 1}}}), UnknownKey, Some("steps")),
            (json!({"beta": 1, "inner": [null, {"step": 1}]}), UnknownKey, Some("steps")),
            (json!({"beta": 1, "mode": "keep-strat"}), UnknownName, Some("keep-start")),
            (json!({"beta": 1, "warmup": "lnear"}), UnknownName, Some("linear")),
            (json!({"beta": 1, "warmup": {"lnear": {}}}), UnknownName, Some("linear")),
            (json!({}), MissingKey, None),
            (json!([]), WrongType, None),
            (json!({"beta": "x"}), WrongType, None),
            (json!({"beta": 1, "inner": 3}), WrongType, None),
            (json!({"beta": 1, "warmup": "linear"}), WrongType, None),
            (json!({"beta": 0}), OutOfRange, None),
            (json!({"beta": 1, "inner": [{"steps": -1}]}), OutOfRange, None),
            (json!({"beta": 0.1, "label_smoothing": 0.2, "mode": "keep-end"}), Other, None),
        ] {
            let error = parse::<Example>(&config).unwrap_err();
            assert_eq!((error.kind, error.suggestion.as_deref()), (kind, suggestion), "{config}: {error}");
        }
        let cyclic = json!({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}});
        assert_eq!(check_schema(&json!({}), &cyclic), Ok(()));
        assert_eq!(diagnose(&json!({"b": 1}), &cyclic, Some("b")), (UnknownKey, None));
        let any_name = json!({"type": "object", "additionalProperties": {"type": "number", "minimum": 0}});
        assert_eq!(diagnose(&json!({"b": "x"}), &any_name, Some("b")), (WrongType, None));
        assert_eq!(diagnose(&json!({"b": -1}), &any_name, Some("b")), (OutOfRange, None));
    }

    #[test]
    fn errors_name_the_key_and_the_nearest_valid_choice() {
        assert!(parse::<Example>(&json!({"beta": 1})).is_ok());
        let (key, message, suggestion) = error(json!({"beta": 0.1, "label_smothing": 0.1}));
        assert_eq!(
            (key.as_deref(), suggestion.as_deref()),
            (Some("label_smothing"), Some("label_smoothing")),
            "{message}"
        );
        let (key, _, suggestion) = error(json!({"beta": 0.1, "mode": "keep_start"}));
        assert_eq!((key.as_deref(), suggestion.as_deref()), (Some("mode"), Some("keep-start")));
        assert_eq!(
            error(json!({"beta": 0})),
            (Some("beta".into()), "must be greater than 0, got 0".into(), None)
        );
        assert_eq!(error(json!({"beta": 0.1, "label_smoothing": 2})).1, "must be at most 1, got 2");
        let nested = error(json!({"beta": 0.1, "inner": [null, {"steps": 3}, {"steps": 0}]}));
        assert_eq!(nested, (Some("inner[2].steps".into()), "must be at least 1, got 0".into(), None));
        let variant = error(json!({"beta": 0.1, "warmup": {"linear": {"steps": 0}}}));
        assert_eq!(variant.0.as_deref(), Some("warmup.linear.steps"));
        assert!(parse::<Example>(&json!({"beta": 0.1, "warmup": "none"})).is_ok());
        assert_eq!(
            error(json!({"beta": 0.1, "warmup": "linear"})),
            (Some("warmup".into()), "`linear` needs a value, as in `{ linear = ... }`".into(), None)
        );
        assert_eq!(error(json!({"beta": "x"})).0.as_deref(), Some("beta"));
        assert!(error(json!({})).1.contains("missing field `beta`"));
        assert_eq!(
            error(json!({"beta": 0.1, "label_smoothing": 0.2, "mode": "keep-end"})).1,
            "must not exceed beta"
        );
    }
}
