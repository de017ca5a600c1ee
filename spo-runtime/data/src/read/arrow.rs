//! Arrow files, row by row: streams of record batches, and files that hold such a stream between two marks.
//!
//! <https://arrow.apache.org/docs/format/Columnar.html>. What the metadata say is read by a library; the arrays are read
//! here, a value at a time. Every length and offset in a file is held against what is there.

mod batch;
mod column;
mod schema;

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use polars_arrow_format::ipc::planus::ReadAsRoot;
use polars_arrow_format::ipc::{MessageHeaderRef, MessageRef};
use spo_api::open_regular;

use super::allowed::{Allowed, PER_ROW};
use crate::error::{At, DataError, Place, Result};
use crate::source::Visit;
use batch::{Batch, Dictionaries};
use schema::Schema;

/// What a file begins with that is not a bare stream, with its padding.
const MARK: &[u8; 8] = b"ARROW1\0\0";

/// What a message begins with.
const CONTINUATION: u32 = u32::MAX;

/// Passes on the rows.
pub(crate) fn rows(path: &Path, visit: &mut Visit<'_>) -> Result<()> {
    let failed = |e: io::Error| DataError::io(path, &e);
    let file = open_regular(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    let allowed = Allowed::new(bytes);
    let mut messages = Messages::new(file).map_err(failed)?;
    let refuse = |words: String| DataError::in_file(path, words);
    let name: Arc<Path> = path.into();
    let mut row = 0;
    let mut schema = None;
    let mut dictionaries = Dictionaries::new();
    while let Some(Message { metadata, body }) = messages.next().map_err(refuse)? {
        let body = Arc::new(body);
        let header = MessageRef::read_as_root(&metadata).and_then(|message| message.header());
        let header = header.map_err(|e| refuse(damaged(e)))?;
        match (header, &schema) {
            (Some(MessageHeaderRef::Schema(found)), None) => {
                schema = Some(Schema::read(found).map_err(refuse)?);
            }
            (Some(MessageHeaderRef::DictionaryBatch(found)), Some(schema)) => {
                batch::dictionary(found, schema, body, &allowed, &mut dictionaries).map_err(refuse)?;
            }
            (Some(MessageHeaderRef::RecordBatch(found)), Some(schema)) => {
                let batch = Batch::read(found, schema, body, &allowed, &dictionaries).map_err(refuse)?;
                for index in 0..batch.rows {
                    row += 1;
                    let place = Place { file: name.clone(), at: At::Row(row) };
                    let record = allowed.take(PER_ROW).and_then(|()| batch.record(index, &allowed));
                    let record = record.map_err(|e| DataError::new(e).at(&place))?;
                    if !visit(place, record)? {
                        return Ok(());
                    }
                }
            }
            _ => return Err(refuse(damaged("a message has no place here"))),
        }
    }
    match schema {
        Some(_) => Ok(()),
        None => Err(refuse(damaged("it has no schema"))),
    }
}

fn damaged(what: impl std::fmt::Display) -> String {
    format!("not a readable Arrow file: {what}")
}

/// The messages of a stream.
struct Messages {
    file: BufReader<File>,
}

struct Message {
    metadata: Vec<u8>,
    body: Vec<u8>,
}

impl Messages {
    fn new(file: File) -> io::Result<Self> {
        let mut file = BufReader::new(file);
        let mut begins = [0; MARK.len()];
        let found = read_up_to(&mut file, &mut begins)?;
        if &begins[..found] != MARK {
            file.seek_relative(-(found as i64))?;
        }
        Ok(Messages { file })
    }

    fn next(&mut self) -> Result<Option<Message>, String> {
        // The end of a stream may be marked, or be that of the file.
        let Some(first) = self.number()? else { return Ok(None) };
        // Before version 0.15, the length came at once.
        let length = if first == CONTINUATION { self.number()?.unwrap_or(0) } else { first };
        if length == 0 {
            return Ok(None);
        }
        let metadata = self.bytes(u64::from(length))?;
        let message = MessageRef::read_as_root(&metadata).and_then(|message| message.body_length());
        let length = message.map_err(damaged)?;
        let body = self.bytes(u64::try_from(length).map_err(|_| damaged("a negative length"))?)?;
        Ok(Some(Message { metadata, body }))
    }

    fn number(&mut self) -> Result<Option<u32>, String> {
        let mut bytes = [0; 4];
        match read_up_to(&mut self.file, &mut bytes).map_err(|e| e.to_string())? {
            0 => Ok(None),
            4 => Ok(Some(u32::from_le_bytes(bytes))),
            _ => Err(damaged("it ends within a message")),
        }
    }

    /// The next bytes. Memory grows as they are read, whatever the file says.
    fn bytes(&mut self, length: u64) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        let read = self.file.by_ref().take(length).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        match read as u64 == length {
            true => Ok(bytes),
            false => Err(damaged("it ends within a message")),
        }
    }
}

/// Fills a buffer as far as there are bytes.
fn read_up_to(from: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while read < into.len() {
        match from.read(&mut into[read..]) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// The rows of a file beside the tests.
    fn read(name: &str) -> Vec<Value> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
        let mut read = Vec::new();
        rows(&path, &mut |_, record| {
            read.push(Value::Object(record));
            Ok(true)
        })
        .unwrap();
        read
    }

    #[test]
    fn values_are_those_that_were_written() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/types.jsonl");
        let text = std::fs::read_to_string(path).unwrap();
        let expected: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        for name in ["types", "file", "lz4", "zstd"] {
            let found = read(&format!("{name}.arrow"));
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(&expected) {
                for (column, expected) in expected.as_object().unwrap() {
                    assert_eq!(&found[column], expected, "{column} in {name}.arrow");
                }
            }
        }
    }
}
