//! `docs/objectives.md` says what the code says.

use std::fmt::Write;
use std::path::Path;

use serde_json::Value;
use spo_api::{Entry, Layout, Requirements};

use crate::batches::{build, registry};

/// Everything before this line is written by hand.
const MARK: &str = "<!-- From here on generated from the code: SPO_WRITE_DOCS=1 cargo test -p spo-objectives --test losses guide -->";

fn needs(r: &Requirements) -> String {
    let data = match r.data {
        Layout::Pairs => "pairs",
        Layout::Unpaired => "unpaired answers",
        Layout::Demonstrations => "chosen answers",
    };
    let others = [
        (r.reference, "reference"),
        (r.collision, "collision statistic"),
        (r.mismatched, "mismatched answers"),
        (r.gaps, "scores"),
        (r.whole_batch, "whole batch"),
    ];
    std::iter::once(data)
        .chain(others.into_iter().filter_map(|(is, what)| is.then_some(what)))
        .map(str::to_owned)
        .chain(r.columns.iter().map(|column| format!("column `{}`", column.name)))
        .collect::<Vec<_>>()
        .join(", ")
}

/// A key's type or choices, and its bounds.
fn values(property: &Value, schema: &Value) -> String {
    let text = |v: &Value, key: &str| v.get(key).map(Value::to_string);
    if let Some(target) = property.get("$ref").and_then(Value::as_str) {
        let name = target.rsplit('/').next().unwrap();
        let variants = schema["$defs"][name]["oneOf"].as_array().unwrap();
        let variant = |v: &Value| match (&v["const"], &v["required"][0]) {
            (Value::Null, key) => format!("`{{ {} = ... }}`", key.as_str().unwrap()),
            (name, _) => format!("`{name}`"),
        };
        return variants.iter().map(variant).collect::<Vec<_>>().join(", ");
    }
    let bounds = [
        ("minimum", "at least"),
        ("exclusiveMinimum", "greater than"),
        ("maximum", "at most"),
        ("exclusiveMaximum", "less than"),
    ]
    .into_iter()
    .filter_map(|(key, words)| Some(format!("{words} {}", text(property, key)?)));
    std::iter::once(property["type"].as_str().unwrap().to_owned())
        .chain(bounds)
        .collect::<Vec<_>>()
        .join(", ")
}

fn section(entry: &Entry) -> String {
    let schema = (entry.schema)();
    let schema = schema.as_value();
    let mut text = format!("### {}\n\n", entry.name);
    writeln!(text, "{}\n", schema["description"].as_str().unwrap()).unwrap();
    let aliases = entry.aliases.iter().map(|a| format!(" Also called `{a}`.")).collect::<String>();
    writeln!(
        text,
        "Source: {}.{aliases} Needs: {}.\n",
        entry.source,
        needs(&build(entry.name, &serde_json::json!({})).requirements())
    )
    .unwrap();
    let none = serde_json::Map::new();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
    if properties.is_empty() {
        return text;
    }
    writeln!(text, "| key | default | values | meaning |\n|---|---|---|---|").unwrap();
    for (key, property) in properties {
        let meaning = property["description"].as_str().unwrap().replace('\n', " ").replace('|', "\\|");
        writeln!(text, "| `{key}` | `{}` | {} | {meaning} |", property["default"], values(property, schema))
            .unwrap();
    }
    text.push('\n');
    text
}

fn generated() -> String {
    let registry = registry();
    let entries: Vec<_> = registry.iter().filter(|e| e.build.kind() == "objective").collect();
    let mut text =
        String::from("\n## All objectives\n\n| name | what it is | needs | source |\n|---|---|---|---|\n");
    for entry in &entries {
        let needs = needs(&build(entry.name, &serde_json::json!({})).requirements());
        writeln!(text, "| [`{0}`](#{0}) | {1} | {needs} | {2} |", entry.name, entry.summary, entry.source)
            .unwrap();
    }
    text.push('\n');
    for entry in entries {
        text.push_str(&section(entry));
    }
    text.trim_end().to_owned() + "\n"
}

#[test]
fn the_guide_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/objectives.md");
    let current = std::fs::read_to_string(&path).unwrap();
    let (by_hand, _) = current.split_once(MARK).expect("the guide has its mark");
    let wanted = format!("{by_hand}{MARK}\n{}", generated());
    if std::env::var_os("SPO_WRITE_DOCS").is_some() {
        std::fs::write(&path, wanted).unwrap();
        return;
    }
    assert!(
        current == wanted,
        "docs/objectives.md is out of date: see the comment in it for how to renew it"
    );
}
