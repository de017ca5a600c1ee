//! Atomic file writes.

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

/// Atomically writes pretty-printed JSON.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    write_text(path, &(serde_json::to_string_pretty(value)? + "\n"))
}

/// Atomically writes text.
pub(crate) fn write_text(path: &Path, text: &str) -> anyhow::Result<()> {
    write_bytes(path, text.as_bytes())
}

/// Atomically writes a file.
pub(crate) fn write_bytes(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let write = |out: &mut dyn Write| out.write_all(bytes).map_err(|e| spo_api::Error::io(path, e));
    spo_api::write_whole(path, write).with_context(|| format!("cannot write {}", path.display()))
}
