//! No bytes make a reader panic.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use spo_api::Layout;
use spo_data::{Dataset, Fit, Format, Source, Tokenizer};

fn load(format: Format, content: &[u8]) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    fs::write(&path, content).unwrap();
    let source = Source { format: Some(format), ..Source::new(path) };
    let tokenizer = Tokenizer::characters("ab");
    let rows = |layout| {
        let loaded = Dataset::load(std::slice::from_ref(&source), layout, &tokenizer, &Fit::default());
        loaded.map_or(0, |data| data.examples.len())
    };
    [Layout::Pairs, Layout::Unpaired, Layout::Demonstrations].map(rows).iter().sum()
}

/// JSON of the right names and any types.
fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof!["null", "true", "-1e9", r#""[a-z ]{0,4}""#, Just("\"\\u00e9\"".to_owned())];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let key = prop::sample::select(vec![
            "role", "content", "from", "value", "type", "text", "prompt", "chosen", "tools",
        ]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            prop::collection::vec((key, inner), 0..4).prop_map(|fields| {
                let fields: Vec<_> = fields.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
                format!("{{{}}}", fields.join(","))
            }),
        ]
    })
}

fn row() -> impl Strategy<Value = String> {
    let names = vec![
        "prompt",
        "chosen",
        "rejected",
        "completion",
        "label",
        "messages",
        "conversations",
        "instruction",
        "input",
        "output",
        "history",
        "question",
        "system",
        "images",
        "tools",
        "chat_template_kwargs",
    ];
    prop::collection::vec((prop::sample::select(names), value()), 0..5).prop_map(|fields| {
        let fields: Vec<_> = fields.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
        format!("{{{}}}", fields.join(","))
    })
}

proptest! {
    #[test]
    fn any_bytes(content: Vec<u8>) {
        for format in [
            Format::Jsonl, Format::Json, Format::Csv, Format::Tsv, Format::Parquet, Format::Arrow,
        ] {
            load(format, &content);
        }
    }

    #[test]
    fn any_types_under_the_right_names(rows in prop::collection::vec(row(), 1..4)) {
        load(Format::Jsonl, rows.join("\n").as_bytes());
        load(Format::Json, format!("[{}]", rows.join(",")).as_bytes());
    }

    #[test]
    fn damaged_compression(at in any::<prop::sample::Index>(), byte: u8, cut in any::<prop::sample::Index>()) {
        for name in ["rows.jsonl.zst", "rows.jsonl.xz"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
            let mut content = fs::read(path).unwrap();
            let at = at.index(content.len());
            content[at] = byte;
            load(Format::Jsonl, &content);
            content.truncate(cut.index(content.len()));
            load(Format::Jsonl, &content);
        }
    }

    #[test]
    fn tables_are_read_as_they_were_written(
        cells in prop::collection::vec(prop::array::uniform3("a[a\",;\t\r\n é]{0,6}"), 1..6)
    ) {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = Tokenizer::characters("a\",;\t\r\n é");
        let hash = |name: &str, content: String| {
            let path = folder.path().join(name);
            fs::write(&path, content).unwrap();
            Dataset::load(&[Source::new(path)], Layout::Pairs, &tokenizer, &Fit::default()).unwrap().hash()
        };
        let names = ["prompt", "chosen", "rejected"];
        let row = |row: &[String; 3]| {
            let fields = names.iter().zip(row).map(|(name, text)| (name.to_string(), text.as_str().into()));
            format!("{}\n", serde_json::Value::Object(fields.collect()))
        };
        let expected = hash("a.jsonl", cells.iter().map(row).collect());
        for (name, separator, end) in [("a.csv", ",", "\n"), ("a.csv", ",", "\r\n"), ("a.tsv", "\t", "\n")] {
            let quoted = |text: &String| format!("\"{}\"", text.replace('"', "\"\""));
            let line = |row: &[String; 3]| row.each_ref().map(quoted).join(separator) + end;
            let table = names.join(separator) + end + &cells.iter().map(line).collect::<String>();
            assert_eq!(hash(name, table), expected);
        }
    }

    #[test]
    fn damaged_parquet(
        name in prop::sample::select(vec!["chat", "rows.brotli", "messages.zstd"]),
        at in any::<prop::sample::Index>(),
        byte: u8,
        cut in any::<prop::sample::Index>(),
    ) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/{name}.parquet"));
        let mut content = fs::read(path).unwrap();
        let at = at.index(content.len());
        content[at] = byte;
        load(Format::Parquet, &content);
        content.truncate(cut.index(content.len()));
        load(Format::Parquet, &content);
    }

    #[test]
    fn damaged_arrow(
        name in prop::sample::select(vec!["types", "lz4", "zstd"]),
        at in any::<prop::sample::Index>(),
        byte: u8,
        cut in any::<prop::sample::Index>(),
    ) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/{name}.arrow"));
        let mut content = fs::read(path).unwrap();
        let at = at.index(content.len());
        content[at] = byte;
        load(Format::Arrow, &content);
        content.truncate(cut.index(content.len()));
        load(Format::Arrow, &content);
    }
}
