//! The workflows of the code host are YAML. One that is not is never run, and nobody is told.

use std::fs;
use std::path::Path;

use saphyr_parser::Parser;

#[test]
fn workflows_can_be_parsed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.github/workflows");
    let files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for event in Parser::new_from_str(&text) {
            assert!(event.is_ok(), "{}: {}", file.display(), event.unwrap_err());
        }
    }
}
