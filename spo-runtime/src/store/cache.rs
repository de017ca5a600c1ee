//! Work that runs share, on disk: entries found by a hash of what they depend on.
//!
//! An entry is a folder with checksums. Who needs one takes its lock first: the first to come computes, the
//! others wait and read. A damaged entry is computed again; a cache that cannot be used is done without.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context;

use crate::recipe::CacheSection;
use crate::reporter::Reporter;
use crate::stop::Stop;
use crate::store::bundle;

/// The cache of a run.
pub(crate) struct Cache {
    /// None where the recipe wants no cache.
    folder: Option<PathBuf>,
}

impl Cache {
    /// That of a run with this output folder.
    pub(crate) fn new(recipe: &CacheSection, output: &Path) -> Self {
        let folder = || recipe.folder.clone().unwrap_or_else(|| output.with_file_name(".cache"));
        Cache { folder: recipe.enabled.then(folder) }
    }

    /// The place of an entry, which is this process's alone until it is dropped. None without a cache.
    /// Waits while another process has it.
    ///
    /// # Errors
    /// [`Interrupted`](crate::stop::Interrupted) when a signal comes while it waits.
    pub(crate) fn slot(&self, key: &str, stop: &Stop, reporter: &Reporter) -> anyhow::Result<Option<Slot>> {
        let Some(folder) = &self.folder else { return Ok(None) };
        let mut waiting = false;
        loop {
            match take(folder, key) {
                Ok(Some(slot)) => return Ok(Some(slot)),
                Ok(None) => {
                    if !std::mem::replace(&mut waiting, true) {
                        let holder = fs::read_to_string(lock_of(folder, key)).unwrap_or_default();
                        reporter.note(&format!("waiting for process {holder}, which computes the same"));
                    }
                    std::thread::sleep(Duration::from_millis(50));
                    stop.check()?;
                }
                Err(error) => {
                    let place = folder.display();
                    reporter.note(&format!("warning: going on without the cache in {place}: {error}"));
                    return Ok(None);
                }
            }
        }
    }
}

/// The place of an entry, unless another process has it.
fn take(folder: &Path, key: &str) -> io::Result<Option<Slot>> {
    let path = lock_of(folder, key);
    fs::create_dir_all(folder)?;
    let mut lock = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    // It may have been pruned since it was opened: then a lock on it keeps nobody out.
    if !is_same_file(&lock, &path) {
        return Ok(None);
    }
    // Who waits wants to know for whom, and who prunes, when it was used; it is no harm if this fails.
    let _ = lock.set_len(0).and_then(|()| write!(lock, "{}", std::process::id()));
    Ok(Some(Slot { folder: folder.join(key), _lock: lock }))
}

fn lock_of(folder: &Path, key: &str) -> PathBuf {
    folder.join(format!("{key}.lock"))
}

#[cfg(unix)]
fn is_same_file(open: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    open.metadata().map(identity).ok() == fs::metadata(path).map(identity).ok()
}

/// Elsewhere a file that is open cannot be removed.
#[cfg(not(unix))]
fn is_same_file(_: &File, path: &Path) -> bool {
    path.exists()
}

/// An entry as its owner sees it.
pub(crate) struct Entry {
    /// Its key: what it is, and a hash of what it depends on.
    pub(crate) key: String,
    /// Bytes on disk.
    pub(crate) bytes: u64,
    /// When a run last looked for it.
    pub(crate) used: SystemTime,
    folder: PathBuf,
}

/// The entries of a cache, the one that was used last first.
pub(crate) fn entries(folder: &Path) -> io::Result<Vec<Entry>> {
    let mut found = Vec::new();
    for file in fs::read_dir(folder)? {
        let file = file?;
        // Every entry has a lock, and so has one that was begun and never finished.
        let name = file.file_name().to_string_lossy().into_owned();
        let Some(key) = name.strip_suffix(".lock") else { continue };
        let used = file.metadata()?.modified()?;
        found.push(Entry {
            bytes: size(&folder.join(key)),
            key: key.to_owned(),
            used,
            folder: folder.to_owned(),
        });
    }
    found.sort_by(|a, b| b.used.cmp(&a.used).then_with(|| a.key.cmp(&b.key)));
    Ok(found)
}

/// Bytes in an entry's files. It may be on its way out: then what is gone counts nothing.
fn size(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|file| Some(file.metadata().ok()?.len())).sum()
}

impl Entry {
    /// Removes it, unless a process has it in use; whether it is gone.
    pub(crate) fn remove(&self) -> io::Result<bool> {
        let Some(slot) = take(&self.folder, &self.key)? else { return Ok(false) };
        bundle::remove(&slot.folder)?;
        bundle::remove_partial(&slot.folder)?;
        // Last, and while it is locked: whoever opened it before finds that it is not the one on disk any more.
        fs::remove_file(lock_of(&self.folder, &self.key))?;
        Ok(true)
    }
}

/// The place of an entry.
pub(crate) struct Slot {
    folder: PathBuf,
    _lock: File,
}

impl Slot {
    /// What the entry holds, if it is there and whole.
    pub(crate) fn read<T>(
        &self,
        reporter: &Reporter,
        read: impl FnOnce(&Path) -> anyhow::Result<T>,
    ) -> Option<T> {
        if !self.folder.exists() {
            return None;
        }
        let found = bundle::verify(&self.folder).and_then(|()| read(&self.folder));
        found
            .inspect_err(|error| {
                let place = self.folder.display();
                reporter.note(&format!("warning: {place} is damaged and computed again: {error:#}"));
            })
            .ok()
    }

    /// Makes the entry. That it cannot be made costs time, not results.
    pub(crate) fn write(&self, reporter: &Reporter, fill: impl FnOnce(&Path) -> anyhow::Result<()>) {
        let written = bundle::write(&self.folder, fill);
        if let Err(error) = written.with_context(|| format!("cannot keep {}", self.folder.display())) {
            reporter.note(&format!("warning: {error:#}"));
        }
    }
}
