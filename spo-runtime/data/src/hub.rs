//! Sources that are data sets of the Hugging Face Hub, in its cache, or folders in the layout of one.

use std::path::PathBuf;

use spo_hub::{Hub, Progress, Repo, What, is_rows, split_revision};

use crate::error::{DataError, Result};
use crate::source::Source;

/// The data set that a source names: its path does not exist here, has the form `owner/name`, and is none of a data file.
pub(crate) fn named(source: &Source) -> Result<Option<(Repo, Option<&str>)>> {
    let refused = |words: String| Err(DataError::in_file(&source.path, words));
    let split = split_revision(&source.path).filter(|(id, _)| !is_rows(id));
    let found = split.filter(|_| source.path.symlink_metadata().is_err());
    match (found.and_then(|(id, revision)| Some((Repo::dataset(id)?, revision))), &source.revision) {
        (None, Some(_)) => {
            refused("`revision` has no effect: it is not the id of a data set on the hub".to_owned())
        }
        (Some((_, Some(_))), Some(_)) => {
            refused("names a revision, and so does `revision`: remove the one or the other".to_owned())
        }
        (Some((repo, revision)), own) => Ok(Some((repo, revision.or(own.as_deref())))),
        (None, None) => Ok(None),
    }
}

fn wanted(source: &Source) -> What<'_> {
    What::Rows { subset: source.subset.as_deref(), split: source.split.as_deref() }
}

/// The files of a data set of the hub, from its cache; `None` if the source is none.
pub(crate) fn cached(source: &Source) -> Result<Option<Vec<PathBuf>>> {
    let Some((repo, revision)) = named(source)? else { return Ok(None) };
    let found = Hub::from_environment().cached(&repo, revision, &wanted(source)).ok_or_else(|| {
        DataError::in_file(
            &source.path,
            "there is no such file, and no such data set in the cache of the hub",
        )
    })?;
    rows(source, &found.folder).map(Some)
}

/// The files of a split or a subset in a folder of this machine.
pub(crate) fn in_folder(source: &Source) -> Result<Vec<PathBuf>> {
    match source.path.is_dir() {
        true => rows(source, &source.path),
        false if !source.path.exists() => Ok(vec![source.path.clone()]),
        false => {
            Err(DataError::in_file(&source.path, "`subset` and `split` have no effect: it is no folder"))
        }
    }
}

fn rows(source: &Source, folder: &std::path::Path) -> Result<Vec<PathBuf>> {
    let found = spo_hub::in_folder(folder, source.subset.as_deref(), source.split.as_deref());
    found.map_err(|error| DataError::in_file(&source.path, error.to_string()))
}

/// Fetches the data set that a source names, if it does, and notes its commit.
pub(crate) fn fetch(source: &mut Source, progress: &mut dyn FnMut(Progress<'_>)) -> Result<()> {
    let Some((repo, revision)) = named(source)? else { return Ok(()) };
    let found = Hub::from_environment().fetch(&repo, revision, &wanted(source), progress);
    let found = found.map_err(|error| DataError::new(error.to_string()))?;
    let id = repo.id().into();
    (source.path, source.revision) = (id, Some(found.commit));
    Ok(())
}
