//! JSON files: one object a line, objects over several lines, an array of objects, or one object with the array
//! under one of its keys. The first bytes tell which.

use std::fmt;
use std::io::{BufRead, Read};
use std::path::Path;
use std::sync::Arc;

use serde::Deserializer as _;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde_json::Value;

use super::recognize::separated_values;
use crate::error::{At, DataError, Place, Result};
use crate::read::number;
use crate::source::{Record, Visit};

/// A line longer than this is not a row of text; the file has another format.
pub(super) const LONGEST_LINE: u64 = 256 << 20;

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Passes on the rows of a file that is an array.
pub(crate) fn array(path: &Path, reader: impl BufRead, visit: &mut Visit<'_>) -> Result<()> {
    let mut elements = Elements { file: path.into(), visit, outcome: Ok(true) };
    let mut json = serde_json::Deserializer::from_reader(without_mark(path, reader)?);
    let parsed = json.deserialize_seq(&mut elements);
    // An error from the visitor takes precedence over the parser's error about being stopped.
    if !elements.outcome? {
        return Ok(());
    }
    parsed.map_err(|e| malformed(path, 1, &e))?;
    json.end().map_err(|e| {
        let message = "something follows the array, which must hold all rows of the file";
        DataError { message: message.to_owned(), ..malformed(path, 1, &e) }
    })
}

/// Passes on the rows of a file that is no array: an object a line, or objects over several lines, or one object with
/// the rows in a list. `known` tells whether a name is that of a column.
pub(crate) fn objects(
    path: &Path,
    reader: impl BufRead,
    known: &dyn Fn(&str) -> bool,
    visit: &mut Visit<'_>,
) -> Result<()> {
    let mut reader = without_mark(path, reader)?;
    let mut rows = Rows { file: path.into(), known, visit, seen: 0, list: None };
    let mut buffer = Vec::new();
    for line in 1.. {
        let at = |at| Place { file: path.into(), at };
        buffer.clear();
        let length = reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut buffer);
        if length.map_err(|e| DataError::io(path, &e))? == 0 {
            break;
        }
        if buffer.len() as u64 == LONGEST_LINE {
            let message = format!("the line is longer than {} MiB: is this JSON lines?", LONGEST_LINE >> 20);
            return Err(DataError::new(message).at(&at(At::Line(line))));
        }
        let text = std::str::from_utf8(&buffer)
            .map_err(|e| DataError::new("not UTF-8").at(&at(At::Column(line, e.valid_up_to() + 1))))?;
        let text = text.trim_ascii_end();
        if text.is_empty() {
            continue;
        }
        let value: Value = match number::row(text) {
            Ok(value) => value,
            Err(e) if e.is_eof() && rows.seen == 0 => {
                return rows.over_several_lines(line, buffer.as_slice().chain(reader));
            }
            Err(e) => {
                let message = malformed_line(text, &e, rows.seen == 0);
                return Err(DataError::new(message).at(&at(At::Column(line, e.column()))));
            }
        };
        if !rows.take(At::Line(line), value)? {
            break;
        }
    }
    Ok(())
}

/// The reader behind a byte order mark.
pub(super) fn without_mark<R: BufRead>(path: &Path, mut reader: R) -> Result<R> {
    let start = reader.fill_buf().map_err(|e| DataError::io(path, &e))?;
    if start.starts_with(BYTE_ORDER_MARK) {
        reader.consume(BYTE_ORDER_MARK.len());
    }
    Ok(reader)
}

/// Passes on rows as they are parsed.
struct Rows<'a, 'b> {
    file: Arc<Path>,
    known: &'a dyn Fn(&str) -> bool,
    visit: &'a mut Visit<'b>,
    /// Number of values parsed.
    seen: usize,
    /// The key of the list that holds the rows, if the file is one object with such a list.
    list: Option<String>,
}

impl Rows<'_, '_> {
    /// Takes a value of the file; returns whether to go on.
    fn take(&mut self, at: At, value: Value) -> Result<bool> {
        let place = Place { file: self.file.clone(), at };
        if let Some(list) = &self.list {
            let message = format!(
                "the rows are in the list `{list}` of the first object, and another object follows it"
            );
            return Err(DataError::new(message).at(&place));
        }
        let record = record(value).map_err(|e| e.at(&place))?;
        self.seen += 1;
        if self.seen == 1
            && !record.keys().any(|key| (self.known)(key))
            && let Some((key, rows)) = list_of_rows(&record).map_err(|e| e.at(&place))?
        {
            self.list = Some(key.to_owned());
            return self.elements(rows);
        }
        (self.visit)(place, record)
    }

