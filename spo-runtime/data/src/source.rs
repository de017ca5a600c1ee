use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use spo_api::{nearest, open_regular};

use crate::columns::COLUMNS;
use crate::error::{DataError, Place, Result};
use crate::read::recognize::{extension, is_parquet, refuse_others};
use crate::tokenize::brief;
use crate::{hash, read};

/// A data file and how to read it: a table of the recipe.
///
/// Rows are told by their columns:
/// - pairs: `chosen` and `rejected`, with a `prompt` or without (then it is the beginning they share);
/// - demonstrations: `prompt` and `completion`, or `messages` of which the last is the assistant's;
/// - unpaired: `prompt`, `completion` and `label` (true: desirable);
/// - ShareGPT's `conversations`, Alpaca's `instruction`, `input`, `output` and `history`, Orca's `question`;
/// - with any messages, a `system` prompt.
///
/// Each text is a string, taken as it stands, or a list of messages (`role` and `content`, or `from` and
/// `value`), rendered by the model's chat template, which also sees `tools` and `chat_template_kwargs`.
/// All rows of a file have one form. Columns that are not used are listed by `spo-run check` and by the run.
/// [data.md](data.md) shows a row of every form.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The file.
    pub path: PathBuf,
    /// Its format; by default that of its extension.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// The file's own names of the columns: `{ prompt = "question", chosen = "answer" }`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, String>,
    /// Rows to pass over at the beginning.
    #[serde(default)]
    pub skip: usize,
    /// Rows to take after those; by default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub take: Option<usize>,
}

impl spo_api::Part for Source {}

/// A file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// One JSON object a line. Blank lines are passed over.
    Jsonl,
    /// One JSON array of objects.
    ///
    /// The two are told apart by their first bytes, whatever the name. Objects over several lines, and one object with
    /// the array under one of its keys, are read too.
    Json,
    /// Apache Parquet: uncompressed, Snappy, gzip or LZ4.
    Parquet,
}

/// A row as read from the file: column name to value.
pub(crate) type Record = Map<String, Value>;

/// Called with each record; returning `false` stops reading.
pub(crate) type Visit<'a> = dyn FnMut(Place, Record) -> Result<bool> + 'a;

