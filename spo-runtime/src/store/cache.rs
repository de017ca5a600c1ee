//! An on-disk cache for work that runs share. The key of an entry is a hash of everything it depends on.
//!
//! An entry is a folder with checksums. A process must lock an entry before it uses it: the first one
//! computes the entry, the others wait and read it. A damaged entry is computed again. If the cache is
//! unusable, runs go on without it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use spo_api::read_small;

use crate::recipe::CacheSection;
use crate::reporter::Reporter;
use crate::stop::Stop;
use crate::store::bundle;
use crate::store::key::is_key;

/// The cache of a run.
pub(crate) struct Cache {
    /// `None` if the recipe disables the cache.
    folder: Option<PathBuf>,
}

impl Cache {
    /// The cache of a run with this output folder.
    pub(crate) fn new(recipe: &CacheSection, output: &Path) -> Self {
        let folder = || recipe.folder.clone().unwrap_or_else(|| output.with_file_name(".cache"));
        Cache { folder: recipe.enabled.then(folder) }
    }

    /// A folder for large files that are not kept: its own, or without a cache that can be used the one that the output
    /// folder is in.
    pub(crate) fn folder(&self, output: &Path) -> PathBuf {
        let parent = output.parent().filter(|parent| !parent.as_os_str().is_empty());
        let beside = || parent.unwrap_or(Path::new(".")).to_owned();
        let usable = |folder: &PathBuf| {
            fs::create_dir_all(folder).and_then(|()| tempfile::tempfile_in(folder)).is_ok()
        };
        self.folder.clone().filter(usable).unwrap_or_else(beside)
    }

    /// Locks an entry until the slot is dropped. Waits while another process holds the lock. Returns `None`
    /// without a cache.
    ///
    /// # Errors
    /// [`Interrupted`](crate::stop::Interrupted) if a signal arrives while waiting.
    pub(crate) fn slot(&self, key: &str, stop: &Stop, reporter: &Reporter) -> anyhow::Result<Option<Slot>> {
        let Some(folder) = &self.folder else { return Ok(None) };
        let mut waiting = false;
        loop {
            match take(folder, key) {
                Ok(Some(slot)) => return Ok(Some(slot)),
                Ok(None) => {
                    if !std::mem::replace(&mut waiting, true) {
                        let holder = read_small(&lock_of(folder, key)).unwrap_or_default();
                        let holder = String::from_utf8_lossy(&holder);
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

/// Marks a folder as a cache, for backup programs and for [`entries`] (the Cache Directory Tagging Specification).
const TAG: (&str, &str) = (
    "CACHEDIR.TAG",
    "Signature: 8a477f597d28d172789f06886806bc55\n# A cache of spo-run. It can be deleted at any time.\n",
);

/// Locks an entry, unless another process holds the lock.
fn take(folder: &Path, key: &str) -> io::Result<Option<Slot>> {
    let path = lock_of(folder, key);
    fs::create_dir_all(folder)?;
    let tag = folder.join(TAG.0);
    if !tag.exists() {
        fs::write(tag, TAG.1)?;
    }
    let mut lock = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    // The lock file may have been pruned since it was opened, and locking a removed file excludes nobody.
    if !is_same_file(&lock, &path) {
        return Ok(None);
    }
    // The id tells waiting processes who holds the lock, and the file's time tells `prune` when the entry was
    // last used. Failure is harmless.
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

/// Other systems do not allow removing an open file.
#[cfg(not(unix))]
fn is_same_file(_: &File, path: &Path) -> bool {
    path.exists()
}

/// An entry, as listed for the user.
pub(crate) struct Entry {
    /// The key: the kind of entry, and a hash of what it depends on.
    pub(crate) key: String,
    /// Bytes on disk.
    pub(crate) bytes: u64,
    /// When a run last asked for it.
    pub(crate) used: SystemTime,
    folder: PathBuf,
}

/// The entries of a cache, most recently used first; `None` if the folder is no cache.
pub(crate) fn entries(folder: &Path) -> io::Result<Option<Vec<Entry>>> {
    let mut found = Vec::new();
    for file in fs::read_dir(folder)? {
        let file = file?;
        // Every entry has a lock file, and so does an entry that was started but never finished.
        let name = file.file_name().to_string_lossy().into_owned();
        let Some(key) = name.strip_suffix(".lock").filter(|key| is_entry(folder, key)) else { continue };
        let used = file.metadata()?.modified()?;
        found.push(Entry {
            bytes: size(&folder.join(key)),
            key: key.to_owned(),
            used,
            folder: folder.to_owned(),
        });
    }
    found.sort_by(|a, b| b.used.cmp(&a.used).then_with(|| a.key.cmp(&b.key)));
    let is_cache = !found.is_empty() || folder.join(TAG.0).exists();
    Ok(is_cache.then_some(found))
}

/// Whether a key is of a cache's form, and what lies under it, if anything, was written by a cache. Other files may lie
/// in the same folder, and must never be taken for entries: entries are removed.
fn is_entry(folder: &Path, key: &str) -> bool {
    let content = folder.join(key);
    is_key(key) && (!content.exists() || bundle::is_bundle(&content))
}

/// Total size of an entry's files. Files that disappear because the entry is being removed count as 0.
fn size(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|file| Some(file.metadata().ok()?.len())).sum()
}

impl Entry {
    /// Removes the entry, unless a process is using it. Returns whether it was removed.
    pub(crate) fn remove(&self) -> io::Result<bool> {
        let Some(slot) = take(&self.folder, &self.key)? else { return Ok(false) };
        bundle::remove(&slot.folder)?;
        bundle::remove_partial(&slot.folder)?;
        // Removed last, while it is locked: a process that opened it earlier will notice that its lock file
        // is gone.
        fs::remove_file(lock_of(&self.folder, &self.key))?;
        Ok(true)
    }
}

/// A locked entry.
pub(crate) struct Slot {
    folder: PathBuf,
    _lock: File,
}

impl Slot {
    /// Reads the entry, if it exists and is intact.
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

    /// Writes the entry. A failure is not an error, because it costs time but does not affect results.
    pub(crate) fn write(&self, reporter: &Reporter, fill: impl FnOnce(&Path) -> anyhow::Result<()>) {
        let written = bundle::write(&self.folder, fill);
        if let Err(error) = written.with_context(|| format!("cannot keep {}", self.folder.display())) {
            reporter.note(&format!("warning: {error:#}"));
        }
    }
}
