//! How a recipe names the columns of a file: names, templates over a row, or a form of rows that has a name.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use spo_api::{Column, nearest};

use crate::columns::COLUMNS;
use crate::error::{DataError, Result};
use crate::jinja::{self, Expression, Template};
use crate::preset::Preset;
use crate::source::{Record, missing};

/// What the columns of a file are: a table from a column of [data.md](data.md) to the file's name for it, or to a
/// template over the row (`"{{ instruction }}\n{{ input }}"`); or the name of a form of rows (`"hh"`), which may also stand
/// in the table as `form`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mapping {
    pub(crate) preset: Option<Preset>,
    /// The file's name, or the template, for each column.
    pub names: BTreeMap<String, String>,
}

/// The key of a form of rows in a table of columns.
const FORM: &str = "form";

impl Mapping {
    /// Whether the file's own names are kept.
    pub fn is_empty(&self) -> bool {
        *self == Mapping::default()
    }

    /// Leaves out columns that mean something to other objectives alone.
    pub fn leave_out(&mut self, elsewhere: &BTreeSet<&String>) {
        self.names.retain(|name, _| COLUMNS.contains(&name.as_str()) || !elsewhere.contains(name));
    }

    /// Whether the rows have a column of this name, for one use or another.
    pub(crate) fn knows(&self, name: &str) -> bool {
        COLUMNS.contains(&name)
            || self.names.values().any(|own| own == name)
            || self.preset.is_some_and(|preset| preset.knows(name))
    }

    /// Makes sure that every column has a meaning: one of its own, or for the objective that reads these.
    ///
    /// # Errors
    /// For one that has none.
    pub(crate) fn check(&self, wanted: &[Column]) -> Result<()> {
        let wanted = wanted.iter().map(|column| column.name.as_str());
        let mut expected = COLUMNS.to_vec();
        expected.extend(wanted.filter(|name| !COLUMNS.contains(name)));
        let made = self.preset.map_or([].as_slice(), Preset::makes);
        if let (Some(preset), Some(name)) =
            (self.preset, made.iter().find(|name| self.names.contains_key(**name)))
        {
            let form = preset.name();
            return Err(DataError::new(format!(
                "columns: `{name}` is made by the form \"{form}\": leave the key out"
            )));
        }
        match self.names.keys().find(|name| !expected.contains(&name.as_str())) {
            None => Ok(()),
            Some(name) => Err(DataError::new(format!(
                "columns: `{name}` has no meaning here, expected one of {}",
                expected.join(", ")
            ))
            .suggest(nearest(name, expected))),
        }
    }

    /// The file's own name of a column.
    pub(crate) fn own<'a>(&'a self, name: &'a str) -> &'a str {
        self.names.get(name).filter(|own| !is_template(own)).map_or(name, String::as_str)
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Mapping {
    fn from(names: [(&str, &str); N]) -> Self {
        let names = names.into_iter().map(|(name, own)| (name.to_owned(), own.to_owned()));
        Mapping { preset: None, names: names.collect() }
    }
}

impl Serialize for Mapping {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.preset {
            Some(preset) if self.names.is_empty() => to.serialize_str(preset.name()),
            preset => {
                let form = preset.map(|preset| (FORM, preset.name()));
                to.collect_map(
                    form.into_iter().chain(self.names.iter().map(|(a, b)| (a.as_str(), b.as_str()))),
                )
            }
        }
    }
}

impl<'de> Deserialize<'de> for Mapping {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct NamesOrPreset;

        impl<'de> Visitor<'de> for NamesOrPreset {
            type Value = Mapping;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of columns, or the name of a form of rows")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Mapping, E> {
                let preset = Some(Preset::named(name).map_err(E::custom)?);
                Ok(Mapping { preset, names: BTreeMap::new() })
            }

            fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<Mapping, A::Error> {
                let names = BTreeMap::deserialize(MapAccessDeserializer::new(table));
                let mut names: BTreeMap<String, String> = names.map_err(A::Error::custom)?;
                let form = names.remove(FORM).map(|name| Preset::named(&name));
                Ok(Mapping { preset: form.transpose().map_err(A::Error::custom)?, names })
            }
        }

        from.deserialize_any(NamesOrPreset)
    }
}

impl JsonSchema for Mapping {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Mapping".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let presets: Vec<_> = Preset::ALL.iter().map(|preset| preset.name()).collect();
        json_schema!({ "anyOf": [
            {
                "type": "object",
                "properties": { FORM: { "type": "string", "enum": presets } },
                "additionalProperties": { "type": "string" },
            },
            { "type": "string", "enum": presets },
        ] })
    }
}

