//! Cache keys: hashes of everything an entry depends on.

use std::sync::OnceLock;

use anyhow::Context;
use serde_json::Value;
use spo_data::hash;

/// The hash of this executable.
pub(crate) fn own_hash() -> anyhow::Result<&'static str> {
    static HASH: OnceLock<String> = OnceLock::new();
    if let Some(known) = HASH.get() {
        return Ok(known);
    }
    let hash = std::env::current_exe().and_then(|path| hash::of_file(&path));
    let hash = hash.context("cannot read the program's own file")?;
    Ok(HASH.get_or_init(|| hash))
}

/// A cache key: the kind of entry, and a hash of what it depends on.
pub(crate) fn key(kind: &str, what: &Value) -> String {
    format!("{kind}-{}", hash::of_bytes(what.to_string()))
}
