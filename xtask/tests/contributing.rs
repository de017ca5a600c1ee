//! The lists of CONTRIBUTING.md are true: for each addition, they name exactly the files that mention an example of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A section of CONTRIBUTING.md, and the words that a file contains, in its path or its text, if and only if it was
/// touched to add the example of that section.
const EXAMPLES: [(&str, &[&str]); 6] = [
    ("A loss", &["cal-dpo", "cal_dpo", "CalDpo"]),
    (
        "A step",
        &[
            "\"projected\"",
            "`projected`",
            "mod projected",
            "steps/projected.rs",
            "## projected",
            "projected, single",
        ],
    ),
    ("An architecture", &["starcoder2", "Starcoder2", "StarCoder2"]),
    (
        "An optimizer",
        &[
            "\"rmsprop\"",
            "`rmsprop`",
            "mod rmsprop",
            "optimizers/rmsprop.rs",
            "the gradient over its root mean square",
        ],
    ),
    (
        "A file format",
        &[
            "Format::Parquet",
            "`\"parquet\"`",
            "mod parquet",
            "read/parquet.rs",
            "damaged_parquet",
            "fn parquet_",
        ],
    ),
    ("A command", &["spo-run export", "export::Export", "\"export\"", "commands/export.rs"]),
];

/// Files that tell what was measured or changed with parts that existed, and the list itself.
const RECORDS: [&str; 6] = [
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs/benchmarks",
    "docs/spo",
    "recipes",
    "xtask/tests/contributing.rs",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask stands in the project").to_owned()
}

/// The path and the text of every file of the project that could mention a part.
fn files() -> Vec<(String, String)> {
    fn collect(folder: &Path, path: &str, found: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
            let record = RECORDS.iter().any(|record| path.starts_with(record));
            if record || name.starts_with('.') || ["target", "runs"].contains(&&*name) {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                collect(&entry.path(), &path, found);
            } else if let Ok(text) = fs::read_to_string(entry.path()) {
                found.push((path, text));
            }
        }
    }
    let mut found = Vec::new();
    collect(&root(), "", &mut found);
    found
}

/// The files and folders that the table of a section names.
fn listed(contributing: &str, section: &str) -> BTreeSet<String> {
    let (_, rest) = contributing.split_once(&format!("\n### {section}\n")).expect("the section is there");
    let own = rest.split("\n### ").next().expect("a first part");
    let rows = own.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    rows.map(|(path, _)| path.to_owned()).collect()
}

#[test]
fn the_lists_name_the_files_that_an_example_touched() {
    let contributing = fs::read_to_string(root().join("CONTRIBUTING.md")).unwrap();
    let files = files();
    let mut wrong = String::new();
    for (section, words) in EXAMPLES {
        let listed = listed(&contributing, section);
        let mentions = |(path, text): &&(String, String)| {
            words.iter().any(|word| path.contains(word) || text.contains(word))
        };
        // A listed folder stands for the files in it.
        let covers = |entry: &String, path: &str| {
            entry == path || entry.ends_with('/') && path.starts_with(entry.as_str())
        };
        let found: Vec<&str> = files.iter().filter(mentions).map(|(path, _)| path.as_str()).collect();
        for path in found.iter().filter(|path| !listed.iter().any(|entry| covers(entry, path))) {
            wrong += &format!("{section}: {path} is not listed\n");
        }
        for entry in listed.iter().filter(|entry| !found.iter().any(|path| covers(entry, path))) {
            wrong += &format!("{section}: {entry} does not mention the example\n");
        }
    }
    assert!(wrong.is_empty(), "CONTRIBUTING.md:\n{wrong}");
}
