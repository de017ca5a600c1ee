//! Work that runs share, on disk: entries found by a hash of what they depend on.
//!
//! An entry is a folder with checksums. Who needs one takes its lock first: the first to come computes, the
//! others wait and read. A damaged entry is computed again; a cache that cannot be used is done without.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use crate::bundle;
use crate::recipe;
use crate::reporter::Reporter;
use crate::stop::Stop;

/// The cache of a run.
pub struct Cache {
    /// None where the recipe wants no cache.
    folder: Option<PathBuf>,
}

impl Cache {
    /// That of a run with this output folder.
    pub fn new(recipe: &recipe::Cache, output: &Path) -> Self {
        let folder = || recipe.folder.clone().unwrap_or_else(|| output.with_file_name(".cache"));
        Cache { folder: recipe.enabled.then(folder) }
    }

    /// The place of an entry, which is this process's alone until it is dropped. None without a cache.
    /// Waits while another process has it.
    ///
    /// # Errors
    /// [`Interrupted`](crate::stop::Interrupted) when a signal comes while it waits.
    pub fn slot(&self, key: &str, stop: &Stop, reporter: &Reporter) -> anyhow::Result<Option<Slot>> {
        let Some(folder) = &self.folder else { return Ok(None) };
        let path = folder.join(format!("{key}.lock"));
        let opened = fs::create_dir_all(folder).and_then(|()| {
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path)
        });
        let mut lock = match opened {
            Ok(file) => file,
            Err(error) => {
                reporter
                    .note(&format!("warning: going on without the cache in {}: {error}", folder.display()));
                return Ok(None);
            }
        };
        let mut waiting = false;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {
                    if !std::mem::replace(&mut waiting, true) {
                        let holder = fs::read_to_string(&path).unwrap_or_default();
                        reporter.note(&format!("waiting for process {holder}, which computes the same"));
                    }
                    std::thread::sleep(Duration::from_millis(50));
                    stop.check()?;
                }
                Err(TryLockError::Error(error)) => {
                    let place = path.display();
                    reporter
                        .note(&format!("warning: going on without the cache: cannot lock {place}: {error}"));
                    return Ok(None);
                }
            }
        }
        // Who waits wants to know for whom; it is no harm if this fails.
        let _ = lock.set_len(0).and_then(|()| write!(lock, "{}", std::process::id()));
        Ok(Some(Slot { folder: folder.join(key), _lock: lock }))
    }
}

/// The place of an entry.
pub struct Slot {
    folder: PathBuf,
    _lock: File,
}

impl Slot {
    /// What the entry holds, if it is there and whole.
    pub fn read<T>(&self, reporter: &Reporter, read: impl FnOnce(&Path) -> anyhow::Result<T>) -> Option<T> {
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
    pub fn write(&self, reporter: &Reporter, fill: impl FnOnce(&Path) -> anyhow::Result<()>) {
        let written = bundle::write(&self.folder, fill);
        if let Err(error) = written.with_context(|| format!("cannot keep {}", self.folder.display())) {
            reporter.note(&format!("warning: {error:#}"));
        }
    }
}
