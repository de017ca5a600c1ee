//! Folders that are written atomically and verified by checksum: checkpoints, cache entries, batches saved
//! for replay.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use spo_api::{open_regular, read_small};
use spo_data::hash;

/// The file that lists all others.
const MANIFEST: &str = "manifest.json";

/// Length and hash of every file.
#[derive(Deserialize, Serialize)]
struct Manifest {
    files: BTreeMap<String, Listed>,
}

#[derive(Deserialize, PartialEq, Serialize)]
struct Listed {
    bytes: u64,
    sha256: String,
}

impl Listed {
    fn new(file: &Path) -> std::io::Result<Self> {
        let bytes = open_regular(file)?.metadata()?.len();
        Ok(Listed { bytes, sha256: hash::of_file(file)? })
    }
}

/// Creates `folder` with the files that `fill` writes to the temporary folder it is given, replacing any
/// existing one. At every moment `folder` is the old one, the new one, or absent. A process that dies leaves
/// at most a folder called `.NAME.partial`, which the next call removes. Only one process at a time may write
/// a folder of this name.
pub(crate) fn write(folder: &Path, fill: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let aside = aside(folder);
    let made = clear(&aside).and_then(|()| fs::create_dir_all(&aside));
    made.with_context(|| format!("cannot write {}", folder.display()))?;
    let filled = fill(&aside).and_then(|()| seal(&aside, folder));
    if filled.is_err() {
        // Clean up the failed write. The error to report is the first one, not one from cleaning up.
        let _ = clear(&aside);
    }
    filled
}

/// Writes the manifest and renames the folder.
fn seal(aside: &Path, folder: &Path) -> anyhow::Result<()> {
    let mut manifest = Manifest { files: BTreeMap::new() };
    for name in names(aside)? {
        let file = aside.join(&name);
        // Not everything that fills a folder flushes its files to disk.
        let listed = File::open(&file).and_then(|f| f.sync_all()).and_then(|()| Listed::new(&file));
        manifest.files.insert(name, listed.with_context(|| format!("cannot read {}", file.display()))?);
    }
    let path = aside.join(MANIFEST);
    let text = serde_json::to_string_pretty(&manifest)?;
    spo_api::write_whole(&path, |out| writeln!(out, "{text}").map_err(|e| spo_api::Error::io(&path, e)))?;
    remove(folder)
        .and_then(|()| fs::rename(aside, folder))
        .and_then(|()| File::open(folder.parent().unwrap_or(Path::new(".")))?.sync_all())
        .with_context(|| format!("cannot write {}", folder.display()))
}

/// Checks every file of a folder against the manifest.
pub(crate) fn verify(folder: &Path) -> anyhow::Result<()> {
    let text = read_small(&folder.join(MANIFEST)).context("its manifest cannot be read")?;
    let manifest: Manifest = serde_json::from_slice(&text).context("its manifest is damaged")?;
    for name in names(folder)? {
        ensure!(name == MANIFEST || manifest.files.contains_key(&name), "{name} is no part of it");
    }
    for (name, listed) in &manifest.files {
        match Listed::new(&folder.join(name)) {
            Ok(found) if found == *listed => {}
            Ok(found) if found.bytes != listed.bytes => {
                bail!("{name} has {} bytes, {} were written", found.bytes, listed.bytes)
            }
            Ok(_) => bail!("{name} is not what was written: its checksum differs"),
            Err(error) => return Err(error).context(format!("{name} cannot be read")),
        }
    }
    Ok(())
}

/// Whether a folder was written as a bundle and holds nothing else. Its files may be damaged.
pub(crate) fn is_bundle(folder: &Path) -> bool {
    let manifest =
        read_small(&folder.join(MANIFEST)).ok().and_then(|text| serde_json::from_slice(&text).ok());
    manifest.is_some_and(|Manifest { files }| holds_only(folder, |name| files.contains_key(name)))
}

/// Whether a folder has no other files than these and a manifest.
fn holds_only(folder: &Path, is_file: impl Fn(&str) -> bool) -> bool {
    names(folder).is_ok_and(|names| names.iter().all(|name| name == MANIFEST || is_file(name)))
}

/// Removes the bundles in a folder, what writing them has left over, and the folder itself if nothing else is in it.
/// A folder whose manifest is damaged counts as a bundle if it holds nothing but `files`.
pub(crate) fn remove_all(folder: &Path, files: &[&str]) -> std::io::Result<()> {
    let names = match names(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        names => names?,
    };
    let left_over =
        |name: &str| name.starts_with('.') && (name.ends_with(".partial") || name.ends_with(".removed"));
    for path in names.iter().map(|name| folder.join(name)).filter(|path| path.is_dir()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if left_over(&name) {
            clear(&path)?;
        } else if is_bundle(&path) || holds_only(&path, |name| files.contains(&name)) {
            remove(&path)?;
        }
    }
    match fs::remove_dir(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::DirectoryNotEmpty => Err(error),
        _ => Ok(()),
    }
}

