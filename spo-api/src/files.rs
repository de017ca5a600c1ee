use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::{Error, Result};

/// Creates or replaces `path` with the content that `write` produces, atomically. The content is written to
/// a temporary file, flushed to disk, and renamed. Then the folder is flushed too, so that the new name
/// survives a power failure.
///
/// # Errors
/// Those of `write`, and [`Error::Io`] when the disk is full or the folder is not writable.
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
        // Ignore a failure to remove the partial file: the error to report is the first one.
        let _ = fs::remove_file(&aside);
    }
    renamed
}

#[cfg(unix)]
fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// Folders cannot be opened on other platforms, so the rename cannot be made more durable there.
#[cfg(not(unix))]
fn sync_folder(_: &Path) -> std::io::Result<()> {
    Ok(())
}
