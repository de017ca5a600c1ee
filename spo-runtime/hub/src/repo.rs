//! The names of repositories and of their revisions.

use std::path::Path;

/// What a repository holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Model,
    Dataset,
}

/// A repository of the hub.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Repo {
    kind: Kind,
    id: String,
}

impl Repo {
    /// A model by its id; `None` if that has not the form `owner/name`.
    pub fn model(id: &str) -> Option<Self> {
        is_id(id).then(|| Repo { kind: Kind::Model, id: id.to_owned() })
    }

    /// A data set by its id; `None` if that has not the form `owner/name`.
    pub fn dataset(id: &str) -> Option<Self> {
        is_id(id).then(|| Repo { kind: Kind::Dataset, id: id.to_owned() })
    }

    /// `owner/name`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// How sentences name it.
    pub(crate) fn kind(&self) -> &'static str {
        match self.kind {
            Kind::Model => "model",
            Kind::Dataset => "data set",
        }
    }

    /// The name of its folder in the cache.
    pub(crate) fn folder(&self) -> String {
        let kind = match self.kind {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        };
        format!("{kind}--{}", self.id.replace('/', "--"))
    }

    /// What its page is called below the address of the hub.
    #[cfg(feature = "download")]
    pub(crate) fn page(&self) -> String {
        match self.kind {
            Kind::Model => self.id.clone(),
            Kind::Dataset => format!("datasets/{}", self.id),
        }
    }

    /// What the hub's interface calls it.
    #[cfg(feature = "download")]
    pub(crate) fn interface(&self) -> String {
        match self.kind {
            Kind::Model => format!("api/models/{}", self.id),
            Kind::Dataset => format!("api/datasets/{}", self.id),
        }
    }

    /// The command of the Python client that downloads it.
    pub(crate) fn command(&self, revision: &str) -> String {
        let kind = match self.kind {
            Kind::Model => "",
            Kind::Dataset => " --repo-type dataset",
        };
        let revision = if revision == MAIN { String::new() } else { format!(" --revision {revision}") };
        format!("hf download {}{kind}{revision}", self.id)
    }
}

/// The revision that is meant if none is named.
pub(crate) const MAIN: &str = "main";

/// Whether a text has the form `owner/name`, of the characters that the hub allows.
fn is_id(text: &str) -> bool {
    let part = |part: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let ends = |c: char| matches!(c, '-' | '.');
        !part.is_empty()
            && part.len() <= 96
            && part.chars().all(allowed)
            && !part.starts_with(ends)
            && !part.ends_with(ends)
            && !part.contains("--")
            && !part.contains("..")
    };
    text.split_once('/').is_some_and(|(owner, name)| part(owner) && part(name))
}

/// A path and the revision that it names: `owner/name@revision`. `None` if it has not this form, with a revision or
/// without.
pub fn split_revision(path: &Path) -> Option<(&str, Option<&str>)> {
    let text = path.to_str()?;
    let (id, revision) = match text.split_once('@') {
        Some((id, revision)) => (id, Some(revision)),
        None => (text, None),
    };
    (is_id(id) && revision.is_none_or(is_revision)).then_some((id, revision))
}

/// Whether a text can name a branch, a tag or a commit.
pub(crate) fn is_revision(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '+');
    let part = |part: &str| !part.is_empty() && !part.starts_with('.');
    text.len() <= 250 && text.chars().all(allowed) && text.split('/').all(part)
}

/// Whether a revision is a whole commit, in hexadecimal.
pub fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_an_owner_and_a_name() {
        for id in ["HuggingFaceTB/SmolLM2-135M-Instruct", "trl-lib/ultrafeedback_binarized", "a/b.c", "1/2"] {
            assert!(is_id(id), "{id}");
        }
        for other in
            ["gpt2", "/a/b", "a/b/c", "../a", "a/..", "./a", "a/", "/a", "a b/c", "a--b/c", "~/a", "a\\b/c"]
        {
            assert!(!is_id(other), "{other}");
        }
    }

    #[test]
    fn a_revision_may_follow() {
        let split = |text: &'static str| split_revision(Path::new(text));
        assert_eq!(split("a/b"), Some(("a/b", None)));
        assert_eq!(split("a/b@v1"), Some(("a/b", Some("v1"))));
        assert_eq!(split("a/b@refs/pr/1"), Some(("a/b", Some("refs/pr/1"))));
        for wrong in ["a/b@", "a/b@../c", "a/b@/c", "a/b@c d", "a@b", "a/b@.c", "a/b@c//d"] {
            assert_eq!(split(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn folders_are_named_as_the_python_client_names_them() {
        assert_eq!(Repo::model("a-b/c").unwrap().folder(), "models--a-b--c");
        assert_eq!(Repo::dataset("a/b_c").unwrap().folder(), "datasets--a--b_c");
        assert_eq!(
            Repo::dataset("a/b").unwrap().command("v1"),
            "hf download a/b --repo-type dataset --revision v1"
        );
    }
}
