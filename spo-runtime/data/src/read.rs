//! Readers that yield a file's records one by one.
mod allowed;
pub(crate) mod arrow;
pub(crate) mod csv;
pub(crate) mod json;
pub(crate) mod number;
pub(crate) mod parquet;
pub(crate) mod recognize;
pub(crate) mod unpack;

use std::path::Path;

use crate::error::{DataError, Result};
use crate::source::{Format, Visit};
use recognize::binary;

/// How much a compressed file may become for each of its bytes, and in any case.
const GROWTH: u64 = 100;
const ALLOWANCE: u64 = 256 << 20;

/// Passes on the records of a file that was looked at ([`recognize::refuse_others`]); of a Parquet file, the first `wanted`. `known` tells whether a name is that of a
/// column.
pub(crate) fn records(
    path: &Path,
    format: Format,
    known: &dyn Fn(&str) -> bool,
    wanted: usize,
    visit: &mut Visit<'_>,
) -> Result<()> {
    let refused = |message: String| Err(DataError::in_file(path, message));
    let content = unpack::open(path)?;
    match (binary(path)?, content.packing) {
        (Some(found), Some(packing)) => {
            return refused(format!(
                "{}, compressed as a whole: unpack it with `{}`. {} compresses what is in it",
                found.a_file(),
                packing.program(),
                found.name()
            ));
        }
        (Some(Format::Parquet), None) if format == Format::Parquet => {
            return parquet::rows(path, wanted, visit);
        }
        (Some(Format::Arrow), None) if format == Format::Arrow => return arrow::rows(path, visit),
        (Some(found), None) => {
            let name = found.extension();
            return refused(format!("{}: name it .{name}, or say format = \"{name}\"", found.a_file()));
        }
        (None, _) => {}
    }
    let first = first_byte(path)?;
    let is_json = matches!(first, Some(b'{' | b'['));
    match format {
        Format::Jsonl | Format::Json if first == Some(b'[') => json::array(path, content.reader, visit),
        Format::Jsonl | Format::Json => json::objects(path, content.reader, known, visit),
        other if is_json => refused(format!(
            "JSON and not {}: name it .jsonl, or say format = \"jsonl\"",
            if matches!(other, Format::Parquet | Format::Arrow) { other.name() } else { "a table of values" }
        )),
        Format::Csv => csv::rows(path, content.reader, b',', visit),
        Format::Tsv => csv::rows(path, content.reader, b'\t', visit),
        Format::Parquet => parquet::rows(path, wanted, visit),
        Format::Arrow => arrow::rows(path, visit),
    }
}

/// The first byte behind white space and a byte order mark.
fn first_byte(path: &Path) -> Result<Option<u8>> {
    let mut reader = unpack::open(path)?.reader;
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