/// A mapping and a filter that are ready for rows.
pub(crate) struct Mapped<'a> {
    columns: Vec<(&'a str, Origin<'a>)>,
    filter: Option<(&'a str, Expression)>,
    preset: Option<Preset>,
    /// Columns that are made of the rows of the form.
    after_form: Vec<(&'a str, Origin<'a>)>,
}

enum Origin<'a> {
    Column(&'a str),
    Template(&'a str, Template),
}

impl<'a> Mapped<'a> {
    /// # Errors
    /// For a template or an expression that is malformed.
    pub(crate) fn new(mapping: &'a Mapping, filter: Option<&'a str>) -> Result<Self> {
        let column = |(name, own): (&'a String, &'a String)| {
            if !is_template(own) {
                return Ok((name.as_str(), Origin::Column(own)));
            }
            let template = Template::new(own)
                .map_err(|e| DataError::new(format!("columns: {name} = {own:?}: {}", e.message)))?;
            Ok((name.as_str(), Origin::Template(own, template)))
        };
        let expression = |source: &'a str| match Expression::new(source) {
            Ok(expression) => Ok((source, expression)),
            Err(e) => Err(DataError::new(format!("filter = {source:?}: {}", e.message))),
        };
        let columns = mapping.names.iter().map(column).collect::<Result<Vec<_>>>()?;
        // What an objective reads, and the row's weight, may be made of what a form makes.
        let first = |(name, _): &(&str, Origin<'_>)| COLUMNS.contains(name) && *name != "weight";
        let (columns, after_form) =
            columns.into_iter().partition(|column| mapping.preset.is_none() || first(column));
        let filter = filter.map(expression).transpose()?;
        Ok(Mapped { columns, filter, preset: mapping.preset, after_form })
    }

    /// The rows that a record of the file stands for; `None` if the filter leaves it out.
    pub(crate) fn apply(&self, mut record: Record) -> Result<Option<Vec<Record>>> {
        let (named, used) = taken(&self.columns, &record)?;
        if let Some((source, expression)) = &self.filter {
            let mut seen = Cow::Borrowed(&record);
            if !named.is_empty() {
                seen.to_mut().extend(named.clone());
            }
            match expression.truth(&seen) {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(e) => return Err(explained(&format!("filter = {source:?}"), e, &seen)),
            }
        }
        if !named.is_empty() {
            record.retain(|name, _| !used.contains(name));
            record.extend(named);
        }
        let Some(preset) = self.preset else { return Ok(Some(vec![record])) };
        if self.after_form.is_empty() {
            return preset.rows(record).map(Some);
        }
        let mut rows = preset.rows(record.clone())?;
        for row in &mut rows {
            // They may also be made of what the form takes apart, such as the list of scores.
            let mut whole = record.clone();
            whole.extend(row.clone());
            let (more, _) = taken(&self.after_form, &whole)?;
            row.extend(more);
        }
        Ok(Some(rows))
    }
}

/// The columns that are made of a record, and those that they are made of.
fn taken(columns: &[(&str, Origin<'_>)], record: &Record) -> Result<(Record, BTreeSet<String>)> {
    let (mut named, mut used) = (Record::new(), BTreeSet::new());
    for (name, from) in columns {
        let value = match from {
            Origin::Column(own) => {
                used.insert((*own).to_owned());
                record.get(*own).cloned().ok_or_else(|| {
                    let mut error = missing(own, record.keys());
                    if own.contains(['(', '|', '*', '/']) || own.contains(" - ") || own.contains(" + ") {
                        error.message += &format!("; an expression is written {name} = \"{{{{ {own} }}}}\"");
                    }
                    error
                })?
            }
            Origin::Template(source, template) => {
                let (text, read) = template
                    .render_row(record)
                    .map_err(|e| explained(&format!("columns: {name} = {source:?}"), e, record))?;
                used.extend(read);
                Value::String(text)
            }
        };
        named.insert((*name).to_owned(), value);
    }
    Ok((named, used))
}

fn is_template(text: &str) -> bool {
    text.contains("{{") || text.contains("{%")
}

fn explained(key: &str, error: jinja::Error, record: &Record) -> DataError {
    match error.unknown {
        Some(name) => {
            let error = missing(&name, record.keys());
            DataError { message: format!("{key}: {}", error.message), ..error }
        }
        None => DataError::new(format!("{key}: {}", error.message)),
    }
}
