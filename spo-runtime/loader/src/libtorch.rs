//! Finds, checks and loads libtorch for plugins that are linked against it, before the plugins are loaded.
//!
//! This program does not link libtorch, and a plugin does not say where it is. The libraries are opened
//! here by absolute path, and the plugin's dependencies are then resolved by name.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The version that plugins are built with. libtorch makes no ABI guarantee between versions.
pub const VERSION: &str = "2.11.0";

/// The environment variable for the folder of libtorch: the `torch` package of a Python environment, or an
/// unpacked libtorch.
pub const VARIABLE: &str = "SPO_LIBTORCH";

/// How to install libtorch.
const REMEDY: &str = "`cargo xtask libtorch`, in a checkout of spo, sets it up";

/// What to do when a recipe uses a part that only a library linked against libtorch provides.
pub fn remedy(kind: &str, name: &str) -> Option<&'static str> {
    ((kind, name) == ("backend", "tch")).then_some(REMEDY)
}

/// Name of the folder next to the plugin where libtorch is looked for.
const BESIDE: &str = "libtorch";

/// Whether a library's file names libtorch as a dependency.
pub fn is_needed(bytes: &[u8]) -> bool {
    let name = b"libtorch_cpu.";
    bytes.windows(name.len()).any(|window| window == name)
}

/// Loads libtorch once per program: from the folder named in the recipe, else the folder in [`VARIABLE`],
/// else `libtorch` next to the plugin, else the active virtual environment.
///
/// # Errors
/// A message, when libtorch is not found, has another version, or fails to load.
pub fn load(plugin: &Path, named: Option<&Path>) -> Result<(), String> {
    static LOADED: Mutex<bool> = Mutex::new(false);
    let mut loaded = LOADED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if *loaded {
        return Ok(());
    }
    let folder = find(plugin, named)?;
    check(&folder)?;
    for name in ["c10", "torch_cpu"] {
        let path = file(&folder, name);
        let path = path.canonicalize().map_err(|e| format!("{}: {e}", path.display()))?;
        // SAFETY: this runs the initialisers of libtorch. The user named its folder or accepted the
        // default.
        let library = unsafe { libloading::Library::new(&path) }
            .map_err(|e| format!("libtorch cannot be loaded: {}", crate::library::loader_words(&e)))?;
        // Never unload: its threads may outlive everything else.
        std::mem::forget(library);
    }
    *loaded = true;
    Ok(())
}

fn file(folder: &Path, name: &str) -> PathBuf {
    let (prefix, suffix) = (std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    folder.join("lib").join(format!("{prefix}{name}{suffix}"))
}

/// Whether a folder contains libtorch.
pub fn is_at(folder: &Path) -> bool {
    file(folder, "torch_cpu").exists()
}

fn find(plugin: &Path, named: Option<&Path>) -> Result<PathBuf, String> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let told = named.map(|folder| ("plugins.libtorch", folder.to_owned()));
    if let Some((who, folder)) = told.or_else(|| Some((VARIABLE, variable(VARIABLE)?))) {
        let missing = || {
            format!(
                "{who} is {}, where there is no {}",
                folder.display(),
                file(Path::new(""), "torch_cpu").display()
            )
        };
        return is_at(&folder).then(|| folder.clone()).ok_or_else(missing);
    }
    let beside = plugin.parent().map(|folder| folder.join(BESIDE));
    let environment = variable("VIRTUAL_ENV").into_iter().flat_map(|folder| packages(&folder));
    beside.into_iter().chain(environment).find(|folder| is_at(folder)).ok_or_else(|| {
        format!(
            "it needs libtorch {VERSION}, which is neither beside it (as `{BESIDE}`) nor in an active virtual \
             environment; {REMEDY}, or {VARIABLE} says where it is"
        )
    })
}

/// Folders of a Python environment that may contain libtorch.
fn packages(environment: &Path) -> Vec<PathBuf> {
    let versions = std::fs::read_dir(environment.join("lib")).into_iter().flatten().flatten();
    versions.map(|version| version.path().join("site-packages/torch")).collect()
}

/// The version stated in the folder's own files.
pub fn version(folder: &Path) -> Option<String> {
    // `__version__ = '2.11.0+cu130'`, or just the number.
    let text = ["version.py", "build-version"]
        .iter()
        .find_map(|name| spo_api::read_small(&folder.join(name)).ok())?;
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find(|line| line.contains("__version__ =")).or_else(|| text.lines().next())?;
    let start = line.find(|c: char| c.is_ascii_digit())?;
    let number = line[start..].split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
    Some(number.to_owned())
}

/// Checks that a folder's libtorch is the version that plugins are built with.
///
/// # Errors
/// A message, when the version is different or cannot be determined.
pub fn check(folder: &Path) -> Result<(), String> {
    let at = folder.display();
    match version(folder) {
        Some(version) if version == VERSION => Ok(()),
        Some(other) => Err(format!("{at} holds libtorch {other}, but {VERSION} is needed; {REMEDY}")),
        None => Err(format!("{at} does not say which version of libtorch it holds; {VERSION} is needed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_either_file() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        assert!(check(at).unwrap_err().contains("does not say"));
        std::fs::write(at.join("build-version"), "2.11.0+cpu\n").unwrap();
        assert_eq!(check(at), Ok(()));
        std::fs::write(at.join("version.py"), "from typing import Optional\n__version__ = '2.7.1+cu126'\n")
            .unwrap();
        let words = check(at).unwrap_err();
        assert!(words.contains("libtorch 2.7.1") && words.contains(VERSION), "{words}");
    }

    #[test]
    fn a_folder_that_was_named_is_the_only_one_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let beside = folder.path().join(BESIDE);
        std::fs::create_dir_all(beside.join("lib")).unwrap();
        std::fs::write(file(&beside, "torch_cpu"), "").unwrap();
        let plugin = folder.path().join("plugin");
        assert_eq!(find(&plugin, Some(&beside)), Ok(beside));
        let nowhere = folder.path().join("nowhere");
        assert!(find(&plugin, Some(&nowhere)).unwrap_err().starts_with("plugins.libtorch is "));
    }

    #[test]
    fn only_what_is_linked_to_it_needs_it() {
        assert!(is_needed(b"\0libm.so.6\0libtorch_cpu.so\0"));
        assert!(!is_needed(b"\0libm.so.6\0libc.so.6\0"));
    }
}
