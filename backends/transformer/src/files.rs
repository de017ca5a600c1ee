//! Files that are either whole or not there: written aside, flushed to disk, renamed.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::Value;
use spo_api::{Error, Result};

/// Creates `path` with what `write` writes, replacing it at once or not at all.
pub(crate) fn write_whole(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let aside = path.with_extension("partial");
    let failed = |source| Error::io(path, source);
    let file = File::create(&aside).map_err(failed)?;
    let mut writer = BufWriter::with_capacity(1 << 20, &file);
    let written = write(&mut writer).and_then(|()| writer.flush().map_err(failed));
    drop(writer);
    let renamed = written
        .and_then(|()| file.sync_all().map_err(failed))
        .and_then(|()| fs::rename(&aside, path).map_err(failed));
    if renamed.is_err() {
        // What is left of a failed write helps nobody; the error to report is the first one.
        let _ = fs::remove_file(&aside);
    }
    renamed
}

/// Writes pretty-printed JSON.
pub(crate) fn write_json(path: &Path, value: &Value) -> Result<()> {
    write_whole(path, |out| writeln!(out, "{value:#}").map_err(|source| Error::io(path, source)))
}

/// Reads JSON.
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).map_err(|source| Error::io(path, source))?;
    serde_json::from_str(&text).map_err(|e| Error::Model(format!("{}: not valid JSON: {e}", path.display())))
}