/// Removes a folder if it exists, so that it is never visible half removed.
pub(crate) fn remove(folder: &Path) -> std::io::Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    let doomed = hidden(folder, "removed");
    clear(&doomed)?;
    fs::rename(folder, &doomed)?;
    fs::remove_dir_all(&doomed)
}

/// Removes the temporary folder left by a process that died.
pub(crate) fn remove_partial(folder: &Path) -> std::io::Result<()> {
    clear(&aside(folder))?;
    clear(&hidden(folder, "removed"))
}

fn aside(folder: &Path) -> PathBuf {
    hidden(folder, "partial")
}

fn hidden(folder: &Path, suffix: &str) -> PathBuf {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    folder.with_file_name(format!(".{name}.{suffix}"))
}

fn clear(folder: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn names(folder: &Path) -> std::io::Result<Vec<String>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn made(folder: &Path) {
        write(folder, |aside| {
            fs::write(aside.join("a"), b"some bytes")?;
            Ok(fs::write(aside.join("b"), vec![7; 3000])?)
        })
        .unwrap();
    }

    #[test]
    fn a_failed_write_leaves_what_was_there() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("bundle");
        made(&folder);
        let failed = write(&folder, |aside| {
            fs::write(aside.join("a"), b"other")?;
            bail!("the disk is full")
        });
        assert_eq!(failed.unwrap_err().to_string(), "the disk is full");
        verify(&folder).unwrap();
        assert_eq!(fs::read(folder.join("a")).unwrap(), b"some bytes");
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1, "nothing is left aside");
        made(&folder);
        remove(&folder).unwrap();
        remove(&folder).unwrap();
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_bundles_are_removed_from_a_folder() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("all");
        for name in ["00000001", "00000002"] {
            made(&folder.join(name));
        }
        fs::write(folder.join("00000001/a"), b"damaged").unwrap();
        fs::create_dir(folder.join(".00000003.partial")).unwrap();
        made(&folder.join("with notes"));
        fs::write(folder.join("with notes/notes.txt"), b"mine").unwrap();
        fs::create_dir(folder.join("mine")).unwrap();
        fs::write(folder.join("mine/c"), b"").unwrap();
        made(&folder.join("00000004"));
        fs::remove_file(folder.join("00000004").join(MANIFEST)).unwrap();
        remove_all(&folder, &["a", "b"]).unwrap();
        let mut left = names(&folder).unwrap();
        left.sort();
        assert_eq!(left, ["mine", "with notes"]);
        fs::remove_file(folder.join("with notes/notes.txt")).unwrap();
        fs::remove_dir_all(folder.join("mine")).unwrap();
        remove_all(&folder, &["a", "b"]).unwrap();
        assert!(!folder.exists());
        remove_all(&folder, &["a", "b"]).unwrap();
    }

    proptest! {
        #[test]
        fn damage_is_found(at in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<bool>(), which in 0usize..3) {
            let place = tempfile::tempdir().unwrap();
            let folder = place.path().join("bundle");
            made(&folder);
            verify(&folder).unwrap();
            let file = folder.join(["a", "b", MANIFEST][which]);
            let whole = fs::read(&file).unwrap();
            let mut damaged = whole.clone();
            let at = at.index(whole.len());
            damaged[at] ^= 1 << bit;
            if cut {
                damaged.truncate(at);
            }
            fs::write(&file, &damaged).unwrap();
            // A flipped bit may turn one whitespace character of the manifest into another, which is
            // harmless.
            let same = which == 2
                && serde_json::from_slice::<serde_json::Value>(&damaged).ok()
                    == serde_json::from_slice(&whole).ok();
            prop_assert_eq!(verify(&folder).is_ok(), same);
        }
    }

    #[test]
    fn missing_and_additional_files_are_damage() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("bundle");
        made(&folder);
        fs::write(folder.join("c"), b"").unwrap();
        assert_eq!(verify(&folder).unwrap_err().to_string(), "c is no part of it");
        fs::remove_file(folder.join("c")).unwrap();
        fs::remove_file(folder.join("b")).unwrap();
        assert_eq!(verify(&folder).unwrap_err().to_string(), "b cannot be read");
        assert!(verify(&place.path().join("nowhere")).is_err());
    }
}
