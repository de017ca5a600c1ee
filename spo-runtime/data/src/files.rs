//! The files that a path, a folder or a pattern stands for.

use std::path::{Path, PathBuf};

use crate::error::{DataError, Result};
use crate::read::recognize::extension;
use crate::source::Format;

/// Names listed in an error.
const LISTED: usize = 8;

/// The files, in the order of their names. What exists under the path is that, even if it looks like a pattern.
///
/// # Errors
/// When there is no such file; the message tells what is there.
pub(crate) fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_dir() {
        return in_folder(path);
    }
    let pattern = path.to_string_lossy();
    if path.exists() || !pattern.contains(['*', '?', '[']) {
        return Ok(vec![path.to_owned()]);
    }
    let refused = |words: String| DataError::in_file(path, words);
    let options = glob::MatchOptions {
        case_sensitive: true,
        require_literal_separator: true,
        require_literal_leading_dot: true,
    };
    let matches =
        glob::glob_with(&pattern, options).map_err(|e| refused(format!("not a pattern: {}", e.msg)))?;
    let mut found = matches.collect::<Result<Vec<_>, _>>().map_err(|e| refused(e.to_string()))?;
    found.retain(|path| path.is_file());
    found.sort_unstable();
    if !found.is_empty() {
        return Ok(found);
    }
    let fixed: PathBuf = path
        .components()
        .take_while(|part| !part.as_os_str().to_string_lossy().contains(['*', '?', '[']))
        .collect();
    let folder = if fixed.as_os_str().is_empty() { Path::new(".") } else { &fixed };
    let there = match folder.is_dir() {
        true => format!("{} holds {}", folder.display(), listed(&entries(folder))),
        false => format!("there is no folder {}", folder.display()),
    };
    Err(refused(format!("no file matches this pattern; {there}")))
}

/// The files of known formats in a folder, without those whose names begin with a dot.
fn in_folder(folder: &Path) -> Result<Vec<PathBuf>> {
    let is_data = |path: &PathBuf| path.is_file() && Format::of(&extension(path)).is_some();
    let entries = entries(folder);
    let found: Vec<_> = entries.iter().filter(|path| is_data(path)).cloned().collect();
    if !found.is_empty() {
        return Ok(found);
    }
    // Data sets may have their files in a folder below, and those to train on beside those to test on.
    let below = entries.iter().filter(|entry| entry.is_dir()).flat_map(|below| self::entries(below));
    let below: Vec<_> = below.filter(is_data).collect();
    let there = match below.is_empty() {
        true => format!("it holds {}", listed(&entries)),
        false => format!("name one below it, or a pattern: {}", listed(&below)),
    };
    let message = format!("a folder without data files ({}); {there}", Format::EXTENSIONS);
    Err(DataError::in_file(folder, message))
}

/// What is in a folder, by name.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let visible = entries.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'));
    let mut paths: Vec<_> = visible.map(|entry| entry.path()).collect();
    paths.sort_unstable();
    paths
}

fn listed(paths: &[PathBuf]) -> String {
    let names: Vec<_> = paths.iter().take(LISTED).map(|path| path.display().to_string()).collect();
    match paths.len() {
        0 => "nothing".to_owned(),
        all if all > LISTED => format!("{} and {} more", names.join(", "), all - LISTED),
        _ => names.join(", "),
    }
}
