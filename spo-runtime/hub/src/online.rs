//! What the hub itself has, and what comes of it when it cannot be asked.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::download::{Download, Listing};
use crate::hub::{CONVERTED, Hub, Progress, What};
use crate::repo::{MAIN, Repo};
use crate::{Error, Result, Snapshot, model, refused, rows};

/// Commits that revisions were found to be, by the address of the hub, so that one process sees one state of it.
static FOUND: Mutex<BTreeMap<(String, Repo, String), String>> = Mutex::new(BTreeMap::new());

/// Why something did not come from the hub.
pub(crate) enum Failure {
    /// It could not be reached.
    Unreachable(String),
    /// It was, and said no.
    Refused(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Refused(error)
    }
}

/// Brings what is wanted of a revision into the cache, or takes what is there if the hub cannot be reached.
pub(crate) fn fetch(
    hub: &Hub,
    (repo, revision, what): (&Repo, Option<&str>, &What<'_>),
    cached: Option<Snapshot>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Snapshot> {
    match (from_hub(hub, (repo, revision, what), progress), cached) {
        (Ok(found), _) => Ok(found),
        (Err(Failure::Unreachable(why)), Some(found)) => {
            progress(Progress::Unreachable(&why));
            Ok(found)
        }
        (Err(Failure::Unreachable(why)), None) => {
            refused(format!("`{}` is not in the cache of the hub, and {why}", repo.id()))
        }
        (Err(Failure::Refused(error)), _) => Err(error),
    }
}

fn from_hub(
    hub: &Hub,
    (repo, revision, what): (&Repo, Option<&str>, &What<'_>),
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Snapshot, Failure> {
    let asked = revision.unwrap_or(MAIN);
    let key = (hub.endpoint.clone(), repo.clone(), asked.to_owned());
    let found = || FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    let known = found().get(&key).cloned();
    let mut download = Download::new(hub, repo, progress);
    let listing = download.list(known.as_deref().unwrap_or(asked), asked)?;
    let (listing, wanted) = match what {
        What::Model => {
            let wanted = model::model(repo, &listing.names)?;
            (listing, wanted)
        }
        What::Tokenizer => {
            let wanted = model::tokenizer(&listing.names);
            (listing, wanted)
        }
        What::Rows { .. } => of_rows(&mut download, listing, revision.is_none(), what)?,
    };
    let snapshot = download.files(&listing, &wanted)?;
    found().insert(key, snapshot.commit.clone());
    Ok(snapshot)
}

/// The files of a split. Of a data set in formats that are not read, the files that the hub has converted, if it may be.
fn of_rows(
    download: &mut Download<'_>,
    listing: Listing,
    converted: bool,
    what: &What<'_>,
) -> Result<(Listing, Vec<String>), Failure> {
    let What::Rows { subset, split } = what else { return Ok((listing, Vec::new())) };
    let readme = download.readme(&listing)?;
    if let Some(files) = rows::select(&listing.names, &readme, *subset, *split)? {
        return Ok((listing, files));
    }
    let none = || Error("no file of the data set has a format that is read".to_owned());
    if !converted {
        return Err(none().into());
    }
    let listing = match download.list(CONVERTED, CONVERTED) {
        Err(Failure::Refused(_)) => return Err(none().into()),
        other => other?,
    };
    let files = rows::select(&listing.names, "", *subset, *split)?.ok_or_else(none)?;
    Ok((listing, files))
}
