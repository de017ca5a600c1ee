//! Opening files that a recipe names.

use std::fs::{File, FileType};
use std::io::{self, Read};
use std::path::Path;

use crate::error::{DataError, Result};

/// Opens a regular file. Others are refused before they are opened: opening a pipe waits for its writer, a device
/// may never end, and what is read twice must be the same twice.
///
/// # Errors
/// When it is not a regular file, or cannot be opened.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let kind = path.metadata()?.file_type();
    match kind.is_file() {
        true => File::open(path),
        false => Err(io::Error::other(format!(
            "is not a regular file but {}: write its content to a file, and name that",
            name(kind)
        ))),
    }
}

/// Reads a whole regular file of at most `limit` MiB.
///
/// # Errors
/// Names the file.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    let most = limit << 20;
    let read = open(path).and_then(|file| file.take(most + 1).read_to_end(&mut content));
    read.map_err(|e| DataError::io(path, &e))?;
    match content.len() as u64 > most {
        true => Err(DataError::in_file(
            path,
            format!("longer than {limit} MiB, which no such file is: is it the right one?"),
        )),
        false => Ok(content),
    }
}

#[cfg(unix)]
fn name(kind: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    match kind {
        kind if kind.is_dir() => "a folder",
        kind if kind.is_fifo() => "a pipe",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    }
}

#[cfg(not(unix))]
fn name(kind: FileType) -> &'static str {
    if kind.is_dir() { "a folder" } else { "a device" }
}
