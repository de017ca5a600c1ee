//! Comma- and tab-separated values, with the names of the columns in the first row (RFC 4180). Cells are text.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, BufRead, Read};
use std::path::Path;
use std::sync::Arc;

use csv::{ByteRecord, ReaderBuilder};
use serde_json::Value;

use super::json::{LONGEST_LINE, without_mark};
use crate::error::{At, DataError, Place, Result};
use crate::source::Visit;

/// Passes on the rows. An error names the line in which a row begins.
pub(crate) fn rows(path: &Path, reader: impl BufRead, separator: u8, visit: &mut Visit<'_>) -> Result<()> {
    let layout = Layout {
        reader: without_mark(path, reader)?,
        separator,
        state: State::Row,
        breaks: 0,
        begun: VecDeque::new(),
        opened: 0,
        length: 0,
        ended: false,
    };
    let mut reader = ReaderBuilder::new()
        .delimiter(separator)
        .has_headers(false)
        .flexible(true)
        .buffer_capacity(1 << 16)
        .from_reader(layout);
    let file: Arc<Path> = path.into();
    let mut record = ByteRecord::new();
    let mut header: Option<(Vec<String>, usize)> = None;
    loop {
        let more = reader.read_byte_record(&mut record).map_err(|e| match e.into_kind() {
            csv::ErrorKind::Io(e) => DataError::io(path, &e),
            kind => DataError::in_file(path, format!("{kind:?}")),
        })?;
        if !more {
            break;
        }
        let line = reader.get_mut().begun.pop_front().unwrap_or(1);
        let place = Place { file: file.clone(), at: At::Line(line) };
        let text = |cell: &[u8], column: &str| {
            let text = std::str::from_utf8(cell);
            text.map(str::to_owned).map_err(|_| DataError::new(format!("{column}: not UTF-8")).at(&place))
        };
        match &header {
            None => {
                let names = record.iter().map(|cell| text(cell, "the names of the columns"));
                let names = names.collect::<Result<Vec<_>>>()?;
                header = Some((named(&names, separator).map_err(|e| e.at(&place))?, line));
            }
            Some((names, first)) => {
                // What a quote opens and nothing closes takes in the rest of the file.
                let layout = reader.get_ref();
                if layout.ended && layout.state == State::Quoted {
                    return Err(layout.unclosed().at(&place));
                }
                if record.len() != names.len() {
                    return Err(ragged(&record, names, *first).at(&place));
                }
                let cells = names.iter().zip(&record).map(|(name, cell)| {
                    Ok((name.clone(), Value::String(text(cell, &format!("column `{name}`"))?)))
                });
                if !visit(place.clone(), cells.collect::<Result<_>>()?)? {
                    return Ok(());
                }
            }
        }
    }
    match reader.get_ref().state {
        State::Quoted => Err(reader.get_ref().unclosed().at(&Place::file(path))),
        _ => Ok(()),
    }
}

/// The names of the columns. One without a name, as pandas writes for the index, is called as pandas calls it.
fn named(cells: &[String], separator: u8) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for (i, cell) in cells.iter().enumerate() {
        names.push(match cell.trim() {
            "" => format!("Unnamed: {i}"),
            name => name.to_owned(),
        });
    }
    if let [only] = &*names {
        let hint = match only {
            name if name.contains('\t') => "separated by tabs: name the file .tsv, or say format = \"tsv\"",
            name if separator == b'\t' && name.contains(',') => {
                "separated by commas: name the file .csv, or say format = \"csv\""
            }
            name if name.contains(';') => "separated by semicolons: write it with commas or tabs",
            _ => return Ok(names),
        };
        return Err(DataError::new(format!("one column, `{only}`. The values seem to be {hint}")));
    }
    let mut seen = BTreeSet::new();
    match names.iter().find(|name| !seen.insert(name.as_str())) {
        Some(twice) => Err(DataError::new(format!("two columns are called `{twice}`"))),
        None => Ok(names),
    }
}

fn ragged(record: &ByteRecord, names: &[String], first: usize) -> DataError {
    DataError::new(format!(
        "{} cells, and line {first} names {} columns. A text that holds the separator, a quote or a line break stands in \
         quotes, and a quote in it is doubled",
        record.len(),
        names.len()
    ))
}

/// Passes bytes on and notes where rows and quotes begin, which the parser does not tell.
struct Layout<R> {
    reader: R,
    separator: u8,
    state: State,
    /// Line breaks so far.
    breaks: usize,
    /// The lines in which the rows begin that the parser has not yet returned.
    begun: VecDeque<usize>,
    /// The line of the last quote that opened a cell.
    opened: usize,
    /// Bytes of the row so far.
    length: u64,
    /// Whether all has been read.
    ended: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Between two rows.
    Row,
    /// At the beginning of a cell.
    Cell,
    Plain,
    Quoted,
    /// Behind a quote in a quoted cell: it closes the cell, or is the first of two.
    Quote,
}

impl<R> Layout<R> {
    fn advance(&mut self, byte: u8) {
        let ends = matches!(byte, b'\n' | b'\r');
        if self.state == State::Row && !ends {
            self.begun.push_back(self.breaks + 1);
            (self.state, self.length) = (State::Cell, 0);
        }
        self.length += 1;
        self.state = match (self.state, byte) {
            (State::Quoted, b'"') => State::Quote,
            (State::Quoted, _) | (State::Quote, b'"') => State::Quoted,
            (State::Cell, b'"') => {
                self.opened = self.breaks + 1;
                State::Quoted
            }
            _ if ends => State::Row,
            (_, byte) if byte == self.separator => State::Cell,
            _ => State::Plain,
        };
        self.breaks += usize::from(byte == b'\n');
    }

    fn unclosed(&self) -> DataError {
        DataError::new(format!("a quote opens a cell in line {}, and none closes it", self.opened))
    }
}

impl<R: Read> Read for Layout<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.reader.read(into)?;
        self.ended = length == 0;
        for byte in &into[..length] {
            self.advance(*byte);
        }
        match self.length > LONGEST_LINE {
            true => Err(io::Error::other(format!(
                "a row is longer than {} MiB: does a quote in line {} not end?",
                LONGEST_LINE >> 20,
                self.opened
            ))),
            false => Ok(length),
        }
    }
}
