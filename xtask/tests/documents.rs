//! Markdown files: every link leads somewhere, and every file of the project that they name exists.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

/// A Markdown file.
struct Document {
    /// Where its links lead.
    links: Vec<String>,
    /// What it sets in code within its text.
    code: Vec<String>,
    /// The anchors of its headings.
    anchors: BTreeSet<String>,
}

impl Document {
    fn parse(text: &str) -> Self {
        let mut document = Document { links: Vec::new(), code: Vec::new(), anchors: BTreeSet::new() };
        let mut heading: Option<String> = None;
        for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
            match event {
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    document.links.push(dest_url.into_string());
                }
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    let anchor = anchor(&heading.take().expect("a heading was begun"));
                    // The second heading of a name is told apart by a number.
                    let again = |n: &usize| format!("{anchor}-{n}");
                    let taken = |name: &String| document.anchors.contains(name);
                    let free = if taken(&anchor) {
                        (1..).map(|n| again(&n)).find(|name| !taken(name))
                    } else {
                        None
                    };
                    document.anchors.insert(free.unwrap_or(anchor));
                }
                Event::Text(text) => heading.iter_mut().for_each(|heading| heading.push_str(&text)),
                Event::Code(text) => {
                    heading.iter_mut().for_each(|heading| heading.push_str(&text));
                    document.code.push(text.into_string());
                }
                _ => {}
            }
        }
        document
    }
}

/// A heading's anchor, as code hosts make it: lower case, hyphens for spaces, without punctuation.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask stands in the project").to_owned()
}

/// Every Markdown file of the project, by its path from the root.
fn documents() -> BTreeMap<PathBuf, Document> {
    fn collect(root: &Path, folder: &Path, found: &mut BTreeMap<PathBuf, Document>) {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let path = folder.join(&name);
            if entry.file_type().unwrap().is_dir() {
                // Neither what was built nor what runs left.
                if !name.starts_with('.') && !["target", "runs"].contains(&&*name) {
                    collect(root, &path, found);
                }
            } else if name.ends_with(".md") {
                let document = Document::parse(&fs::read_to_string(entry.path()).unwrap());
                found.insert(path, document);
            }
        }
    }
    let mut found = BTreeMap::new();
    collect(&root(), Path::new(""), &mut found);
    found
}

/// A path without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut plain, component| {
        match component {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            other => plain.push(other),
        }
        plain
    })
}

#[test]
fn every_link_leads_somewhere() {
    let documents = documents();
    assert!(documents.len() > 10, "{:?}", documents.keys());
    let mut broken = Vec::new();
    for (path, document) in &documents {
        for link in document.links.iter().filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => path.clone(),
                file => plain(&path.parent().expect("a file is in a folder").join(file)),
            };
            let found = root().join(&target).exists();
            let anchored =
                anchor.is_empty() || documents.get(&target).is_some_and(|d| d.anchors.contains(anchor));
            if !found || !anchored {
                broken.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
}

#[test]
fn every_file_that_is_named_exists() {
    let mut missing = Vec::new();
    for (path, document) in &documents() {
        for name in document.code.iter().filter(|name| !name.contains([' ', '*'])) {
            let top = name.split_once('/').map(|(top, _)| top);
            // Other paths are those of a user's files.
            let ours = top.is_some_and(|top| !["target", "runs"].contains(&top) && root().join(top).is_dir());
            if ours && !root().join(name).exists() {
                missing.push(format!("{}: {name}", path.display()));
            }
        }
    }
    assert!(missing.is_empty(), "files that do not exist:\n{}", missing.join("\n"));
}

#[test]
fn headings_have_the_anchors_that_code_hosts_give_them() {
    let text = "# Where, `how`?\n## The same\n## The same\n### a_b-c (d)\n[x](y.md#z) `[no](link)`\n\n    [no](link)\n";
    let document = Document::parse(text);
    let anchors: Vec<&str> = document.anchors.iter().map(String::as_str).collect();
    assert_eq!(anchors, ["a_b-c-d", "the-same", "the-same-1", "where-how"]);
    assert_eq!(document.links, ["y.md#z"]);
    assert_eq!(document.code, ["how", "[no](link)"]);
}
