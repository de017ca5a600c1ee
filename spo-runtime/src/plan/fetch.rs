//! Makes sure that the models and the data sets that are named by their ids on the hub are in its cache, and notes in the
//! recipe which commits they are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use console::Term;
use serde_json::Value;
use spo_data::Source;
use spo_hub::{Hub, Progress, What, is_commit, split_revision};

use super::folders;
use crate::error::BadInput;
use crate::hub::{folder, model_id};
use crate::recipe::document::Document;
use crate::recipe::{External, Recipe, Reference};
use crate::reporter::complain;
use crate::terminal::Line;

/// Fetches what a recipe names by ids. A run that is continued keeps the commits of `earlier`, its recipe as it was recorded.
///
/// # Errors
/// [`BadInput`] with the location in the recipe.
pub(super) fn fetch(
    document: &Document,
    recipe: &mut Recipe,
    earlier: Option<&Value>,
) -> Result<(), BadInput> {
    let mut kept = Kept::default();
    earlier.into_iter().for_each(|earlier| kept.collect(earlier));
    let error = |at: &str| {
        let at = at.to_owned();
        move |problem: String| document.error(&at, problem)
    };
    let section = &mut recipe.model;
    if let Some(path) = section.path.as_mut() {
        if section.revision.is_some() && path.exists() {
            let message = format!("has no effect: {} is on this machine", path.display());
            return Err(document.error("model.revision", message));
        }
        let found =
            fetched(path, section.revision.as_deref(), &What::Model, &kept).map_err(error("model.path"))?;
        if let Some((id, commit)) = found {
            (*path, section.revision) = (id.into(), Some(commit));
        }
    }
    let adapter = recipe.model.adapter.as_mut().and_then(|adapter| adapter.path.as_mut());
    let mut others = vec![
        ("model.tokenizer".to_owned(), What::Tokenizer, recipe.model.tokenizer.as_mut()),
        ("model.adapter.path".to_owned(), What::Model, adapter),
    ];
    for (i, stage) in recipe.stage.iter_mut().enumerate() {
        if let Reference::External(External { path, adapter }) = &mut stage.reference {
            let at = |key| format!("stage[{i}].reference.external.{key}");
            others.push((at("path"), What::Model, Some(path)));
            others.push((at("adapter"), What::Model, adapter.as_mut()));
        }
    }
    for (at, what, path) in others {
        let Some(path) = path else { continue };
        if let Some((id, commit)) = fetched(path, None, &what, &kept).map_err(error(&at))? {
            *path = format!("{id}@{commit}").into();
        }
    }
    for rows in recipe.rows_mut() {
        let place = rows.place.clone();
        for source in &mut rows.sources {
            fetch_rows(source, &kept).map_err(error(&place))?;
        }
    }
    Ok(())
}

/// The folder of a model or an adapter that a command names: its own, or that of an id, which is fetched.
///
/// # Errors
/// A message that says what is neither here nor to be had.
pub(crate) fn model(path: &Path) -> Result<PathBuf, String> {
    Ok(match fetched(path, None, &What::Model, &Kept::default())? {
        Some((id, commit)) => folder(id.as_ref(), Some(&commit)),
        None => path.to_owned(),
    })
}

/// Fetches the rows that a command names.
///
/// # Errors
/// As [`model`].
pub(crate) fn rows(sources: &mut [Source]) -> Result<(), String> {
    sources.iter_mut().try_for_each(|source| fetch_rows(source, &Kept::default()))
}

fn fetch_rows(source: &mut Source, kept: &Kept) -> Result<(), String> {
    let path = source.path.clone();
    if source.revision.is_none()
        && let Some((id, None)) = split_revision(&path)
    {
        source.revision = source.hub().map_err(|e| e.to_string())?.and_then(|_| kept.commit(id));
    }
    let mut bar = Bar::default();
    let fetched = source.fetch(&mut |progress| bar.show(&path, progress));
    bar.finish();
    fetched.map_err(|error| neither(&path, &error.message))
}