    fn elements(&mut self, rows: &[Value]) -> Result<bool> {
        for (index, row) in rows.iter().enumerate() {
            let place = Place { file: self.file.clone(), at: At::Row(index + 1) };
            let record = record(row.clone()).map_err(|e| e.at(&place))?;
            if !(self.visit)(place, record)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads one object after another, wherever their lines end. The first of them begins in line `line`.
    fn over_several_lines(mut self, line: usize, reader: impl Read) -> Result<()> {
        let file = self.file.clone();
        for (index, value) in serde_json::Deserializer::from_reader(reader).into_iter::<Value>().enumerate() {
            let value = value.map_err(|e| {
                let mut error = malformed(&file, line, &e);
                error.message += " (the first object does not end in its line, so the file is read as objects over \
                                  several lines, without commas between them)";
                error
            })?;
            if !self.take(At::Row(index + 1), value)? {
                break;
            }
        }
        Ok(())
    }
}

/// Passes on the elements of an array as they are parsed.
struct Elements<'a, 'b> {
    file: Arc<Path>,
    visit: &'a mut Visit<'b>,
    outcome: Result<bool>,
}

impl<'de> Visitor<'de> for &mut Elements<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        for row in 1.. {
            let Some(value) = elements.next_element::<Value>()? else { break };
            let place = Place { file: self.file.clone(), at: At::Row(row) };
            self.outcome =
                record(value).map_err(|e| e.at(&place)).and_then(|record| (self.visit)(place, record));
            if !matches!(self.outcome, Ok(true)) {
                return Err(A::Error::custom("stopped"));
            }
        }
        Ok(())
    }
}

/// The list of rows that an object without columns holds, and its key. Lists of messages are no rows.
fn list_of_rows(record: &Record) -> Result<Option<(&str, &[Value])>> {
    let is_row = |value: &Value| {
        value.as_object().is_some_and(|row| !row.contains_key("role") && !row.contains_key("from"))
    };
    let mut lists = record.iter().filter_map(|(key, value)| match value {
        Value::Array(rows) if rows.first().is_some_and(is_row) => Some((key.as_str(), rows.as_slice())),
        _ => None,
    });
    let first = lists.next();
    match (first, lists.next()) {
        (Some((one, _)), Some((two, _))) => Err(DataError::new(format!(
            "the object holds several lists of rows, `{one}` and `{two}`: write each to a file of its own"
        ))),
        _ => Ok(first),
    }
}

fn record(value: Value) -> Result<Record> {
    match value {
        Value::Object(record) => Ok(record),
        other => {
            Err(DataError::new(format!("expected a row, which is a JSON object, found {}", kind(&other))))
        }
    }
}

/// The name of a JSON type, for messages.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The error of a parser that began in line `line` of the file.
fn malformed(file: &Path, line: usize, error: &serde_json::Error) -> DataError {
    let place = Place { file: file.into(), at: At::Column(line - 1 + error.line(), error.column()) };
    match error.classify() {
        serde_json::error::Category::Io => DataError::in_file(file, reason(error)),
        _ => DataError::new(reason(error)).at(&place),
    }
}

/// Says what is wrong with a line that is no JSON value, and with a file whose first line is none.
fn malformed_line(text: &str, error: &serde_json::Error, first: bool) -> String {
    let rest = text.get(error.column().saturating_sub(1)..).unwrap_or_default();
    let hint = match rest.as_bytes().first() {
        _ if first && separated_values(text).is_some() => return separated_values(text).unwrap_or_default(),
        Some(b'\'') => " (Python's notation? JSON has double quotes: write rows with `json.dumps`)",
        Some(b',') if error.to_string().starts_with("trailing characters") => {
            " (lines of JSON are not separated by commas)"
        }
        Some(b'{') if error.to_string().starts_with("trailing characters") => {
            " (each row has a line of its own)"
        }
        Some(b'N' | b'I') => " (NaN and Infinity are not JSON: write null)",
        _ => "",
    };
    reason(error) + hint
}

/// serde_json's message without the position, which [`Place`] already gives.
fn reason(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let words = message.rfind(" at line ").map_or(&*message, |end| &message[..end]);
    match error.is_data() {
        true => words.to_owned(),
        false if words == "trailing comma" => {
            format!("malformed JSON: {words} (take it out: a bracket closes here)")
        }
        false => format!("malformed JSON: {words}"),
    }
}
