//! Tests that this crate's imports follow the layers described in ARCHITECTURE.md.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The layers from lowest to highest. A file imports only from its own layer and those below.
const ROOMS: [&str; 7] = ["root", "recipe", "store", "plan", "train", "sweep", "commands"];

/// Files outside the layers: test support may import from anywhere.
const EXEMPT: [&str; 2] = ["testing", "tidy"];

/// A module of this crate: its path without `crate::`, and its text without comments.
struct Module {
    path: Vec<String>,
    text: String,
}

impl Module {
    fn name(&self) -> String {
        self.path.join("::")
    }

    fn room(&self) -> &str {
        room(&self.path[0])
    }

    /// The modules it names: `crate::a::b`, `super::c`, `self::d`, using the longest prefix that is a module.
    fn imports(&self, known: &BTreeSet<String>) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for (start, from) in [("crate::", 0), ("super::", self.path.len() - 1)] {
            for (at, _) in self.text.match_indices(start) {
                let before = self.text[..at].chars().next_back();
                if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                    continue;
                }
                for tail in tails(&self.text[at + start.len()..]) {
                    let mut path = self.path[..from].to_vec();
                    path.extend(tail);
                    while !path.is_empty() && !known.contains(&path.join("::")) {
                        path.pop();
                    }
                    found.insert(path.join("::"));
                }
            }
        }
        // A module refers to its children by name alone.
        let children = known.iter().filter_map(|name| {
            let child = name.strip_prefix(&self.name())?.strip_prefix("::")?;
            (!child.contains("::")).then_some((name, format!("{child}::")))
        });
        let named = |path: &str| {
            self.text.match_indices(path).any(|(at, _)| {
                let before = self.text[..at].chars().next_back();
                !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
            })
        };
        found.extend(children.filter(|(_, path)| named(path)).map(|(name, _)| name.clone()));
        found.retain(|name| !name.is_empty() && *name != self.name());
        found
    }
}

/// The paths that a `use` tree or a path expression begins with, up to two levels of braces deep.
fn tails(text: &str) -> Vec<Vec<String>> {
    let word = |text: &str| -> String {
        text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>()
    };
    if let Some(inner) = text.strip_prefix('{') {
        let mut depth = 1;
        let end = inner.find(|c| {
            depth += match c {
                '{' => 1,
                '}' => -1,
                _ => 0,
            };
            depth == 0
        });
        let (mut depth, mut start, mut all) = (0, 0, Vec::new());
        let inner = &inner[..end.unwrap_or(inner.len())];
        for (i, c) in inner.char_indices().chain([(inner.len(), ',')]) {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    all.extend(tails(inner[start..i].trim()));
                    start = i + 1;
                }
                _ => {}
            }
        }
        return all;
    }
    let first = word(text);
    match text[first.len()..].strip_prefix("::") {
        Some(rest) => {
            tails(rest).into_iter().map(|tail| std::iter::once(first.clone()).chain(tail).collect()).collect()
        }
        None => vec![vec![first]],
    }
}

fn room(top: &str) -> &str {
    if ROOMS.contains(&top) { top } else { "root" }
}

fn modules() -> Vec<Module> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut waiting: Vec<PathBuf> = vec![source.clone()];
    let mut found = Vec::new();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let name = path.strip_prefix(&source).unwrap().with_extension("");
        let parts: Vec<String> = name.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        let is_rust = path.extension().is_some_and(|extension| extension == "rs");
        // The two crate roots name every layer, and tests are next to the code they test.
        let left_out = ["lib", "main", "allocator"].contains(&parts[0].as_str())
            || EXEMPT.contains(&parts[0].as_str())
            || parts.last().is_some_and(|part| part == "tests");
        if is_rust && !left_out {
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            let code: Vec<&str> = code.take_while(|line| *line != "mod tests {").collect();
            found.push(Module { path: parts, text: code.join("\n") });
        }
    }
    found
}

fn graph() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let modules = modules();
    let known: BTreeSet<String> = modules.iter().map(Module::name).collect();
    modules.iter().map(|m| (m.name(), (m.room().to_owned(), m.imports(&known)))).collect()
}

#[test]
fn no_import_runs_upwards() {
    let floor = |room: &str| ROOMS.iter().position(|r| *r == room).unwrap();
    let graph = graph();
    let mut imports = 0;
    for (name, (own, targets)) in &graph {
        for target in targets {
            imports += 1;
            let other = &graph[target].0;
            assert!(
                floor(other) <= floor(own),
                "{name} ({own}) imports {target} ({other}), which lies above it"
            );
        }
    }
    assert!(graph.len() > 40 && imports > 100, "the source was not understood: {} {imports}", graph.len());
}

#[test]
fn no_imports_form_a_circle() {
    let graph = graph();
    let mut left: BTreeMap<&str, &BTreeSet<String>> =
        graph.iter().map(|(name, (_, targets))| (name.as_str(), targets)).collect();
    loop {
        let free: Vec<&str> = left
            .iter()
            .filter(|(_, targets)| targets.iter().all(|target| !left.contains_key(target.as_str())))
            .map(|(name, _)| *name)
            .collect();
        if free.is_empty() {
            break;
        }
        left.retain(|name, _| !free.contains(name));
    }
    let circle: Vec<&&str> = left.keys().collect();
    assert!(left.is_empty(), "these modules import one another: {circle:?}");
}

#[test]
fn paths_are_found_in_trees_of_imports() {
    let found = tails("a::{b, c::{self, d}, e as f};");
    let found: Vec<String> = found.iter().map(|path| path.join("::")).collect();
    assert_eq!(found, ["a::b", "a::c::self", "a::c::d", "a::e"]);
}
