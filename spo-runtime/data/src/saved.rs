//! Folders that `save_to_disk` of the Python package `datasets` wrote.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use spo_api::nearest;

use crate::error::{DataError, Result};
use crate::source::Source;

/// The split that is meant if none is named.
const TRAIN: &str = "train";

/// `dataset_dict.json`: a folder of this name for each split.
#[derive(Deserialize)]
struct Splits {
    splits: Vec<String>,
}

/// `state.json`, beside the rows of one split.
#[derive(Deserialize)]
struct State {
    #[serde(rename = "_data_files")]
    files: Vec<FileName>,
    #[serde(rename = "_split")]
    split: Option<String>,
    /// In folders of old versions, the rows that are chosen of the files.
    #[serde(rename = "_indices_data_files")]
    chosen: Option<Vec<FileName>>,
}

#[derive(Deserialize)]
struct FileName {
    filename: PathBuf,
}

/// The files of a split, in their order; `None` if the source is no such folder.
///
/// # Errors
/// When there is no such split, or what the folder says of itself cannot be read.
pub(crate) fn files(source: &Source) -> Result<Option<Vec<PathBuf>>> {
    let (folder, wanted) = (&source.path, source.split.as_deref());
    let (dict, state) = (folder.join("dataset_dict.json"), folder.join("state.json"));
    if !dict.is_file() && !state.is_file() {
        return Ok(None);
    }
    if source.subset.is_some() {
        let words = "`subset` has no effect: a folder that `save_to_disk` wrote has splits alone";
        return Err(DataError::in_file(folder, words));
    }
    if !dict.is_file() {
        return files_of(folder, wanted).map(Some);
    }
    let Splits { splits } = read(&dict)?;
    let name = wanted.unwrap_or(TRAIN);
    if !splits.iter().any(|split| split == name) {
        let all: Vec<_> = splits.iter().map(|split| format!("`{split}`")).collect();
        let words = format!("there is no split `{name}`: name one as `split`, of {}", all.join(", "));
        let error = DataError::in_file(folder, words);
        return Err(error.suggest(wanted.and_then(|name| nearest(name, splits.iter().map(String::as_str)))));
    }
    files_of(&within(folder, Path::new(name))?, None).map(Some)
}

fn files_of(folder: &Path, wanted: Option<&str>) -> Result<Vec<PathBuf>> {
    let State { files, split, chosen } = read(&folder.join("state.json"))?;
    let refused = |words: String| Err(DataError::in_file(folder, words));
    if chosen.is_some_and(|files| !files.is_empty()) {
        return refused(
            "an old version of `datasets` wrote it: load it with a newer one, and save it again".into(),
        );
    }
    match (wanted, split) {
        (Some(wanted), Some(split)) if wanted != split => {
            return refused(format!("there is no split `{wanted}`: it holds `{split}` alone"));
        }
        (Some(_), None) => return refused("`split` has no effect: it holds rows of no split".into()),
        _ => {}
    }
    if files.is_empty() {
        return refused("state.json names no file: the data set is empty".into());
    }
    files.iter().map(|file| within(folder, &file.filename)).collect()
}

/// A file or folder below, by its name alone.
fn within(folder: &Path, name: &Path) -> Result<PathBuf> {
    match name.file_name() {
        Some(own) if own == name.as_os_str() => Ok(folder.join(name)),
        _ => Err(DataError::in_file(folder, format!("`{}` is no name of a file in it", name.display()))),
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read(path).map_err(|e| DataError::io(path, &e))?;
    serde_json::from_slice(&text).map_err(|e| {
        DataError::in_file(
            path,
            format!("not what `save_to_disk` of the Python package `datasets` writes: {e}"),
        )
    })
}
