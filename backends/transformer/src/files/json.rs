//! JSON files.

use std::path::Path;

use serde_json::Value;
use spo_api::{Error, Result, read_small, write_whole};

/// Writes pretty-printed JSON.
pub(crate) fn write_json(path: &Path, value: &Value) -> Result<()> {
    write_whole(path, |out| writeln!(out, "{value:#}").map_err(|source| Error::io(path, source)))
}

/// Reads JSON.
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let bytes = read_small(path).map_err(|source| Error::io(path, source))?;
    serde_json::from_slice(&bytes)
        .map_err(|e| Error::Model(format!("{}: not valid JSON: {e}", path.display())))
}
