//! Settings of another trainer, and which of them were used.

use std::fmt;

use crate::error::{self, BadInput};

/// A value as it was written.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    None,
    Text(String),
    List(Vec<Value>),
    Table(Vec<(String, Value)>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = |items: Vec<String>| items.join(", ");
        match self {
            Value::None => f.write_str("null"),
            Value::Text(text) => f.write_str(text),
            Value::List(items) => write!(f, "[{}]", joined(items.iter().map(ToString::to_string).collect())),
            Value::Table(entries) => {
                write!(
                    f,
                    "{{{}}}",
                    joined(entries.iter().map(|(key, value)| format!("{key}: {value}")).collect())
                )
            }
        }
    }
}

pub(super) struct Setting {
    pub(super) key: String,
    pub(super) value: Value,
    /// Where it was written.
    pub(super) place: String,
}

pub(super) struct Settings {
    settings: Vec<Setting>,
    /// Whether each was asked for.
    used: Vec<bool>,
}

impl Settings {
    /// Of several settings of one key, the last counts.
    pub(super) fn new(settings: Vec<Setting>) -> Self {
        let mut kept: Vec<Setting> = Vec::new();
        for setting in settings {
            kept.retain(|known| known.key != setting.key);
            kept.push(setting);
        }
        let used = vec![false; kept.len()];
        Settings { settings: kept, used }
    }

    pub(super) fn into_settings(self) -> Vec<Setting> {
        self.settings
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.settings.iter().any(|setting| setting.key == key)
    }

    /// The settings that were not asked for.
    pub(super) fn unused(&self) -> impl Iterator<Item = &Setting> {
        self.settings.iter().zip(&self.used).filter(|(_, used)| !**used).map(|(setting, _)| setting)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.settings.iter().map(|setting| &*setting.key)
    }

    /// The value of a key, if it has one.
    pub(super) fn value(&mut self, key: &str) -> Option<Value> {
        let at = self.settings.iter().position(|setting| setting.key == key)?;
        self.used[at] = true;
        Some(self.settings[at].value.clone()).filter(|value| *value != Value::None)
    }

    fn bad(&self, key: &str, value: &Value, expected: &str) -> BadInput {
        let place =
            self.settings.iter().find(|setting| setting.key == key).map_or("", |setting| &*setting.place);
        error::bad(format!("{place}: {key}: expected {expected}, found {value}"))
    }

    pub(super) fn text(&mut self, key: &str) -> Result<Option<String>, BadInput> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(other) => Err(self.bad(key, &other, "a text")),
        }
    }

    /// The texts of a list, or one text.
    pub(super) fn texts(&mut self, key: &str) -> Result<Option<Vec<String>>, BadInput> {
        let text = |value: &Value| match value {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        };
        let value = self.value(key);
        let texts = match &value {
            None => return Ok(None),
            Some(Value::List(items)) => items.iter().map(text).collect(),
            Some(other) => text(other).map(|text| vec![text]),
        };
        match (texts, value) {
            (Some(texts), _) => Ok(Some(texts)),
            (None, value) => Err(self.bad(key, &value.unwrap_or(Value::None), "a list of texts")),
        }
    }

    pub(super) fn number(&mut self, key: &str) -> Result<Option<f64>, BadInput> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        match text.replace('_', "").parse::<f64>().ok().filter(|number| number.is_finite()) {
            Some(number) => Ok(Some(number)),
            None => Err(self.bad(key, &Value::Text(text), "a number")),
        }
    }

    pub(super) fn count(&mut self, key: &str) -> Result<Option<usize>, BadInput> {
        match self.number(key)? {
            None => Ok(None),
            Some(number) if number >= 0.0 && number.fract() == 0.0 && number < 1e15 => {
                Ok(Some(number as usize))
            }
            Some(number) => {
                Err(self.bad(key, &Value::Text(number.to_string()), "a whole number of at least 0"))
            }
        }
    }

    /// True or false, in the words of YAML and of Python's command lines.
    pub(super) fn flag(&mut self, key: &str) -> Result<Option<bool>, BadInput> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        match &*text.to_ascii_lowercase() {
            "true" | "yes" | "on" | "1" | "y" | "t" => Ok(Some(true)),
            "false" | "no" | "off" | "0" | "n" | "f" => Ok(Some(false)),
            _ => Err(self.bad(key, &Value::Text(text), "true or false")),
        }
    }
}
