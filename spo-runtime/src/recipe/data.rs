//! The recipe's data: files and generated tasks.

use std::fmt;
use std::path::Path;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer, StrDeserializer};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use spo_api::ConfigError;
use spo_data::{Source, SpecialTokens, Split, TrainOn, Truncation};

use super::part::{Spec, TaskAlone, text_or_table};

/// `[data]`: where rows come from and how they become tokens.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Data")]
pub(crate) struct DataSection {
    /// Rows to train on: a file, a folder or a pattern (`"rows/*.jsonl"`); a table
    /// `{ path = "rows.jsonl", columns = { prompt = "question" } }`; or a list of these, which are read in its order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) train: Option<Rows>,
    /// Held-out rows, in the same form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) eval: Option<Rows>,
    /// Instead of `eval`, a share of the rows to hold out: `{ eval = 0.02 }`. Nothing of it is trained on, in the lower
    /// level neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) split: Option<Split>,
    /// Keep the tokens of `train` in a file and not in memory, for data larger than it. The results are the same
    /// ([data.md](data.md#data-larger-than-memory)).
    #[serde(default)]
    pub(crate) stream: bool,
    /// Use rows of the same prompt and answers once. It counts them.
    #[serde(default)]
    pub(crate) deduplicate: bool,
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
    /// What is learned of conversations: `last`, what follows the prompt (of `messages` the last); `all-assistant`, every turn
    /// of the assistant in it (of `messages` every one). [data.md](data.md#several-turns) says how they are told.
    #[serde(default)]
    pub(crate) train_on: TrainOn,
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
        if let Some(Split { eval }) = self.split {
            let share = format!("{at}.split.eval");
            if !(eval > 0.0 && eval < 1.0) {
                let message = format!("is {eval}: expected a share between 0 and 1, such as 0.02");
                return Err(ConfigError::at(share, message));
            }
            if self.eval.is_some() || self.task.is_some() {
                let message = "`split` holds out rows of `train`, and there are held-out rows already";
                return Err(ConfigError::at(share, message));
            }
        }
        match (&self.train, &self.task) {
            (None, None) => Err(ConfigError::at(at, "needs `train` (a file) or `task` (a generated one)")),
            (Some(_), Some(_)) => {
                Err(ConfigError::at(format!("{at}.task"), "`train` and `task` exclude each other"))
            }
            (None, Some(_)) if self.stream => Err(ConfigError::at(
                format!("{at}.stream"),
                "has no effect: the rows of a task are in memory",
            )),
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

/// Files of rows: a path, a table that says how to read it, or a list of these.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rows {
    pub(crate) sources: Vec<Source>,
    /// Its location in the recipe.
    pub(crate) place: String,
}

/// An element of the list.
struct Entry(Source);

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        text_or_table(from, EXPECTED, |path| Source::new(path)).map(Entry)
    }
}

const EXPECTED: &str = "the path of a file, a folder or a pattern, or a table";

impl Serialize for Rows {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(untagged)]
        enum Written<'a> {
            Path(&'a Path),
            Table(&'a Source),
        }

        fn written(source: &Source) -> Written<'_> {
            match Source::new(&source.path) == *source {
                true => Written::Path(&source.path),
                false => Written::Table(source),
            }
        }

        match &*self.sources {
            [one] => written(one).serialize(to),
            several => to.collect_seq(several.iter().map(written)),
        }
    }
}

impl<'de> Deserialize<'de> for Rows {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct OneOrSeveral;

        impl<'de> Visitor<'de> for OneOrSeveral {
            type Value = Vec<Source>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{EXPECTED}, or a list of these")
            }

            fn visit_str<E>(self, path: &str) -> Result<Vec<Source>, E> {
                Ok(vec![Source::new(path)])
            }

            fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<Vec<Source>, A::Error> {
                Source::deserialize(MapAccessDeserializer::new(table)).map(|source| vec![source])
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<Source>, A::Error> {
                let mut sources = Vec::new();
                while let Some(Entry(source)) = list.next_element()? {
                    sources.push(source);
                }
                match sources.is_empty() {
                    true => Err(A::Error::invalid_length(0, &self)),
                    false => Ok(sources),
                }
            }
        }

        let sources = from.deserialize_any(OneOrSeveral)?;
        Ok(Rows { sources, place: String::new() })
    }
}

impl JsonSchema for Rows {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Rows".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = json_schema!({ "anyOf": [{ "type": "string" }, generator.subschema_for::<Source>()] });
        json_schema!({ "anyOf": [
            { "type": "string" },
            generator.subschema_for::<Source>(),
            { "type": "array", "items": one, "minItems": 1 },
        ] })
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
                f.write_str("the path of a file, a table, a list of these, or `{ task = { ... } }`")
            }

            fn visit_str<E>(self, path: &str) -> Result<TermData, E> {
                Ok(TermData::Rows(Rows { sources: vec![Source::new(path)], place: String::new() }))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<TermData, A::Error> {
                Rows::deserialize(SeqAccessDeserializer::new(list)).map(TermData::Rows)
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
