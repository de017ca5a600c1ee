//! Configuration of parts: one JSON table checked against the part's own type and schema.

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A configuration that cannot be used. The runtime turns `key` into a place in the recipe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", key.as_ref().map(|k| format!("{k}: ")).unwrap_or_default())]
pub struct ConfigError {
    /// Path of the offending key inside the part's table (`value.steps`); `None` for the whole table.
    pub key: Option<String>,
    /// What is wrong and what was expected.
    pub message: String,
    /// The nearest valid choice, where there is one.
    pub suggestion: Option<String>,
}

impl ConfigError {
    /// An error about one key.
    pub fn at(key: impl Into<String>, message: impl Into<String>) -> Self {
        ConfigError { key: Some(key.into()), message: message.into(), suggestion: None }
    }

    /// An error about the table as a whole.
    pub fn whole(message: impl Into<String>) -> Self {
        ConfigError { key: None, message: message.into(), suggestion: None }
    }
}

/// A part that is its own configuration: its public fields are the keys of its table in the recipe,
/// their doc comments the help, its own doc comment what `spo-run describe` prints (formula first).
///
/// Derive `Deserialize` with `#[serde(deny_unknown_fields)]`, give optional keys a
/// `#[serde(default)]`, and state ranges for the schema (`#[schemars(range(min = 0, max = 1))]`,
/// `#[schemars(extend("exclusiveMinimum" = 0))]`): they are enforced. State that is not configuration
/// carries `#[serde(skip)]`.
pub trait Part: DeserializeOwned + JsonSchema {
    /// Rules that span several keys.
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
/// [`ConfigError`] for unknown keys, wrong types, numbers outside the range that the schema states, and
/// what [`Part::validate`] rejects.
pub fn parse<P: Part>(config: &Value) -> Result<P, ConfigError> {
    let part: P = serde_path_to_error::deserialize(config).map_err(|error| {
        let path = error.path().to_string();
        let message = error.inner().to_string();
        // serde's words for a bare name where the choice wants a value along with it.
        if let ("invalid type: unit variant, expected newtype variant", Some((key, choice))) =
            (message.as_str(), path.rsplit_once('.'))
        {
            return ConfigError::at(key, format!("`{choice}` needs a value, as in `{{ {choice} = ... }}`"));
        }
        let suggestion = suggest(&message);
        ConfigError { key: (path != "." && !path.is_empty()).then_some(path), message, suggestion }
    })?;
    // After serde, so that a wrong type is reported as such.
    let schema = schemars::schema_for!(P);
    check_ranges(config, schema.as_value(), schema.as_value(), "")?;
    part.validate()?;
    Ok(part)
}

/// Holds a table against a schema: keys, types, choices and ranges. For parts that are not Rust, and so
/// have no [`parse`] of their own.
pub(crate) fn check_schema(config: &Value, schema: &Value) -> Result<(), ConfigError> {
    let Some(table) = config.as_object() else {
        return Err(ConfigError::whole(format!("expected a table, got {config}")));
    };
    let empty = serde_json::Map::new();
    let properties = schema["properties"].as_object().unwrap_or(&empty);
    let known = || properties.keys().map(String::as_str);
    for (key, value) in table {
        let Some(property) = properties.get(key) else {
            let listed: Vec<_> = known().map(|k| format!("`{k}`")).collect();
            let expected = if listed.is_empty() { "none".into() } else { listed.join(", ") };
            return Err(ConfigError {
                key: Some(key.clone()),
                message: format!("unknown field `{key}`, expected {expected}"),
                suggestion: nearest(key, known()).map(str::to_owned),
            });
        };
        let is = |kind: &str| match kind {
            "number" => value.is_number(),
            "integer" => value.is_i64() || value.is_u64(),
            "boolean" => value.is_boolean(),
            "string" => value.is_string(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            _ => value.is_null(),
        };
        let kinds: Vec<&str> = match &property["type"] {
            Value::String(kind) => vec![kind],
            Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
            _ => vec![],
        };
        if !kinds.is_empty() && !kinds.iter().any(|kind| is(kind)) {
            return Err(ConfigError::at(key, format!("expected {}, got {value}", kinds.join(" or "))));
        }
        if let Some(choices) = property["enum"].as_array().filter(|choices| !choices.contains(value)) {
            let words: Vec<_> = choices.iter().filter_map(Value::as_str).collect();
            let suggestion = value.as_str().and_then(|word| nearest(word, words.iter().copied()));
            let message = format!("expected one of {}, got {value}", Value::from(choices.clone()));
            return Err(ConfigError {
                key: Some(key.clone()),
                message,
                suggestion: suggestion.map(str::to_owned),
            });
        }
    }
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    if let Some(key) = required.into_iter().find(|key| !table.contains_key(*key)) {
        return Err(ConfigError::whole(format!("missing field `{key}`")));
    }
    check_ranges(config, schema, schema, "")
}

/// The candidate nearest to `word` by edit distance, if any is near enough to be what was meant.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|c| (strsim::damerau_levenshtein(word, c), c))
        .filter(|(distance, c)| *distance <= word.len().max(c.len()).div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, c)| c)
}

/// serde lists the valid names in its message: "unknown field `bta`, expected `beta` or `gamma`".
fn suggest(message: &str) -> Option<String> {
    if !message.starts_with("unknown field") && !message.starts_with("unknown variant") {
        return None;
    }
    let mut quoted = message.split('`').skip(1).step_by(2);
    let word = quoted.next()?;
    nearest(word, quoted).map(str::to_owned)
}

/// serde knows types, not ranges: hold numbers against the bounds of the schema.
fn check_ranges(value: &Value, schema: &Value, root: &Value, path: &str) -> Result<(), ConfigError> {
    if let Some(name) = schema.get("$ref").and_then(|r| r.as_str()?.strip_prefix("#/$defs/")) {
        check_ranges(value, &root["$defs"][name], root, path)?;
    }
    // Alternatives (an option, an enum) differ in type or key: bounds of those not meant find nothing.
    for alternative in ["anyOf", "oneOf"].iter().filter_map(|k| schema.get(k)?.as_array()).flatten() {
        check_ranges(value, alternative, root, path)?;
    }
    if let Some(x) = value.as_f64() {
        let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
        let violated = [
            (bound("minimum").filter(|b| x < *b), "at least"),
            (bound("exclusiveMinimum").filter(|b| x <= *b), "greater than"),
            (bound("maximum").filter(|b| x > *b), "at most"),
            (bound("exclusiveMaximum").filter(|b| x >= *b), "less than"),
        ];
        if let Some((Some(b), relation)) = violated.into_iter().find(|(b, _)| b.is_some()) {
            return Err(ConfigError::at(path, format!("must be {relation} {b}, got {value}")));
        }
    }
    if let (Some(table), Some(properties)) = (value.as_object(), schema.get("properties")) {
        for (key, inner) in table {
            if let Some(schema) = properties.get(key) {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                check_ranges(inner, schema, root, &path)?;
            }
        }
    }
    if let (Some(items), Some(schema)) = (value.as_array(), schema.get("items")) {
        for (i, item) in items.iter().enumerate() {
            check_ranges(item, schema, root, &format!("{path}[{i}]"))?;
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
