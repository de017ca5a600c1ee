//! The rows of docs/data.md are read as it says.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use spo_api::Layout;

use crate::load;

/// The rows of the guide: the form that the block names, and the row.
fn rows() -> Vec<(Layout, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/data.md");
    let guide = std::fs::read_to_string(path).unwrap();
    let blocks = guide.split("```json ").skip(1);
    blocks
        .map(|block| {
            let (form, rest) = block.split_once('\n').unwrap();
            let layout = match form {
                "pairs" => Layout::Pairs,
                "demonstrations" => Layout::Demonstrations,
                "unpaired" => Layout::Unpaired,
                other => panic!("no form of a row: {other}"),
            };
            (layout, rest.split("```").next().unwrap().trim().to_owned())
        })
        .collect()
}

#[test]
fn every_row_of_the_guide_is_read_and_all_of_it_is_used() {
    let rows = rows();
    assert!(rows.len() >= 15, "{}", rows.len());
    for (layout, row) in &rows {
        let loaded = load("a.jsonl", row, *layout, |_, _| ());
        let data = loaded.data.unwrap_or_else(|| panic!("{row}: {}", loaded.error));
        let text = loaded.texts.concat().concat();
        assert!(text.contains('4') || text.contains("Four.") || text.contains('5'), "{text}");
        assert_eq!(data.report.unused.values().flatten().count(), 0, "{row}: {}", data.report);
    }
}

#[test]
fn every_column_is_in_the_guide() {
    let rows = rows();
    let mut shown: BTreeSet<String> = rows
        .iter()
        .flat_map(|(_, row)| {
            serde_json::from_str::<serde_json::Map<String, Value>>(row)
                .unwrap()
                .into_iter()
                .map(|(key, _)| key)
        })
        .collect();
    // Those of questions, which are no rows to train on, have an example in docs/evaluation.md.
    shown.extend(["answer", "choices"].map(str::to_owned));
    // The error of a column without a meaning lists all that have one.
    let error = load("a.jsonl", "{}", Layout::Pairs, |source, _| {
        source.columns.names.insert("no such column".into(), "x".into());
    });
    let (_, listed) = error.error.split_once("expected one of ").unwrap();
    let known: BTreeSet<String> = listed.split(", ").map(str::to_owned).collect();
    assert_eq!(known, shown);
}
