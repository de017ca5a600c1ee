//! From what a recipe says of an objective or a bilevel step to the thing itself.

use serde_json::{Map, Value};
use spo_api::{BilevelStep, ConfigError, Objective, Registry};
use spo_objectives::losses::{Component, Mix, WeightSchedule};

/// Builds an objective from `"dpo"`, `{ name = "dpo", beta = 0.1 }`, or a list of such tables with a
/// `weight` each, and perhaps a `schedule = { from = 0.0, steps = 100 }` of it.
///
/// # Errors
/// A [`ConfigError`] whose key is relative to the given value (`[1].beta`).
pub fn objective(registry: &Registry, spec: &Value) -> Result<Box<dyn Objective>, ConfigError> {
    let Value::Array(items) = spec else {
        let (name, _, config) = named(spec, registry, "objective", &[])?;
        return registry.objective(&name, &config).map_err(|e| elsewhere(registry, "objective", e));
    };
    if items.is_empty() {
        return Err(ConfigError::whole("expected at least one objective"));
    }
    let mut parts = Vec::with_capacity(items.len());
    for (i, item) in items.iter().enumerate() {
        let inside = |e: ConfigError| ConfigError {
            key: Some(e.key.as_ref().map_or(format!("[{i}]"), |k| format!("[{i}].{k}"))),
            ..e
        };
        let (name, taken, config) =
            named(item, registry, "objective", &["weight", "schedule"]).map_err(inside)?;
        let weight = match taken.get("weight") {
            None => 1.0,
            Some(w) => w.as_f64().filter(|w| *w != 0.0).ok_or_else(|| {
                inside(ConfigError::at("weight", format!("must be a number other than 0, got {w}")))
            })?,
        };
        let part =
            registry.objective(&name, &config).map_err(|e| inside(elsewhere(registry, "objective", e)))?;
        let schedule =
            taken.get("schedule").map(spo_api::parse::<WeightSchedule>).transpose().map_err(|e| {
                inside(ConfigError {
                    key: Some(e.key.as_ref().map_or("schedule".into(), |k| format!("schedule.{k}"))),
                    ..e
                })
            })?;
        parts.push(Component { name, weight, schedule, objective: part });
    }
    Ok(Box::new(Mix::new(parts).map_err(|e| ConfigError::whole(e.to_string()))?))
}

/// A bilevel step with what the recipe says of its lower level.
pub struct Bilevel {
    /// Name of the step.
    pub name: String,
    /// How the levels become an update.
    pub step: Box<dyn BilevelStep>,
    /// The lower objective, if the step has a lower level.
    pub lower: Option<Box<dyn Objective>>,
    /// Source of the lower level's own demonstrations.
    pub lower_data: Option<Value>,
}

/// Builds a bilevel step from `"single"` or `{ step = "penalty", lambda = 1.0, lower = "sft" }`.
///
/// # Errors
/// A [`ConfigError`] whose key is relative to the given value.
pub fn bilevel(registry: &Registry, spec: &Value) -> Result<Bilevel, ConfigError> {
    let (name, mut taken, config) = named(spec, registry, "step", &["lower", "lower_data"])?;
    let step = registry.step(&name, &config).map_err(|e| elsewhere(registry, "step", e))?;
    if !step.needs().lower {
        if let Some(key) = taken.keys().next() {
            return Err(ConfigError::at(key, format!("has no effect: `{name}` has no lower level")));
        }
        return Ok(Bilevel { name, step, lower: None, lower_data: None });
    }
    let lower_spec = taken.remove("lower").unwrap_or_else(|| "sft".into());
    let lower = objective(registry, &lower_spec).map_err(|e| ConfigError {
        key: Some(e.key.as_ref().map_or("lower".into(), |k| format!("lower.{k}"))),
        ..e
    })?;
    let needs = lower.requirements();
    if needs.data != spo_api::Data::Demonstrations || needs.reference || needs.whole_batch || needs.collision
    {
        let message = "the lower objective must learn from demonstrations alone, as `sft` does";
        return Err(ConfigError::at("lower", message));
    }
    Ok(Bilevel { name, step, lower: Some(lower), lower_data: taken.remove("lower_data") })
}

/// Splits a table into the name of a registered part, the keys that the runtime takes for itself, and
/// the part's own configuration.
fn named(
    spec: &Value,
    registry: &Registry,
    kind: &str,
    own: &[&str],
) -> Result<(String, Map<String, Value>, Value), ConfigError> {
    let key = if kind == "step" { "step" } else { "name" };
    match spec {
        Value::String(name) => {
            registry.get(kind, name)?;
            Ok((name.clone(), Map::new(), Value::Object(Map::new())))
        }
        Value::Object(table) => {
            let name = match table.get(key) {
                Some(Value::String(name)) => name.clone(),
                Some(other) => {
                    return Err(ConfigError::at(key, format!("must be the name of a part, got {other}")));
                }
                None => return Err(ConfigError::whole(format!("missing key `{key}`: which {kind}?"))),
            };
            registry.get(kind, &name).map_err(|e| ConfigError { key: Some(key.into()), ..e })?;
            let mut config = table.clone();
            config.shift_remove(key);
            let taken =
                own.iter().filter_map(|k| config.shift_remove(*k).map(|v| (k.to_string(), v))).collect();
            Ok((name, taken, Value::Object(config)))
        }
        other => {
            Err(ConfigError::whole(format!("expected the name of a part ({kind}) or a table, got {other}")))
        }
    }
}

/// Says of an unknown key which other parts have it: an option of one loss given to another.
fn elsewhere(registry: &Registry, kind: &str, mut error: ConfigError) -> ConfigError {
    let Some(key) = error.key.as_ref().filter(|_| error.message.starts_with("unknown field")) else {
        return error;
    };
    let has_key = |e: &&spo_api::Entry| (e.schema)().as_value()["properties"].get(key).is_some();
    let owners: Vec<_> =
        registry.iter().filter(|e| e.build.kind() == kind).filter(has_key).map(|e| e.name).collect();
    if !owners.is_empty() {
        error.message += &format!("; `{key}` is an option of {}", owners.join(", "));
    }
    error
}
