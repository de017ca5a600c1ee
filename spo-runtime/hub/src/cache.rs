//! The cache, in the layout of the hub's Python client.

use std::path::{Path, PathBuf};

use crate::Snapshot;
use crate::repo::{Repo, is_commit};

/// The cached folder of a repository.
pub(crate) struct Cached {
    pub(crate) folder: PathBuf,
}

impl Cached {
    pub(crate) fn of(cache: &Path, repo: &Repo) -> Self {
        Cached { folder: cache.join(repo.folder()) }
    }

    /// The folder of a commit.
    pub(crate) fn snapshot(&self, commit: &str) -> Snapshot {
        Snapshot { folder: self.folder.join("snapshots").join(commit), commit: commit.to_owned() }
    }

    /// What a revision was when it was last looked up, if anything of it is there.
    pub(crate) fn find(&self, revision: &str) -> Option<Snapshot> {
        let commit = match is_commit(revision) {
            true => revision.to_owned(),
            false => std::fs::read_to_string(self.reference(revision)).ok()?.trim().to_owned(),
        };
        Some(self.snapshot(&commit)).filter(|found| is_commit(&commit) && found.folder.is_dir())
    }

    /// The file with the commit of a revision.
    pub(crate) fn reference(&self, revision: &str) -> PathBuf {
        self.folder.join("refs").join(revision)
    }
}

/// The names of all files below a folder, with `/` between their parts, in order.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    fn add(folder: &Path, before: &str, depth: usize, names: &mut Vec<String>) {
        for entry in folder.read_dir().into_iter().flatten().flatten() {
            let name = format!("{before}{}", entry.file_name().to_string_lossy());
            match entry.path().is_dir() {
                true if depth < DEPTH => add(&entry.path(), &format!("{name}/"), depth + 1, names),
                // A link whose content was deleted is no file.
                _ if entry.path().is_file() => names.push(name),
                _ => {}
            }
        }
    }
    let mut found = Vec::new();
    add(folder, "", 0, &mut found);
    found.sort_unstable();
    found
}

/// Folders in folders that are looked into.
const DEPTH: usize = 8;
