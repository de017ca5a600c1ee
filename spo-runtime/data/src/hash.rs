//! SHA-256 in hexadecimal, as printed by `sha256sum`.

use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};
use spo_api::open_regular;

/// The hash of a file's bytes.
///
/// # Errors
/// When it is not a regular file, or cannot be read.
pub fn of_file(path: &Path) -> std::io::Result<String> {
    let mut file = open_regular(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(hasher)),
            length => hasher.update(&buffer[..length]),
        }
    }
}

/// The hash of a byte string.
pub fn of_bytes(bytes: impl AsRef<[u8]>) -> String {
    hex(Sha256::new_with_prefix(bytes))
}

pub(crate) fn hex(hasher: Sha256) -> String {
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
