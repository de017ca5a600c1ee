//! Where the hub and its cache are, and how something is got: from the cache, else from the hub.

use std::path::{Path, PathBuf};

use crate::cache::{Cached, names};
#[cfg(feature = "download")]
use crate::repo::is_commit;
use crate::repo::{MAIN, Repo, is_revision};
use crate::{Error, Result, Snapshot, model, refused, rows};

/// The branch on which the hub keeps data sets of other formats as Parquet files.
pub(crate) const CONVERTED: &str = "refs/convert/parquet";

/// The hub, as the environment describes it.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "download"), expect(dead_code, reason = "nothing is asked of the hub"))]
pub struct Hub {
    pub(crate) cache: PathBuf,
    pub(crate) endpoint: String,
    pub(crate) token: Option<String>,
    offline: bool,
}

/// What is wanted of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What<'a> {
    /// A model or an adapter, with its tokenizer.
    Model,
    /// A tokenizer alone.
    Tokenizer,
    /// A split of a subset of a data set; see [`in_folder`](crate::in_folder).
    Rows {
        /// The subset; by default the one that the data set says, or its only one.
        subset: Option<&'a str>,
        /// The split; by default `train`.
        split: Option<&'a str>,
    },
}

/// How far a download is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress<'a> {
    /// Bytes of a file that are there, and all of them.
    File(&'a str, u64, u64),
    /// The hub cannot be reached for this reason, and what is in the cache is used instead.
    Unreachable(&'a str),
}

impl Hub {
    /// The hub and the cache that the variables of the Python client name.
    pub fn from_environment() -> Self {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let path = |name: &str| set(name).map(|path| home(&path));
        let is_true = |name: &str| {
            set(name).is_some_and(|value| ["1", "ON", "YES", "TRUE"].contains(&&*value.to_uppercase()))
        };
        let folder = path("HF_HOME").unwrap_or_else(|| {
            let cache = path("XDG_CACHE_HOME").unwrap_or_else(|| home("~/.cache"));
            cache.join("huggingface")
        });
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE"));
        let kept = path("HF_TOKEN_PATH").unwrap_or_else(|| folder.join("token"));
        let token = set("HF_TOKEN").or_else(|| set("HUGGING_FACE_HUB_TOKEN"));
        let token = token.or_else(|| std::fs::read_to_string(kept).ok());
        Hub {
            cache: cache.unwrap_or_else(|| folder.join("hub")),
            endpoint: set("HF_ENDPOINT")
                .unwrap_or("https://huggingface.co".into())
                .trim_end_matches('/')
                .to_owned(),
            token: token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
            offline: is_true("HF_HUB_OFFLINE") || is_true("TRANSFORMERS_OFFLINE"),
        }
    }

    /// A hub at an address, with its cache in this folder, for nobody in particular.
    pub fn at(cache: &Path, endpoint: &str) -> Self {
        Hub { cache: cache.to_owned(), endpoint: endpoint.to_owned(), token: None, offline: false }
    }

    /// The hub as the holder of a token sees it.
    pub fn with_token(self, token: &str) -> Self {
        Hub { token: Some(token.to_owned()), ..self }
    }

    /// The cache alone: the hub is never asked.
    pub fn offline(self) -> Self {
        Hub { offline: true, ..self }
    }

    /// What is in the cache of a revision, `main` by default. Of a data set that the hub has converted, perhaps that.
    pub fn cached(&self, repo: &Repo, revision: Option<&str>, what: &What<'_>) -> Option<Snapshot> {
        let cached = Cached::of(&self.cache, repo);
        let whole = |found: &Snapshot| is_whole(&found.folder, what);
        let found = cached.find(revision.unwrap_or(MAIN)).filter(whole);
        found.or_else(|| cached.find(CONVERTED).filter(|_| revision.is_none()).filter(whole))
    }

    /// Makes sure that all that is wanted of a revision is in the cache. A commit that is there needs no network.
    ///
    /// # Errors
    /// If it is neither in the cache nor to be had; the message says why.
    pub fn fetch(
        &self,
        repo: &Repo,
        revision: Option<&str>,
        what: &What<'_>,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Snapshot> {
        if revision.is_some_and(|revision| !is_revision(revision)) {
            let revision = revision.unwrap_or_default();
            return refused(format!("`{revision}` is no revision: expected a branch, a tag or a commit"));
        }
        let cached = self.cached(repo, revision, what);
        #[cfg(feature = "download")]
        if !(self.offline || cached.is_some() && revision.is_some_and(is_commit)) {
            return crate::online::fetch(self, (repo, revision, what), cached, progress);
        }
        #[cfg(not(feature = "download"))]
        let _ = progress;
        cached.ok_or_else(|| Error(self.absent(repo, revision, what)))
    }

    /// Why something that is not in the cache is not to be had, and how to get it.
    fn absent(&self, repo: &Repo, revision: Option<&str>, what: &What<'_>) -> String {
        let asked = revision.unwrap_or(MAIN);
        let (id, kind, cache) = (repo.id(), repo.kind(), self.cache.display());
        let there = match Cached::of(&self.cache, repo).find(asked) {
            None if revision.is_some() => {
                format!("`{asked}` of the {kind} `{id}` is not in the cache of the hub ({cache})")
            }
            None => format!("the {kind} `{id}` is not in the cache of the hub ({cache})"),
            Some(found) => {
                let why = match what {
                    What::Rows { subset, split } => rows::in_folder(&found.folder, *subset, *split).err(),
                    _ => None,
                };
                let why = why.map_or(String::new(), |why| format!(": {why}"));
                format!("only a part of the {kind} `{id}` is in the cache of the hub ({cache}){why}")
            }
        };
        let how = repo.command(asked);
        match cfg!(feature = "download") {
            true => format!(
                "{there}, and HF_HUB_OFFLINE forbids to download it: unset it, or run `{how}` where there is a network"
            ),
            false => format!(
                "{there}, and this spo-run downloads nothing: run `{how}`, or build it with `cargo build --release --features hub`"
            ),
        }
    }
}

/// Whether all that is wanted is in a folder.
fn is_whole(folder: &Path, what: &What<'_>) -> bool {
    match what {
        What::Model => model::is_whole(folder),
        What::Tokenizer => !model::tokenizer(&names(folder)).is_empty(),
        What::Rows { subset, split } => rows::in_folder(folder, *subset, *split).is_ok(),
    }
}

/// A path that may begin with `~`.
fn home(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => path.into(),
    }
}
