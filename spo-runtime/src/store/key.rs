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

/// A kind of cache entry.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// A tokenized file.
    Tokens,
    /// Log-probs of a reference.
    Reference,
    /// The result of a stage.
    Stage,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Tokens, Kind::Reference, Kind::Stage];

    fn name(self) -> &'static str {
        match self {
            Kind::Tokens => "tokens",
            Kind::Reference => "reference",
            Kind::Stage => "stage",
        }
    }
}

/// A cache key: the kind of entry, and a hash of what it depends on.
pub(crate) fn key(kind: Kind, what: &Value) -> String {
    format!("{}-{}", kind.name(), hash::of_bytes(what.to_string()))
}

/// Whether a text has the form of a key.
pub(crate) fn is_key(text: &str) -> bool {
    let is_hash =
        |hash: &str| hash.len() == 64 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    text.split_once('-')
        .is_some_and(|(kind, hash)| Kind::ALL.iter().any(|known| known.name() == kind) && is_hash(hash))
}
