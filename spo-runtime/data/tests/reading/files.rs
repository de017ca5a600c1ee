//! Files that hold their rows in another way than a line each, and files that hold none.

use insta::assert_snapshot;
use serde_json::{Value, json};
use spo_api::Layout;
use spo_data::Format;

use crate::load;

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
            source.columns.names.insert("messages".into(), "dialogue".into());
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
    assert_snapshot!(errors.join("\n"), @r#"
    a.jsonl:1:43: malformed JSON: trailing characters (lines of JSON are not separated by commas)
    a.jsonl:1:43: malformed JSON: trailing characters (each row has a line of its own)
    a.jsonl:2:2: malformed JSON: key must be a string (Python's notation? JSON has double quotes: write rows with `json.dumps`)
    a.jsonl:1:27: malformed JSON: expected value (NaN and Infinity are not JSON: write null)
    a.jsonl:1:48: malformed JSON: trailing comma (take it out: a bracket closes here)
    a.jsonl:5:2: malformed JSON: expected value (the first object does not end in its line, so the file is read as objects over several lines, without commas between them)
    a.jsonl:1:20: malformed JSON: EOF while parsing a string (the first object does not end in its line, so the file is read as objects over several lines, without commas between them)
    a.jsonl:2:42: malformed JSON: EOF while parsing a list
    a.jsonl:2:1: something follows the array, which must hold all rows of the file
    a.jsonl:2: expected a row, which is a JSON object, found a list
    a.jsonl:1: the object holds several lists of rows, `train` and `test`: write each to a file of its own
    a.jsonl:2: the rows are in the list `data` of the first object, and another object follows it
    a.jsonl row 2: there is no column `rejected`; the row has `prompt`, `chosen` (pairs need `chosen` and `rejected`)
    a.jsonl:1: there is no column `chosen`; the row has `dialogue` (pairs need `chosen` and `rejected`)
    a.jsonl:1:1: looks like comma-separated values, not JSON: name it .csv, or say format = "csv"
    a.jsonl:1:1: looks like tab-separated values, not JSON: name it .tsv, or say format = "tsv"
    "#);
}

#[test]
fn files_that_are_no_data_are_named() {
    let utf_16: Vec<u8> = "{\"prompt\"".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut tar = vec![0; 512];
    tar[..6].copy_from_slice(b"a.json");
    tar[257..262].copy_from_slice(b"ustar");
    let files: [(&str, &[u8]); 13] = [
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        ("a.zip", b"PK\x03\x04"),
        ("a.xlsx", b"PK\x03\x04"),
        ("a.arrow", b"ARROW1\0\0"),
        ("a.jsonl", b"ARROW1\0\0"),
        ("a.feather", b"FEA1"),
        ("a.jsonl", &[b"\xff\xfe".as_slice(), &utf_16].concat()),
        ("a.json", &utf_16),
        ("a.tar", &tar),
        ("a.json", b"\n<!DOCTYPE html><html>"),
        ("a.jsonl", b"PAR1\0\0PAR1"),
        ("a.parquet", b"{\"prompt\": \"p\"}"),
    ];
    let errors = files.map(|(name, content)| load(name, content, Layout::Pairs, |_, _| ()).error);
    assert_snapshot!(errors.join("\n"), @r#"
    a.jsonl: a Git LFS pointer and not the file itself: fetch that with `git lfs pull`
    a.parquet: a Git LFS pointer and not the file itself: fetch that with `git lfs pull`
    a.zip: a zip archive: unpack it, and name a data file in it
    a.xlsx: a spreadsheet: write its rows as CSV, JSON lines or Parquet, for example with pandas: `to_json("rows.jsonl", orient="records", lines=True)`
    a.arrow: not a readable Arrow file: it has no schema
    a.jsonl: an Arrow file: name it .arrow, or say format = "arrow"
    a.feather: a file of the first version of Feather: read it with pandas, and write it again with `to_feather`
    a.jsonl: text in UTF-16: write it in UTF-8, for example with `iconv -f UTF-16 -t UTF-8 OLD > NEW`
    a.json: text in UTF-16: write it in UTF-8, for example with `iconv -f UTF-16 -t UTF-8 OLD > NEW`
    a.tar: a tar archive: unpack it, and name a data file in it
    a.json: HTML or XML, not data: was the page saved instead of the file?
    a.jsonl: a Parquet file: name it .parquet, or say format = "parquet"
    a.parquet: JSON and not Parquet: name it .jsonl, or say format = "jsonl"
    "#);
}
