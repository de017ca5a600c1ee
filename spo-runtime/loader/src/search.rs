//! Finds plugins.

use std::path::{Path, PathBuf};

/// The environment variable that lists plugin folders, separated as in `PATH`.
pub const VARIABLE: &str = "SPO_PLUGIN_PATH";

/// The folders that are searched, in order: those in [`VARIABLE`], then the user's own folder
/// (`~/.local/share/spo/plugins`, or `spo/plugins` in `XDG_DATA_HOME`).
pub fn folders() -> Vec<PathBuf> {
    let listed = std::env::var_os(VARIABLE).unwrap_or_default();
    let mut folders: Vec<PathBuf> =
        std::env::split_paths(&listed).filter(|p| !p.as_os_str().is_empty()).collect();
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || variable("HOME").map(|home| home.join(".local/share"));
    folders.extend(variable("XDG_DATA_HOME").or_else(home).map(|data| data.join("spo/plugins")));
    folders
}

/// All libraries in the folders, sorted by name within each folder.
pub fn libraries() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in folders() {
        let mut here: Vec<PathBuf> = std::fs::read_dir(&folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|e| e == std::env::consts::DLL_EXTENSION))
            .collect();
        here.sort();
        found.extend(here);
    }
    found
}

/// The library that a recipe refers to, by a name such as `my-loss` or by a path.
///
/// # Errors
/// When there is none. The message lists the places that were searched.
pub fn resolve(spec: &str) -> Result<PathBuf, String> {
    let path = Path::new(spec);
    if !spec.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_') {
        let missing = || format!("there is no {}; build the plugin first", path.display());
        return path.exists().then(|| path.to_owned()).ok_or_else(missing);
    }
    let file =
        format!("{}{}{}", std::env::consts::DLL_PREFIX, spec.replace('-', "_"), std::env::consts::DLL_SUFFIX);
    let folders = folders();
    folders.iter().map(|folder| folder.join(&file)).find(|path| path.exists()).ok_or_else(|| {
        let listed: Vec<_> = folders.iter().map(|f| f.display().to_string()).collect();
        format!("there is no {file} in {}; give its path, or set {VARIABLE}", listed.join(", "))
    })
}