impl Source {
    /// A source with the format taken from the extension and all rows selected.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Source { path: path.into(), ..Source::default() }
    }

    /// SHA-256 of the file's bytes, in hexadecimal.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn hash(&self) -> Result<String> {
        refuse_others(&self.path)?;
        hash::of_file(&self.path).map_err(|e| DataError::io(&self.path, &e))
    }

    /// Identifies the rows that are read: the hash of the file's content, how it is read, and which rows
    /// are selected. The location of the file is not included.
    ///
    /// # Errors
    /// When the file cannot be read, or its format cannot be determined.
    pub fn identity(&self) -> Result<String> {
        let (format, hash) = (self.detect_format()?, self.hash()?);
        Ok(format!("{hash} {format:?} {:?} {} {:?}", self.columns, self.skip, self.take))
    }

    /// Passes the selected records to `visit` one at a time, so that memory stays bounded.
    pub(crate) fn read(&self, visit: &mut Visit<'_>) -> Result<()> {
        self.check_columns()?;
        refuse_others(&self.path)?;
        let (mut seen, mut taken) = (0, 0);
        let take = self.take.unwrap_or(usize::MAX);
        let mut select = |place: Place, record: Record| {
            seen += 1;
            if seen <= self.skip {
                return Ok(true);
            }
            if taken == take {
                return Ok(false);
            }
            taken += 1;
            let record = self.rename(record).map_err(|e| e.at(&place))?;
            Ok(visit(place, record)? && taken < take)
        };
        let path = &*self.path;
        match self.detect_format()? {
            Format::Jsonl | Format::Json if is_parquet(path)? => {
                Err(DataError::in_file(path, "a Parquet file: name it .parquet, or say format = \"parquet\""))
            }
            Format::Jsonl | Format::Json if first_byte(path)? == Some(b'[') => {
                read::json::array(path, open(path)?, &mut select)
            }
            Format::Jsonl | Format::Json => {
                let known =
                    |name: &str| COLUMNS.contains(&name) || self.columns.values().any(|own| own == name);
                read::json::objects(path, open(path)?, &known, &mut select)
            }
            Format::Parquet if matches!(first_byte(path)?, Some(b'{' | b'[')) => Err(DataError::in_file(
                path,
                "JSON and not Parquet: name it .jsonl, or say format = \"jsonl\"",
            )),
            Format::Parquet => read::parquet::rows(path, self.skip.saturating_add(take), &mut select),
        }?;
        match (seen, taken) {
            (0, _) if path.metadata().is_ok_and(|file| file.len() == 0) => Err(DataError::in_file(
                path,
                "the file is empty, not a byte is in it: was it written to its end?",
            )),
            (0, _) => Err(DataError::in_file(path, "the file has no rows")),
            (_, 0) => Err(DataError::in_file(
                path,
                format!("nothing left to read: skip = {} and the file has {seen} rows", self.skip),
            )),
            _ => Ok(()),
        }
    }

    fn check_columns(&self) -> Result<()> {
        match self.columns.keys().find(|name| !COLUMNS.contains(&name.as_str())) {
            None => Ok(()),
            Some(name) => Err(DataError::new(format!(
                "columns: `{name}` has no meaning here, expected one of {}",
                COLUMNS.join(", ")
            ))
            .suggest(nearest(name, COLUMNS))),
        }
    }

    fn detect_format(&self) -> Result<Format> {
        if let Some(format) = self.format {
            return Ok(format);
        }
        match &*extension(&self.path) {
            "jsonl" | "ndjson" => Ok(Format::Jsonl),
            "json" => Ok(Format::Json),
            "parquet" => Ok(Format::Parquet),
            _ => Err(DataError::in_file(
                &self.path,
                "cannot tell the format from the extension: expected .jsonl, .ndjson, .json or .parquet, \
                 or format = \"jsonl\", \"json\" or \"parquet\"",
            )),
        }
    }

    fn rename(&self, mut record: Record) -> Result<Record> {
        let mut renamed = Vec::new();
        for (name, column) in &self.columns {
            let Some(value) = record.shift_remove(column) else {
                return Err(missing(column, record.keys()));
            };
            renamed.push((name.clone(), value));
        }
        record.extend(renamed);
        Ok(record)
    }
}

/// The error for a missing column; it lists the columns that exist.
pub(crate) fn missing<'a>(column: &str, present: impl Iterator<Item = &'a String> + Clone) -> DataError {
    const LISTED: usize = 20;
    let listed: Vec<_> = present.clone().take(LISTED).map(|c| format!("`{}`", brief(c))).collect();
    let more = if present.clone().nth(LISTED).is_some() { ", ..." } else { "" };
    DataError::new(format!(
        "there is no column `{column}`; the row has {}{more}",
        if listed.is_empty() { "no columns".to_owned() } else { listed.join(", ") }
    ))
    .suggest(nearest(column, present.map(String::as_str)))
}

fn open(path: &Path) -> Result<BufReader<std::fs::File>> {
    let file = open_regular(path).map_err(|e| DataError::io(path, &e))?;
    Ok(BufReader::with_capacity(1 << 16, file))
}

fn first_byte(path: &Path) -> Result<Option<u8>> {
    let mut reader = open(path)?;
    loop {
        let buffer = reader.fill_buf().map_err(|e| DataError::io(path, &e))?;
        if buffer.is_empty() {
            return Ok(None);
        }
        // Skip the three bytes of a byte order mark as if they were whitespace.
        match buffer.iter().find(|b| !b.is_ascii_whitespace() && !b"\xEF\xBB\xBF".contains(b)) {
            Some(&byte) => return Ok(Some(byte)),
            None => {
                let length = buffer.len();
                reader.consume(length);
            }
        }
    }
}
