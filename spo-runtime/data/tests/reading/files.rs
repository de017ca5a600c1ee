//! Files that hold their rows in another way than a line each, and files that hold none.

use std::fs;

use insta::assert_snapshot;
use serde_json::{Value, json};
use spo_api::Layout;
use spo_data::{Dataset, Fit, Format, Source};

use crate::{lines, load, tokenizer};

fn pairs() -> [Value; 2] {
    ["p", "q"].map(|prompt| json!({"prompt": prompt, "chosen": "g", "rejected": "b"}))
}

#[test]
fn rows_are_found_however_the_json_is_laid_out() {
    let [first, second] = pairs();
    let array = json!([first, second]);
    let layouts = [
        format!("{first}\n{second}\n"),
        format!("\u{feff}\n  \r\n{first}\r\n\r\n{second}"),
        format!("{first:#}\n{second:#}\n"),
        format!("{first:#}{second:#}").replace('\n', "\r\n"),
        array.to_string(),
        format!("\u{feff}\n{array:#}\n"),
        json!({"data": array}).to_string(),
        format!("{:#}", json!({"version": 2, "data": array, "notes": ["none"]})),
    ];
    for content in layouts {
        for (name, format) in
            [("a.json", None), ("a.jsonl", None), ("a", Some(Format::Jsonl)), ("a", Some(Format::Json))]
        {
            let loaded = load(name, &content, Layout::Pairs, |source, _| source.format = format);
            assert_eq!(
                loaded.texts,
                [["p", "g</s>", "b</s>"], ["q", "g</s>", "b</s>"]],
                "{name} {content}: {}",
                loaded.error
            );
        }
        let taken =
            load("a.json", &content, Layout::Pairs, |source, _| (source.skip, source.take) = (1, Some(1)));
        assert_eq!(taken.texts, [["q", "g</s>", "b</s>"]], "{content}");
    }
    // A row with one list, and nothing else, is a row.
    let dialogue = json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "g"}]);
    let row = json!({"messages": dialogue});
    for content in [row.to_string(), format!("{row:#}")] {
        assert_eq!(load("a.json", content, Layout::Demonstrations, |_, _| ()).texts, [["u:q;a:", "g;"]]);
    }
    let mapped =
        load("a.json", json!({"dialogue": dialogue}).to_string(), Layout::Demonstrations, |source, _| {
            source.columns.insert("messages".into(), "dialogue".into());
        });
    assert_eq!(mapped.texts, [["u:q;a:", "g;"]]);
}

#[test]
fn json_that_is_wrong_is_told_where_and_how() {
    let [first, second] = pairs();
    let row = json!({"prompt": "p", "chosen": "g"});
    let errors = [
        format!("{first},\n{second}"),
        format!("{first}{second}"),
        format!("{first}\n{{'prompt': 'p'}}"),
        r#"{"prompt": "p", "chosen": NaN, "rejected": "b"}"#.to_owned(),
        r#"{"prompt": "p", "chosen": "g", "rejected": "b",}"#.to_owned(),
        format!("{first:#},\n{second:#}"),
        first.to_string()[..20].to_owned(),
        format!("[{first},\n{second}"),
        format!("[{first}]\n[{second}]"),
        format!("{first}\n[{second}]"),
        json!({"train": [first], "test": [second]}).to_string(),
        format!("{}\n{second}", json!({"data": [first]})),
        json!({"data": [first, row]}).to_string(),
        json!({"dialogue": [{"role": "user", "content": "q"}]}).to_string(),
        "prompt,chosen,rejected\np,g,b\n".to_owned(),
        "prompt\tchosen\nrejected\n".to_owned(),
    ]
    .map(|content| load("a.jsonl", content, Layout::Pairs, |_, _| ()).error);
    assert_snapshot!(errors.join("\n"), @"");
}

#[test]
fn files_that_are_no_data_are_named() {
    let utf_16: Vec<u8> = "{\"prompt\"".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut tar = vec![0; 512];
    tar[..6].copy_from_slice(b"a.json");
    tar[257..262].copy_from_slice(b"ustar");
    let files: [(&str, &[u8]); 14] = [
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        ("a.jsonl.gz", b"\x1f\x8b\x08\0"),
        ("a.jsonl.zst", b"\x28\xb5\x2f\xfd\0"),
        ("a.zip", b"PK\x03\x04"),
        ("a.xlsx", b"PK\x03\x04"),
        ("a.csv", b"prompt,chosen,rejected\n"),
        ("a.arrow", b"ARROW1\0\0"),
        ("a.jsonl", &[b"\xff\xfe".as_slice(), &utf_16].concat()),
        ("a.json", &utf_16),
        ("a.tar", &tar),
        ("a.json", b"\n<!DOCTYPE html><html>"),
        ("a.jsonl", b"PAR1\0\0PAR1"),
        ("a.parquet", b"{\"prompt\": \"p\"}"),
    ];
    let errors = files.map(|(name, content)| load(name, content, Layout::Pairs, |_, _| ()).error);
    assert_snapshot!(errors.join("\n"), @"");
}

#[test]
fn a_folder_is_answered_with_the_files_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let error = |path: &str| {
        let source = Source::new(folder.path().join(path));
        let error = Dataset::load(&[source], Layout::Pairs, &tokenizer(), &Fit::default()).unwrap_err();
        error.to_string().replace(&format!("{}/", folder.path().display()), "")
    };
    for name in ["set/README.md", "set/data/b.parquet", "set/a.jsonl", "empty/README.md", "saved/data.arrow"]
    {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, lines(&pairs())).unwrap();
    }
    let errors = ["set", "empty", "saved"].map(error);
    assert_snapshot!(errors.join("\n"), @"");
}
