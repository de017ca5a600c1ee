//! The libraries that this user has made runs with: a list of their paths and hashes in the user's own configuration.
//! What the folder of a run names is loaded without a question only if it is there.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use spo_api::read_small;
use spo_data::hash;

/// A file or folder whose code runs when it is loaded, as a line of the list: its hash, and where it is. Both count,
/// because a library brings along what is beside it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Code(String);

impl Code {
    /// A library.
    pub(crate) fn library(path: &Path) -> io::Result<Self> {
        Ok(Code(format!("{}  {:?}", hash::of_file(path)?, path.canonicalize()?)))
    }

    /// A folder of libtorch, which is too large to be hashed.
    pub(crate) fn libtorch(folder: &Path) -> io::Result<Self> {
        Ok(Code(format!("libtorch  {:?}", folder.canonicalize()?)))
    }
}

/// The list.
pub(crate) struct Trusted {
    /// `None` where the user has no folder for configurations.
    file: Option<PathBuf>,
    lines: BTreeSet<String>,
}

impl Trusted {
    /// Reads the list of this user: `spo/trusted` in `XDG_CONFIG_HOME` or `~/.config`.
    pub(crate) fn read() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = || variable("HOME").map(|home| home.join(".config"));
        Self::in_file(variable("XDG_CONFIG_HOME").or_else(home).map(|folder| folder.join("spo/trusted")))
    }

    fn in_file(file: Option<PathBuf>) -> Self {
        let text = file.as_deref().and_then(|file| read_small(file).ok()).unwrap_or_default();
        let lines = String::from_utf8_lossy(&text).lines().map(str::to_owned).collect();
        Trusted { file, lines }
    }

    pub(crate) fn has(&self, code: &Code) -> bool {
        self.lines.contains(&code.0)
    }

    /// Adds to the list what is not in it yet.
    ///
    /// # Errors
    /// When the list cannot be written. Without a folder for it, nothing is.
    pub(crate) fn add(&self, all: &BTreeSet<Code>) -> io::Result<()> {
        let new: String =
            all.iter().filter(|code| !self.has(code)).map(|code| format!("{}\n", code.0)).collect();
        let Some(file) = self.file.as_deref().filter(|_| !new.is_empty()) else { return Ok(()) };
        fs::create_dir_all(file.parent().unwrap_or(Path::new(".")))?;
        // Several runs may add to it at once, so it is not written anew. A line that is cut off matches nothing.
        OpenOptions::new().create(true).append(true).open(file)?.write_all(new.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_file_at_the_same_place_is_known() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        let list = || Trusted::in_file(Some(at("config/spo/trusted")));
        fs::write(at("a.so"), "code").unwrap();
        fs::write(at("b.so"), "code").unwrap();
        let (a, b) = (Code::library(&at("a.so")).unwrap(), Code::library(&at("b.so")).unwrap());
        let torch = Code::libtorch(place.path()).unwrap();
        assert!(!list().has(&a));
        list().add(&BTreeSet::from([a.clone(), torch.clone()])).unwrap();
        list().add(&BTreeSet::from([a.clone()])).unwrap();
        assert!(list().has(&a) && list().has(&torch) && !list().has(&b));
        assert_eq!(fs::read_to_string(at("config/spo/trusted")).unwrap().lines().count(), 2);
        fs::write(at("a.so"), "other code").unwrap();
        assert!(!list().has(&Code::library(&at("a.so")).unwrap()));
        Trusted::in_file(None).add(&BTreeSet::from([b])).unwrap();
    }

    #[test]
    fn a_path_cannot_write_a_second_line() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a\nb.so");
        fs::write(&path, "code").unwrap();
        assert!(!Code::library(&path).unwrap().0.contains('\n'));
    }
}