/// The id and the commit of what a path names on the hub, which is in the cache then; `None` if the path is none of an id.
fn fetched(
    path: &Path,
    revision: Option<&str>,
    what: &What<'_>,
    kept: &Kept,
) -> Result<Option<(String, String)>, String> {
    let Some((repo, named)) = model_id(path) else { return Ok(None) };
    if named.is_some() && revision.is_some() {
        return Err(format!(
            "{} names a revision, and so does `revision`: remove the one or the other",
            path.display()
        ));
    }
    let commit = kept.commit(repo.id());
    let revision = named.or(revision).or(commit.as_deref());
    let mut bar = Bar::default();
    let found =
        Hub::from_environment().fetch(&repo, revision, what, &mut |progress| bar.show(path, progress));
    bar.finish();
    let found = found.map_err(|error| neither(path, &error.to_string()))?;
    Ok(Some((repo.id().to_owned(), found.commit)))
}

/// What is said of a path that may be one of this machine, or an id.
fn neither(path: &Path, error: &str) -> String {
    match folders::exists(path) {
        Err(absent) => format!("{absent}; and as an id on the hub: {error}"),
        Ok(()) => error.to_owned(),
    }
}

/// The commits of an earlier run, by the ids. What was two commits of one id is not among them.
#[derive(Default)]
struct Kept(BTreeMap<String, Option<String>>);

impl Kept {
    fn collect(&mut self, recorded: &Value) {
        match recorded {
            Value::Object(table) => {
                let text = |key: &str| table.get(key).and_then(Value::as_str);
                if let (Some(id), Some(commit)) = (text("path"), text("revision")) {
                    self.add(id, commit);
                }
                table.values().for_each(|inner| self.collect(inner));
            }
            Value::Array(list) => list.iter().for_each(|inner| self.collect(inner)),
            Value::String(text) => {
                if let Some((id, Some(commit))) = split_revision(text.as_ref()) {
                    self.add(id, commit);
                }
            }
            _ => {}
        }
    }

    fn add(&mut self, id: &str, commit: &str) {
        if is_commit(commit) {
            let known = self.0.entry(id.to_owned()).or_insert_with(|| Some(commit.to_owned()));
            if known.as_deref() != Some(commit) {
                *known = None;
            }
        }
    }

    fn commit(&self, id: &str) -> Option<String> {
        self.0.get(id)?.clone()
    }
}

/// The progress of downloads: a line that is drawn again and again on a terminal, else a line for each file.
#[derive(Default)]
struct Bar {
    line: Option<Line>,
    file: String,
}

impl Bar {
    /// Width of the bar.
    const WIDTH: u64 = 20;

    fn show(&mut self, of: &Path, progress: Progress<'_>) {
        match progress {
            Progress::Unreachable(why) => {
                complain(&format!("note: {}: {why}: what is in the cache of the hub is used", of.display()));
            }
            Progress::File(name, there, all) => {
                let begins = self.file != name;
                if begins {
                    self.finish();
                    (self.line, self.file) = (Line::on(Term::stderr()), name.to_owned());
                }
                let mega = |bytes: u64| format!("{:.1}", bytes as f64 / 1e6);
                match &mut self.line {
                    Some(line) => {
                        let done = (Self::WIDTH * there / all.max(1)).min(Self::WIDTH) as usize;
                        let bar = "\u{2588}".repeat(done) + &"\u{2591}".repeat(Self::WIDTH as usize - done);
                        line.set(format!("{name} {bar} {} / {} MB", mega(there), mega(all)));
                    }
                    None if begins => {
                        complain(&format!("note: downloading {name} of {} ({} MB)", of.display(), mega(all)));
                    }
                    None => {}
                }
            }
        }
    }

    fn finish(&mut self) {
        if let Some(line) = self.line.take() {
            line.finish();
        }
    }
}
