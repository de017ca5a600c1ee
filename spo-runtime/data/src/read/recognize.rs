//! Tells what a file is that holds no rows, by its first bytes: a pointer, an archive, a spreadsheet, a folder.

use std::io::Read;
use std::path::Path;

use crate::error::{DataError, Result};
use crate::read::unpack;
use crate::source::Format;

/// How many of a file's first bytes are looked at: as many as the header of a tar archive has.
const HEAD: u64 = 512;

/// What files of binary formats begin with.
const BINARY: [(&[u8], Format); 3] =
    [(b"PAR1", Format::Parquet), (b"ARROW1", Format::Arrow), (b"\xff\xff\xff\xff", Format::Arrow)];

const TO_JSON: &str = "write its rows as CSV, JSON lines or Parquet, for example with pandas: \
                       `to_json(\"rows.jsonl\", orient=\"records\", lines=True)`";

const UTF_16: &str =
    "text in UTF-16: write it in UTF-8, for example with `iconv -f UTF-16 -t UTF-8 OLD > NEW`";

/// What files of other kinds begin with, what they are, and what to do with them.
const BEGINNINGS: [(&[u8], &str); 11] = [
    (b"version https://git-lfs", "a Git LFS pointer and not the file itself: fetch that with `git lfs pull`"),
    (b"\x04\x22\x4d\x18", "compressed with lz4: unpack it with `unlz4`"),
    (b"BZh", "compressed with bzip2: unpack it with `bunzip2`"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it, and name a data file in it"),
    (b"PK\x03\x04", "a zip archive: unpack it, and name a data file in it"),
    (
        b"FEA1",
        "a file of the first version of Feather: read it with pandas, and write it again with `to_feather`",
    ),
    (b"SQLite format 3\0", "an SQLite database: write a table of it as JSON lines or Parquet"),
    (b"%PDF", "a PDF document, not data"),
    (b"PARE", "an encrypted Parquet file: write it without encryption"),
    (b"\xff\xfe", UTF_16),
    (b"\xfe\xff", UTF_16),
];

/// Refuses a file that begins as no data file does.
///
/// # Errors
/// What the file is, and what to do.
pub(crate) fn refuse_others(path: &Path) -> Result<()> {
    match other(&head(path)?, &extension(path)) {
        Some(words) => Err(DataError::in_file(path, words)),
        None => Ok(()),
    }
}

/// The binary format as whose files a file begins.
pub(crate) fn binary(path: &Path) -> Result<Option<Format>> {
    let head = head(path)?;
    let found = BINARY.iter().find(|(beginning, _)| head.starts_with(beginning));
    Ok(found.map(|(_, format)| *format))
}

/// The extension in small letters, without that of a compressed file: `jsonl` of `rows.jsonl.gz`.
pub(crate) fn extension(path: &Path) -> String {
    let of = |path: &Path| path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
    match of(path) {
        packed if unpack::EXTENSIONS.contains(&&*packed) => {
            of(Path::new(path.file_stem().unwrap_or_default()))
        }
        extension => extension,
    }
}

/// What a table of comma- or tab-separated values is told; `None` if the line does not look like the head of one.
pub(crate) fn separated_values(line: &str) -> Option<String> {
    let begins = line.starts_with(|c: char| c.is_alphanumeric() || c == '_' || c == '"');
    let (name, format) = match line {
        _ if !begins => return None,
        line if line.contains('\t') => ("tab-separated values", "tsv"),
        line if line.contains(',') => ("comma-separated values", "csv"),
        _ => return None,
    };
    Some(format!("looks like {name}, not JSON: name it .{format}, or say format = \"{format}\""))
}

fn head(path: &Path) -> Result<Vec<u8>> {
    let io = |e: std::io::Error| DataError::io(path, &e);
    let mut bytes = Vec::new();
    unpack::open(path)?.reader.take(HEAD).read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}

fn other(head: &[u8], extension: &str) -> Option<String> {
    match extension {
        "xlsx" | "xlsm" | "xls" | "ods" => return Some(format!("a spreadsheet: {TO_JSON}")),
        _ => {}
    }
    if let Some((_, words)) = BEGINNINGS.iter().find(|(beginning, _)| head.starts_with(beginning)) {
        return Some((*words).to_owned());
    }
    if head.get(257..262) == Some(b"ustar") {
        return Some("a tar archive: unpack it, and name a data file in it".to_owned());
    }
    // ASCII in UTF-16 has a zero in every other byte.
    if matches!(head, [0, 1..=255, 0, 1..=255, ..] | [1..=255, 0, 1..=255, 0, ..]) {
        return Some(UTF_16.to_owned());
    }
    match head.trim_ascii_start().first() {
        Some(b'<') => Some("HTML or XML, not data: was the page saved instead of the file?".to_owned()),
        _ => None,
    }
}
