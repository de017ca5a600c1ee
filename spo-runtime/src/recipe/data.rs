//! The recipe's data: files and generated tasks.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use spo_api::ConfigError;
use spo_data::{Source, SpecialTokens, Truncation};

use super::part::{Spec, TaskAlone, text_or_table};

/// `[data]`: where rows come from and how they become tokens.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Data")]
pub(crate) struct DataSection {
    /// Rows to train on: a path, or a table `{ path = "rows.jsonl", columns = { prompt = "question" } }`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) train: Option<Rows>,
    /// Held-out rows, in the same form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) eval: Option<Rows>,
    /// Instead of files, a generated task with its options: `{ name = "modular-chain", train = 4000 }`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) task: Option<Spec<TaskAlone>>,
    /// Longest prompt with answer, in tokens.
    #[serde(default = "DataSection::default_max_length")]
    #[schemars(range(min = 2))]
    pub(crate) max_length: usize,
    /// What happens to longer rows: `keep_start` cuts the end of the answer, `keep_end` the beginning of
    /// the prompt, `drop` leaves them out.
    #[serde(default)]
    pub(crate) truncation: Truncation,
    /// What the text of a special token in a message becomes: `as_tokens`, the token, as in transformers;
    /// `as_text`, ordinary text.
    #[serde(default)]
    pub(crate) special_tokens: SpecialTokens,
    /// Make it an error when a row cannot be used as it is (empty answers, identical pairs, rows that
    /// do not fit), instead of counting and reporting it.
    #[serde(default)]
    pub(crate) strict: bool,
}

impl DataSection {
    fn default_max_length() -> usize {
        1024
    }

    pub(super) fn validate(&self, at: &str) -> Result<(), ConfigError> {
        match (&self.train, &self.task) {
            (None, None) => Err(ConfigError::at(at, "needs `train` (a file) or `task` (a generated one)")),
            (Some(_), Some(_)) => {
                Err(ConfigError::at(format!("{at}.task"), "`train` and `task` exclude each other"))
            }
            (None, Some(_)) if self.eval.is_some() => Err(ConfigError::at(
                format!("{at}.eval"),
                "has no effect: a task has held-out rows of its own",
            )),
            _ => Ok(()),
        }
    }

    /// Records its location in the recipe.
    pub(super) fn place(&mut self, at: &str) {
        if let Some(task) = &mut self.task {
            task.part.place = format!("{at}.task");
        }
        for (key, rows) in [("train", &mut self.train), ("eval", &mut self.eval)] {
            rows.iter_mut().for_each(|rows| rows.place = format!("{at}.{key}"));
        }
    }
}

/// A file of rows: a path, or a table that says how to read it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rows {
    pub(crate) source: Source,
    /// Its location in the recipe.
    pub(crate) place: String,
}

impl Serialize for Rows {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.source == Source::new(&self.source.path) {
            true => self.source.path.serialize(to),
            false => self.source.serialize(to),
        }
    }
}

impl<'de> Deserialize<'de> for Rows {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let source = text_or_table(from, "the path of a file or a table", |path| Source::new(path))?;
        Ok(Rows { source, place: String::new() })
    }
}

impl JsonSchema for Rows {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Rows".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let table = generator.subschema_for::<Source>();
        json_schema!({ "anyOf": [{ "type": "string" }, table] })
    }
}

/// What a term of a lower level learns from: rows of a file, or a generated task.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum TermData {
    Task(TaskData),
    Rows(Rows),
}

impl TermData {
    /// Records its location in the recipe.
    pub(super) fn place(&mut self, at: &str) {
        match self {
            TermData::Task(data) => data.task.part.place = format!("{at}.task"),
            TermData::Rows(rows) => rows.place = at.to_owned(),
        }
    }
}

/// `{ task = { name = "codewords" } }`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TaskData {
    /// The generated task, with its options.
    pub(crate) task: Spec<TaskAlone>,
}

impl<'de> Deserialize<'de> for TermData {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct RowsOrTask;

        impl<'de> Visitor<'de> for RowsOrTask {
            type Value = TermData;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the path of a file, a table, or `{ task = { ... } }`")
            }

            fn visit_str<E>(self, path: &str) -> Result<TermData, E> {
                Ok(TermData::Rows(Rows { source: Source::new(path), place: String::new() }))
            }

            fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<TermData, A::Error> {
                let mut table = table;
                let first = table.next_key::<String>()?;
                let is_task = first.as_deref() == Some("task");
                let table = MapAccessDeserializer::new(Reread { first, table });
                match is_task {
                    true => TaskData::deserialize(table).map(TermData::Task),
                    false => Rows::deserialize(table).map(TermData::Rows),
                }
            }
        }

        from.deserialize_any(RowsOrTask)
    }
}

/// A table whose first key has already been read.
struct Reread<A> {
    first: Option<String>,
    table: A,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Reread<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        match self.first.take() {
            Some(key) => seed.deserialize(StrDeserializer::new(&key)).map(Some),
            None => self.table.next_key_seed(seed),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.table.next_value_seed(seed)
    }
}

impl JsonSchema for TermData {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TermData".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (rows, task) = (generator.subschema_for::<Rows>(), generator.subschema_for::<TaskData>());
        json_schema!({ "anyOf": [rows, task] })
    }
}
