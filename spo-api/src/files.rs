use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::{Error, Result};

/// Creates `path` with what `write` writes, replacing it at once or not at all: it is written
/// aside, flushed to disk, and renamed; then the folder is flushed too, so that the new name outlives a
/// power failure.
///
/// # Errors
/// Those of `write`, and [`Error::Io`] when the disk is full or the folder not to be written to.
pub fn write_whole(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let aside = path.with_extension("partial");
    let failed = |source| Error::io(path, source);
    let file = File::create(&aside).map_err(failed)?;
    let mut writer = BufWriter::with_capacity(1 << 20, &file);
    let written = write(&mut writer).and_then(|()| writer.flush().map_err(failed));
    drop(writer);
    let renamed = written
        .and_then(|()| file.sync_all().map_err(failed))
        .and_then(|()| fs::rename(&aside, path).map_err(failed))
        .and_then(|()| sync_folder(path).map_err(failed));
    if renamed.is_err() {
        // What is left of a failed write helps nobody; the error to report is the first one.
        let _ = fs::remove_file(&aside);
    }
    renamed
}

#[cfg(unix)]
fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// Elsewhere folders cannot be opened, and renaming is as durable as it gets.
#[cfg(not(unix))]
fn sync_folder(_: &Path) -> std::io::Result<()> {
    Ok(())
}
