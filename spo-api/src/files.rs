use std::ffi::{OsStr, OsString};
use std::fs::{self, File, FileType};
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use crate::{Error, Result};

/// Creates or replaces `path` with the content that `write` produces, atomically. The content is written to
/// a temporary file beside it, `.NAME.partial`, flushed to disk, and renamed. Then the folder is flushed too, so that the new name
/// survives a power failure.
///
/// # Errors
/// Those of `write`, and [`Error::Io`] when the disk is full or the folder is not writable.
pub fn write_whole(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let aside = path.with_file_name(partial(path.file_name().unwrap_or_default()));
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

/// The name of the temporary file. A file system allows 255 bytes.
fn partial(name: &OsStr) -> OsString {
    let mut text = name.to_string_lossy().into_owned();
    let short = (0..=240).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.truncate(short);
    format!(".{text}.partial").into()
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

/// Opens a regular file. Others are refused before they are opened: opening a pipe waits for its writer, a device may
/// never end, and what is read twice must be the same twice.
///
/// # Errors
/// When it is not a regular file, or cannot be opened.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let kind = path.metadata()?.file_type();
    match kind.is_file() {
        true => File::open(path),
        false => Err(io::Error::other(format!("is not a regular file but {}", name(kind)))),
    }
}

/// Reads a small file, as configurations, records and indices are: a regular file of at most 64 MiB.
///
/// # Errors
/// Those of [`read_whole`].
pub fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    read_whole(path, 64)
}

/// Reads a whole regular file of at most `limit` MiB.
///
/// # Errors
/// When it is longer, not a regular file, or cannot be read.
pub fn read_whole(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let content = read_within(open_regular(path)?, limit)?;
    content.ok_or_else(|| io::Error::other(format!("is longer than {limit} MiB, which no such file is")))
}

/// Reads to the end of something that may have none: `None` if there is more than `limit` MiB.
///
/// # Errors
/// When it cannot be read.
pub fn read_within(from: impl Read, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut content = Vec::new();
    from.take((limit << 20) + 1).read_to_end(&mut content)?;
    Ok((content.len() as u64 <= limit << 20).then_some(content))
}

#[cfg(unix)]
fn name(kind: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    match kind {
        kind if kind.is_dir() => "a folder",
        kind if kind.is_fifo() => "a pipe: write its content to a file, and name that",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    }
}

#[cfg(not(unix))]
fn name(kind: FileType) -> &'static str {
    if kind.is_dir() { "a folder" } else { "a device" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beside_a_file_stays_and_long_names_are_written() {
        let place = tempfile::tempdir().unwrap();
        let write = |name: &str| {
            let path = place.path().join(name);
            write_whole(&path, |out| out.write_all(b"new").map_err(|e| Error::io(&path, e))).unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"new");
        };
        let mine = place.path().join("report.partial");
        fs::write(&mine, "mine").unwrap();
        write("report.html");
        assert_eq!(fs::read(&mine).unwrap(), b"mine");
        write(&"x".repeat(255));
        write(&"ä".repeat(127));
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 4, "nothing is left aside");
    }

    #[test]
    fn only_regular_files_of_a_sensible_length_are_read() {
        let place = tempfile::tempdir().unwrap();
        let said = |path: &Path| read_whole(path, 1).unwrap_err().to_string();
        assert_eq!(said(place.path()), "is not a regular file but a folder");
        let file = place.path().join("file");
        let written = File::create(&file).unwrap();
        written.set_len(1 << 20).unwrap();
        assert_eq!(read_whole(&file, 1).unwrap().len(), 1 << 20);
        written.set_len((1 << 20) + 1).unwrap();
        assert_eq!(said(&file), "is longer than 1 MiB, which no such file is");
        #[cfg(unix)]
        {
            let link = place.path().join("link");
            std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
            assert_eq!(said(&link), "is not a regular file but a device");
            let socket = place.path().join("socket");
            let _bound = std::os::unix::net::UnixListener::bind(&socket).unwrap();
            assert_eq!(said(&socket), "is not a regular file but a socket");
        }
    }
}
