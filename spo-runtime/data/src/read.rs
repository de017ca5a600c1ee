//! Readers that yield a file's records one by one.
pub(crate) mod csv;
pub(crate) mod json;
pub(crate) mod number;
pub(crate) mod parquet;
pub(crate) mod recognize;
pub(crate) mod unpack;

use std::path::Path;

use crate::error::{DataError, Result};
use crate::source::{Format, Visit};
use recognize::is_parquet;

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
    match (is_parquet(path)?, content.packing, format) {
        (true, Some(packing), _) => {
            return refused(format!(
                "a Parquet file, compressed as a whole: unpack it with `{}`. Parquet compresses what is in it",
                packing.program()
            ));
        }
        (true, None, Format::Parquet) => return parquet::rows(path, wanted, visit),
        (true, None, _) => {
            return refused("a Parquet file: name it .parquet, or say format = \"parquet\"".to_owned());
        }
        (false, ..) => {}
    }
    let first = first_byte(path)?;
    let is_json = matches!(first, Some(b'{' | b'['));
    match format {
        Format::Jsonl | Format::Json if first == Some(b'[') => json::array(path, content.reader, visit),
        Format::Jsonl | Format::Json => json::objects(path, content.reader, known, visit),
        other if is_json => refused(format!(
            "JSON and not {}: name it .jsonl, or say format = \"jsonl\"",
            if other == Format::Parquet { "Parquet" } else { "a table of values" }
        )),
        Format::Csv => csv::rows(path, content.reader, b',', visit),
        Format::Tsv => csv::rows(path, content.reader, b'\t', visit),
        Format::Parquet => parquet::rows(path, wanted, visit),
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
