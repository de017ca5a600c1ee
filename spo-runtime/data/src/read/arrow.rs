//! Arrow files, row by row: streams of record batches, and files that hold such a stream between two marks.
//!
//! <https://arrow.apache.org/docs/format/Columnar.html>. What the metadata say is read by a library; the arrays are read
//! here, a value at a time. Every length and offset in a file is held against what is there.

mod batch;
mod column;
mod schema;

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
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
        Some(_) => messages.end(bytes).map_err(refuse),
        None => Err(refuse(damaged("it has no schema"))),
    }
}

fn damaged(what: impl std::fmt::Display) -> String {
    format!("not a readable Arrow file: {what}")
}

/// The messages of a stream.
struct Messages {
    file: BufReader<File>,
    /// Whether the stream stands between two marks.
    marked: bool,
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
        let marked = &begins[..found] == MARK;
        if !marked {
            file.seek_relative(-(found as i64))?;
        }
        Ok(Messages { file, marked })
    }

    /// Checks that nothing is missing and nothing is left over behind the last message: a stream may end where it likes,
    /// between marks a footer follows, then its length and the mark.
    fn end(&mut self, length: u64) -> Result<(), String> {
        let read = |e: io::Error| e.to_string();
        let left = length.saturating_sub(self.file.stream_position().map_err(read)?);
        let footer = match self.marked {
            false => 0,
            true => {
                let mut last = [0; 10];
                self.file.seek(SeekFrom::End(-10)).map_err(read)?;
                self.file.read_exact(&mut last).map_err(read)?;
                if last[4..] != MARK[..6] {
                    return Err(damaged("its end is missing"));
                }
                u64::from(u32::from_le_bytes(last[..4].try_into().expect("four bytes"))) + last.len() as u64
            }
        };
        match left.checked_sub(footer) {
            // A footer may begin at a multiple of 8.
            Some(padding) if padding < 8 && (self.marked || padding == 0) => Ok(()),
            Some(_) => Err(damaged("there is more behind its end")),
            None => Err(damaged("its end is missing")),
        }
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
    fn a_file_without_its_end_or_with_more_behind_it_is_refused() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let folder = tempfile::tempdir().unwrap();
        let said = |bytes: &[u8]| {
            let path = folder.path().join("rows.arrow");
            std::fs::write(&path, bytes).unwrap();
            rows(&path, &mut |_, _| Ok(true)).map_err(|e| e.to_string())
        };
        let file = std::fs::read(fixtures.join("file.arrow")).unwrap();
        assert!(file.starts_with(MARK) && said(&file).is_ok());
        let footer = u32::from_le_bytes(file[file.len() - 10..][..4].try_into().unwrap()) as usize;
        for cut in [1, 10, footer + 10, footer + 18] {
            let words = said(&file[..file.len() - cut]).unwrap_err();
            assert!(words.contains("its end is missing"), "{cut}: {words}");
        }
        let stream = std::fs::read(fixtures.join("types.arrow")).unwrap();
        assert!(!stream.starts_with(MARK) && said(&stream).is_ok());
        for whole in [file, stream] {
            let words = said(&[&whole[..], &whole[..]].concat()).unwrap_err();
            assert!(words.contains("more behind its end"), "{words}");
        }
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
