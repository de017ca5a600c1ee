//! From what a recipe says of an objective or a bilevel step to the thing itself.

use serde_json::{Map, Value};
use spo_api::{BilevelStep, ConfigError, ConfigErrorKind, Objective, Registry};
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
    let components = items.iter().enumerate().map(|(i, item)| {
        let (component, _) = component(registry, item, &[]).map_err(|e| inside(&format!("[{i}]"), e))?;
        Ok(component)
    });
    sum(components.collect::<Result<_, _>>()?)
}

fn sum(components: Vec<Component>) -> Result<Box<dyn Objective>, ConfigError> {
    Ok(Box::new(Mix::new(components)?))
}

/// A term of a sum, and the keys of `more` that its table has beside those of the objective.
fn component(
    registry: &Registry,
    item: &Value,
    more: &[&str],
) -> Result<(Component, Map<String, Value>), ConfigError> {
    let own = [&["weight", "schedule"], more].concat();
    let (name, mut taken, config) = named(item, registry, "objective", &own)?;
    let weight = match taken.remove("weight") {
        None => 1.0,
        Some(w) => w
            .as_f64()
            .filter(|w| *w != 0.0)
            .ok_or_else(|| ConfigError::at("weight", format!("must be a number other than 0, got {w}")))?,
    };
    let objective = registry.objective(&name, &config).map_err(|e| elsewhere(registry, "objective", e))?;
    let schedule = taken.remove("schedule").map(|s| spo_api::parse::<WeightSchedule>(&s)).transpose();
    let schedule = schedule.map_err(|e| inside("schedule", e))?;
    Ok((Component { name, weight, schedule, objective }, taken))
}

/// Puts a path before the key of an error.
fn inside(path: &str, error: ConfigError) -> ConfigError {
    let key = match &error.key {
        None => path.to_owned(),
        Some(key) if key.starts_with('[') => format!("{path}{key}"),
        Some(key) => format!("{path}.{key}"),
    };
    ConfigError { key: Some(key), ..error }
}

/// A bilevel step with what the recipe says of its lower level.
pub struct Bilevel {
    /// Name of the step.
    pub name: String,
    /// How the levels become an update.
    pub step: Box<dyn BilevelStep>,
    /// The lower objective, if the step has a lower level.
    pub lower: Option<Box<dyn Objective>>,
    /// Its own demonstrations, if it does not share those of the upper level.
    pub lower_data: Option<LowerData>,
    /// Further terms of the lower level, each on demonstrations of its own.
    pub tasks: Vec<(Box<dyn Objective>, LowerData)>,
}

/// Where demonstrations of a lower level come from.
#[derive(Clone, Debug)]
pub struct LowerData {
    /// Where the recipe says so, relative to its bilevel table.
    pub key: String,
    /// A source, or `{ task = { name = ... } }`.
    pub source: Value,
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
        return Ok(Bilevel { name, step, lower: None, lower_data: None, tasks: Vec::new() });
    }
    let lower_data = taken.remove("lower_data").map(|source| LowerData { key: "lower_data".into(), source });
    let spec = taken.remove("lower").unwrap_or_else(|| "sft".into());
    let Value::Array(items) = &spec else {
        let lower = objective(registry, &spec).map_err(|e| inside("lower", e))?;
        imitates(&*lower, "lower")?;
        return Ok(Bilevel { name, step, lower: Some(lower), lower_data, tasks: Vec::new() });
    };
    let (mut shared, mut tasks) = (Vec::new(), Vec::new());
    for (i, item) in items.iter().enumerate() {
        let key = format!("lower[{i}]");
        let (component, mut taken) = component(registry, item, &["data"]).map_err(|e| inside(&key, e))?;
        imitates(&*component.objective, &key)?;
        match taken.remove("data") {
            None => shared.push(component),
            Some(source) => {
                let term = sum(vec![component]).map_err(|e| inside(&key, e))?;
                tasks.push((term, LowerData { key: format!("{key}.data"), source }));
            }
        }
    }
    let (lower, lower_data) = match (shared.is_empty(), lower_data) {
        (false, lower_data) => (sum(shared).map_err(|e| inside("lower", e))?, lower_data),
        (true, Some(_)) => {
            let message = "has no effect: every term of the lower level has data of its own";
            return Err(ConfigError::at("lower_data", message));
        }
        (true, None) if tasks.is_empty() => {
            return Err(ConfigError::at("lower", "expected at least one objective"));
        }
        (true, None) => {
            let (term, data) = tasks.remove(0);
            (term, Some(data))
        }
    };
    Ok(Bilevel { name, step, lower: Some(lower), lower_data, tasks })
}

/// A lower objective must learn from demonstrations alone.
fn imitates(objective: &dyn Objective, key: &str) -> Result<(), ConfigError> {
    let needs = objective.requirements();
    match needs.data != spo_api::Layout::Demonstrations
        || needs.reference
        || needs.whole_batch
        || needs.collision
    {
        true => Err(ConfigError::at(
            key,
            "the lower objective must learn from demonstrations alone, as `sft` does",
        )),
        false => Ok(()),
    }
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
    let Some(key) = error.key.as_ref().filter(|_| error.kind == ConfigErrorKind::UnknownKey) else {
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
