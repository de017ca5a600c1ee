//! docs/reliability.md lists every place in the sources that removes or replaces a file or a folder, each with the proof
//! that it may. A new one has to be added there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Calls that remove or replace something, or open it in order to.
const CALLS: [&str; 14] = [
    "remove_file(",
    "remove_dir(",
    "remove_dir_all(",
    "fs::rename(",
    "fs::copy(",
    "fs::write(",
    "File::create(",
    "OpenOptions::new(",
    "write_whole(",
    "write_json(",
    "write_text(",
    "write_bytes(",
    "write_safetensors(",
    "write_encoded(",
];

/// The section of docs/reliability.md with the list.
const SECTION: &str = "\n## Every such place in the sources\n";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask stands in the project").to_owned()
}

/// The Rust files below a folder that are part of a program or a library.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry")) {
        let (path, name) = (entry.path(), entry.file_name());
        let tests = ["target", "tests", "tests.rs", "benches", "examples", "conformance", "plugins"];
        if name.to_string_lossy().starts_with('.') || tests.iter().any(|other| name == *other) {
            continue;
        }
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// How often a text calls one of [`CALLS`], outside of comments and tests.
fn calls(text: &str) -> usize {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = code.take_while(|line| *line != "mod tests {");
    // Not a definition, nor another name that ends like this.
    let is_call = |before: &str| {
        !before.ends_with("fn ") && !before.ends_with(|c: char| c.is_alphanumeric() || c == '_')
    };
    let of_line = |line: &str| -> usize {
        let starts = |call: &str| line.match_indices(call).filter(|(at, _)| is_call(&line[..*at])).count();
        CALLS.into_iter().map(starts).sum()
    };
    code.map(of_line).sum()
}

#[test]
fn every_remover_is_listed_with_its_proof() {
    let mut files = Vec::new();
    sources(&root(), &mut files);
    let count = |path: &PathBuf| {
        let name = path.strip_prefix(root()).expect("below the root").display().to_string();
        (name, calls(&fs::read_to_string(path).expect("text")))
    };
    let found: BTreeMap<String, usize> = files.iter().map(count).filter(|(_, calls)| *calls > 0).collect();
    let text = fs::read_to_string(root().join("docs/reliability.md")).expect("text");
    let (_, section) = text.split_once(SECTION).expect("the section of the list");
    let rows =
        section.split("\n## ").next().unwrap_or_default().lines().filter(|line| line.starts_with("| `"));
    let listed: BTreeMap<String, usize> = rows
        .map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            assert!(cells.len() == 4 && !cells[3].is_empty(), "file, calls, what, proof: {row}");
            (cells[0].trim_matches('`').to_owned(), cells[1].parse().expect("a number of calls"))
        })
        .collect();
    assert_eq!(listed, found, "docs/reliability.md lists (left) what the sources do (right)");
}

#[test]
fn calls_are_told_from_definitions_comments_and_tests() {
    let text = "// fs::write(a)\nfn write_json(a: A) {\n  fs::write(a).and_then(|()| std::fs::remove_file(b));\n  \
                my_write_text(c);\n  write_text(d);\n}\nmod tests {\n  fs::write(e)\n}\n";
    assert_eq!(calls(text), 3);
}
