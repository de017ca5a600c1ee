//! JSON lines and JSON arrays.

use std::fmt;
use std::io::{BufRead, Read};
use std::path::Path;
use std::sync::Arc;

use serde::Deserializer as _;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde_json::Value;

use crate::error::{At, DataError, Place, Result};
use crate::read::number;
use crate::source::{Record, Visit};

/// A line longer than this is not a row of text; the file has another format.
const LONGEST_LINE: u64 = 256 << 20;

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

pub(crate) fn lines(path: &Path, mut reader: impl BufRead, visit: &mut Visit<'_>) -> Result<()> {
    let file: Arc<Path> = path.into();
    let mut buffer = Vec::new();
    for line in 1.. {
        let at = |at| Place { file: file.clone(), at };
        buffer.clear();
        let length = reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut buffer);
        if length.map_err(|e| DataError::io(path, &e))? == 0 {
            break;
        }
        if buffer.len() as u64 == LONGEST_LINE {
            let message = format!("the line is longer than {} MiB: is this JSON lines?", LONGEST_LINE >> 20);
            return Err(DataError::new(message).at(&at(At::Line(line))));
        }
        let bytes = match line {
            1 => buffer.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&buffer),
            _ => &buffer,
        };
        let text = std::str::from_utf8(bytes)
            .map_err(|e| DataError::new("not UTF-8").at(&at(At::Column(line, e.valid_up_to() + 1))))?;
        let text = text.trim_ascii_end();
        if text.is_empty() {
            continue;
        }
        let value: Value = number::row(text)
            .map_err(|e| DataError::new(reason(&e)).at(&at(At::Column(line, e.column()))))?;
        let record = record(value).map_err(|e| e.at(&at(At::Line(line))))?;
        if !visit(at(At::Line(line)), record)? {
            break;
        }
    }
    Ok(())
}

pub(crate) fn array(path: &Path, mut reader: impl BufRead, visit: &mut Visit<'_>) -> Result<()> {
    let start = reader.fill_buf().map_err(|e| DataError::io(path, &e))?;
    if start.starts_with(BYTE_ORDER_MARK) {
        reader.consume(BYTE_ORDER_MARK.len());
    }
    let mut rows = Rows { file: path.into(), visit, outcome: Ok(true) };
    let mut json = serde_json::Deserializer::from_reader(reader);
    let parsed = json.deserialize_seq(&mut rows);
    // An error from the visitor takes precedence over the parser's error about being stopped.
    if !rows.outcome? {
        return Ok(());
    }
    parsed.and_then(|()| json.end()).map_err(|e| {
        let place = Place { file: path.into(), at: At::Column(e.line(), e.column()) };
        match e.classify() {
            serde_json::error::Category::Io => DataError::io(path, &e.into()),
            _ => DataError::new(reason(&e)).at(&place),
        }
    })
}

/// Passes on the elements of an array as they are parsed.
struct Rows<'a, 'b> {
    file: Arc<Path>,
    visit: &'a mut Visit<'b>,
    outcome: Result<bool>,
}

impl<'de> Visitor<'de> for &mut Rows<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        for row in 1.. {
            let Some(value) = elements.next_element()? else { break };
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

fn record(value: Value) -> Result<Record> {
    match value {
        Value::Object(record) => Ok(record),
        Value::Array(_) => Err(DataError::new(
            "expected a JSON object, found an array: is the file a JSON array (format = \"json\")?",
        )),
        other => Err(DataError::new(format!("expected a JSON object, found {}", kind(&other)))),
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

/// serde_json's message without the position, which [`Place`] already gives.
fn reason(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let words = message.rfind(" at line ").map_or(&*message, |end| &message[..end]);
    match error.is_data() {
        true => words.to_owned(),
        false => format!("malformed JSON: {words}"),
    }
}
