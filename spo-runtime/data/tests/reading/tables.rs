//! Tables of values, compressed files, and the same rows in every format.

use std::fs;
use std::io::Write;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use insta::assert_snapshot;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::{Value, json};
use spo_api::Layout;
use spo_data::{Dataset, Fit, Format, Source};

use crate::{assistant, chat_tokenizer, fixture, lines, load, user};

/// The rows of `fixtures/packed.py`.
fn rows() -> Vec<Value> {
    let row = |i: usize| {
        json!({
            "prompt": format!("Add {i}, \"and\" {}{}:\n", i % 7, ["", "ü", "ü🦀"][i % 3]),
            "chosen": (i + i % 7).to_string(),
            "rejected": format!("{i}\r\n, {}", i % 7),
        })
    };
    (0..300).map(row).collect()
}

/// The same as messages.
fn messages() -> Vec<Value> {
    let row = |row: Value| {
        let text = |name: &str| row[name].as_str().unwrap().to_owned();
        json!({
            "prompt": user(&text("prompt")),
            "chosen": assistant(&text("chosen")),
            "rejected": assistant(&text("rejected")),
        })
    };
    rows().into_iter().map(row).collect()
}

/// A text of each cell: itself, or JSON.
fn cell(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn table(rows: &[Value], separator: char, end: &str) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let names: Vec<_> = rows[0].as_object().unwrap().keys().map(String::as_str).collect();
    let mut text = names.join(&separator.to_string()) + end;
    for row in rows {
        let cells: Vec<_> = names.iter().map(|name| quoted(&cell(&row[*name]))).collect();
        text += &(cells.join(&separator.to_string()) + end);
    }
    text
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(content).unwrap();
    packed.finish().unwrap()
}

fn parquet(rows: &[Value]) -> Vec<u8> {
    let names: Vec<_> = rows[0].as_object().unwrap().keys().collect();
    let columns: String = names.iter().map(|name| format!("required binary {name} (UTF8); ")).collect();
    let schema = Arc::new(parse_message_type(&format!("message m {{ {columns} }}")).unwrap());
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for name in names {
        let values: Vec<_> = rows.iter().map(|row| ByteArray::from(cell(&row[name]).into_bytes())).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
    bytes
}

/// The hash of the tokens of a file with this content.
fn hash(name: &str, content: impl AsRef<[u8]>, layout: Layout) -> String {
    let loaded = load(name, content, layout, |_, _| ());
    loaded.data.unwrap_or_else(|| panic!("{name}: {}", loaded.error)).hash()
}

#[test]
fn the_same_rows_give_the_same_tokens_in_every_format() {
    for (rows, layout) in
        [rows(), messages()].iter().flat_map(|rows| [(rows, Layout::Pairs), (rows, Layout::Unpaired)])
    {
        let text = lines(rows);
        let expected = hash("a.jsonl", &text, layout);
        assert_ne!(expected, hash("a.jsonl", lines(&rows[1..]), layout));
        let (csv, tsv) = (table(rows, ',', "\n"), table(rows, '\t', "\r\n"));
        let files: [(&str, Vec<u8>); 11] = [
            ("a.json", json!(rows).to_string().into()),
            ("a.json", format!("{:#}", json!({ "data": rows })).into()),
            ("a.csv", csv.clone().into()),
            ("a.csv", format!("\u{feff}{csv}\n\n").into()),
            ("a.tsv", tsv.trim_end().into()),
            ("a.parquet", parquet(rows)),
            ("a.jsonl.gz", gzip(text.as_bytes())),
            ("a.json.gz", gzip(json!(rows).to_string().as_bytes())),
            ("a.csv.gz", gzip(csv.as_bytes())),
            // The bytes say how a file is compressed, not its name.
            ("a.jsonl", gzip(text.as_bytes())),
            ("a.jsonl.zst", text.clone().into()),
        ];
        for (name, content) in files {
            assert_eq!(hash(name, content, layout), expected, "{name}");
        }
    }
    let expected = hash("a.jsonl", lines(&messages()), Layout::Pairs);
    for (name, stored) in [("a.feather", "messages.arrow"), ("a.parquet", "messages.zstd.parquet")] {
        let content = fs::read(fixture(stored).path).unwrap();
        assert_eq!(hash(name, content, Layout::Pairs), expected, "{stored}");
    }
    let expected = hash("a.jsonl", lines(&rows()), Layout::Pairs);
    for name in ["rows.jsonl.zst", "rows.jsonl.xz", "rows.zstd.parquet", "rows.brotli.parquet"] {
        let content = fs::read(fixture(name).path).unwrap();
        assert_eq!(hash(name, content, Layout::Pairs), expected, "{name}");
    }
}

/// The same rows in every mapping and every arrangement of files.
#[test]
fn the_same_rows_give_the_same_tokens_however_they_are_named() {
    let loaded = |name: &str, content: &str, source: &dyn Fn(&mut Source)| {
        let loaded = load(name, content, Layout::Pairs, |given, _| source(given));
        loaded.data.unwrap_or_else(|| panic!("{name}: {}", loaded.error)).hash()
    };
    let texts =
        |row: &Value| ["prompt", "chosen", "rejected"].map(|name| row[name].as_str().unwrap().to_owned());
    let made = |make: &dyn Fn([String; 3]) -> Value| {
        lines(&rows().iter().map(|row| make(texts(row))).collect::<Vec<_>>())
    };
    let named = |columns: Value| {
        move |source: &mut Source| source.columns = serde_json::from_value(columns.clone()).unwrap()
    };
    // Plain text.
    let expected = hash("a.jsonl", lines(&rows()), Layout::Pairs);
    let other = made(&|[p, c, r]| json!({"q": p, "good": c, "bad": r}));
    let columns = json!({"prompt": "q", "chosen": "good", "rejected": "bad"});
    assert_eq!(loaded("a.jsonl", &other, &named(columns)), expected);
    let templates = json!({"prompt": "{{ q }}", "chosen": "{{ good }}", "rejected": "{{ bad }}"});
    assert_eq!(loaded("a.jsonl", &other, &named(templates)), expected);
    let ranked = made(&|[p, c, r]| json!({"prompt": p, "answers": [r, c], "scores": [1, 2]}));
    let judged =
        made(&|[p, c, r]| json!({"prompt": p, "answers": [{"text": r, "rank": 2}, {"text": c, "rank": 1}]}));
    for form in ["ranked", "ranked-pairs", "ranked-random"] {
        let gap = |text: &str| {
            let stripped = named(json!(form));
            let loaded = load("a.jsonl", text, Layout::Pairs, |source, _| stripped(source));
            let data = loaded.data.unwrap_or_else(|| panic!("{}", loaded.error));
            assert!(data.examples.iter().all(|example| example.gap == Some(1.0)));
            let groups = data.examples.iter().map(|example| example.in_memory().to_vec());
            groups.collect::<Vec<_>>()
        };
        let plain = load("a.jsonl", lines(&rows()), Layout::Pairs, |_, _| ()).data.unwrap();
        let plain: Vec<_> = plain.examples.iter().map(|example| example.in_memory().to_vec()).collect();
        assert_eq!(gap(&ranked), plain, "{form}");
        assert_eq!(gap(&judged), plain, "{form}");
    }
    // Messages.
    let expected = hash("a.jsonl", lines(&messages()), Layout::Pairs);
    let said = |role: &str, text: &str| json!({"role": role, "content": text});
    let shared = |name: &str, text: &str| json!({"from": name, "value": text});
    let forms: [(&str, String); 8] = [
        (
            "a prompt as text",
            made(&|[p, c, r]| json!({"prompt": p, "chosen": assistant(&c), "rejected": assistant(&r)})),
        ),
        (
            "no prompt",
            made(&|[p, c, r]| {
                json!({
            "chosen": [said("user", &p), said("assistant", &c)], "rejected": [said("user", &p), said("assistant", &r)]})
            }),
        ),
        (
            "UltraFeedback",
            made(&|[p, c, r]| {
                json!({
            "prompt": p, "chosen": [said("user", &p), said("assistant", &c)], "rejected": [said("user", &p), said("assistant", &r)]})
            }),
        ),
        (
            "ShareGPT",
            made(&|[p, c, r]| {
                json!({
            "conversations": [shared("human", &p)], "chosen": shared("gpt", &c), "rejected": shared("gpt", &r)})
            }),
        ),
        ("Alpaca", made(&|[p, c, r]| json!({"instruction": p, "input": "", "chosen": c, "rejected": r}))),
        ("Orca", made(&|[p, c, r]| json!({"system": "", "question": p, "chosen": c, "rejected": r}))),
        (
            "parts",
            made(&|[p, c, r]| {
                json!({
            "prompt": [{"role": "user", "content": [{"type": "text", "text": p}]}], "chosen": c, "rejected": r})
            }),
        ),
        (
            "JSON text",
            made(&|[p, c, r]| {
                json!({
            "prompt": json!([said("user", &p)]).to_string(), "chosen": c, "rejected": r})
            }),
        ),
    ];
    for (form, text) in forms {
        assert_eq!(loaded("a.jsonl", &text, &|_| ()), expected, "{form}");
    }
    let hh = made(&|[p, c, r]| {
        let text = |answer: &str| format!("\n\nHuman: {p}\n\nAssistant: {answer}");
        json!({"chosen": text(&c), "rejected": text(&r)})
    });
    assert_eq!(loaded("a.jsonl", &hh, &named(json!("hh"))), expected);
    // Files: a folder, a pattern, a list, and pieces of one.
    let rows = rows();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("1.csv"), table(&rows[..100], ',', "\n")).unwrap();
    fs::write(folder.path().join("2.jsonl.gz"), gzip(lines(&rows[100..150]).as_bytes())).unwrap();
    fs::write(folder.path().join("3.parquet"), parquet(&rows[150..])).unwrap();
    let at = |name: &str| Source::new(folder.path().join(name));
    let saved = |skip, take| Source { skip, take, ..fixture("saved") };
    let expected = hash("a.jsonl", lines(&rows), Layout::Pairs);
    let place = tempfile::tempdir().unwrap();
    let tokenizer = chat_tokenizer(place.path());
    for (what, sources) in [
        ("a folder", vec![at("")]),
        ("a pattern", vec![at("*.*")]),
        ("a list", vec![at("1.csv"), at("2.jsonl.gz"), at("3.parquet")]),
        ("a list of pieces", vec![at("1.csv"), saved(100, Some(50)), saved(150, None)]),
    ] {
        let read = Dataset::load(&sources, Layout::Pairs, &tokenizer, &Fit::default()).unwrap();
        assert_eq!(read.hash(), expected, "{what}");
        let disk = tempfile::tempdir().unwrap();
        let kept =
            Dataset::load_to_disk(&sources, Layout::Pairs, &tokenizer, &Fit::default(), disk.path()).unwrap();
        assert_eq!((kept.examples.len(), &kept.report), (read.examples.len(), &read.report));
        for (kept, read) in kept.examples.iter().zip(&read.examples) {
            assert_eq!(&*kept.groups().unwrap(), read.in_memory());
            assert_eq!((kept.lengths, &kept.place), (read.lengths, &read.place));
        }
    }
}

#[test]
fn cells_may_hold_numbers_labels_and_json() {
    let row = json!({
        "prompt": "p", "chosen": "a", "rejected": "b", "score_chosen": 9, "score_rejected": -2.5e-1,
    });
    let gap = |name: &str, content: String| {
        load(name, content, Layout::Pairs, |_, _| ()).data.unwrap().examples[0].gap
    };
    assert_eq!(gap("a.csv", table(std::slice::from_ref(&row), ',', "\n")), Some(9.25));
    assert_eq!(gap("a.csv", "prompt,chosen,rejected,score_chosen,score_rejected\np,a,b,,\n".into()), None);
    let labels = load("a.csv", "prompt,completion,label\np,a,True\np,b,0.0\n", Layout::Unpaired, |_, _| ());
    assert_eq!(labels.data.unwrap().examples.iter().map(|e| e.desirable).collect::<Vec<_>>(), [true, false]);

    let row = json!({
        "instruction": "q", "history": [["a", "b"]], "chosen": "g", "rejected": "b", "system": "",
        "chat_template_kwargs": {"x": 1}, "tools": [{"name": "f"}],
    });
    let expected = load("a.jsonl", row.to_string(), Layout::Pairs, |_, _| ());
    let read = load("a.csv", table(std::slice::from_ref(&row), ',', "\n"), Layout::Pairs, |_, _| ());
    assert_eq!(read.texts, [["u:a;a:b;u:q;a:", "g;", "b;"]], "{}", read.error);
    assert_eq!(read.data.unwrap().hash(), expected.data.unwrap().hash());
}

#[test]
fn tables_that_are_wrong_are_told_where_and_how() {
    let errors = [
        ("a.csv", "prompt,chosen,rejected\np,\"a\nb\",c\n\np,a\n"),
        ("a.csv", "prompt,chosen,rejected\r\np,\"a\r\nb\",c\r\np,a,b,c\r\n"),
        ("a.csv", "prompt,chosen,rejected\np,a,b\np,\"a,b\np,a,b\n"),
        ("a.csv", "prompt,chosen,rejected\np,a,\"b\np,a,b\n"),
        ("a.csv", "prompt,\"chosen\n"),
        ("a.csv", "prompt,chosen,prompt\np,a,b\n"),
        ("a.csv", "prompt;chosen;rejected\np;a;b\n"),
        ("a.csv", "prompt\tchosen\np\ta\n"),
        ("a.tsv", "prompt,chosen\np,a\n"),
        ("a.csv", "prompt, choosen ,rejected\np,a,b\n"),
        ("a.csv", "prompt,chosen,rejected\n"),
        ("a.csv", ""),
        ("a.csv", "{\"prompt\": \"p\"}"),
        ("a.csv", "prompt,chosen,rejected,score_chosen,score_rejected\np,a,b,good,1\n"),
        ("a.csv", "prompt,chosen,rejected,chat_template_kwargs\n\"[{\"\"role\"\":\"\"user\"\",\"\"content\"\":\"\"q\"\"}]\",a,b,{x\n"),
    ]
    .map(|(name, content)| load(name, content, Layout::Pairs, |_, _| ()).error)
    .join("\n");
    let latin = load("a.csv", b"prompt,chosen,rejected\np,a,b\np,\xFC,b\n", Layout::Pairs, |_, _| ()).error;
    assert_snapshot!(format!("{errors}\n{latin}"), @r#"
    a.csv:5: 2 cells, and line 1 names 3 columns. A text that holds the separator, a quote or a line break stands in quotes, and a quote in it is doubled
    a.csv:4: 4 cells, and line 1 names 3 columns. A text that holds the separator, a quote or a line break stands in quotes, and a quote in it is doubled
    a.csv:3: a quote opens a cell in line 3, and none closes it
    a.csv:2: a quote opens a cell in line 2, and none closes it
    a.csv: a quote opens a cell in line 1, and none closes it
    a.csv:1: two columns are called `prompt`
    a.csv:1: one column, `prompt;chosen;rejected`. The values seem to be separated by semicolons: write it with commas or tabs
    a.csv:1: one column, `prompt	chosen`. The values seem to be separated by tabs: name the file .tsv, or say format = "tsv"
    a.tsv:1: one column, `prompt,chosen`. The values seem to be separated by commas: name the file .csv, or say format = "csv"
    a.csv:2: there is no column `chosen`; the row has `prompt`, `choosen`, `rejected` (pairs need `chosen` and `rejected`); did you mean `choosen`?
    a.csv: the file has no rows
    a.csv: the file is empty, not a byte is in it: was it written to its end?
    a.csv: JSON and not a table of values: name it .jsonl, or say format = "jsonl"
    a.csv:2: column `score_chosen`: expected a number, found a string
    a.csv:2: column `chat_template_kwargs`: malformed JSON: key must be a string at line 1 column 2
    a.csv:3: column `chosen`: not UTF-8
    "#);
    let unnamed = load("a.csv", ",prompt,chosen,rejected\n0,p,a,b\n", Layout::Pairs, |_, _| ());
    assert_snapshot!(unnamed.report(), @r#"
    1 rows read, 1 kept
            columns not used: Unnamed: 0 (a.csv)
    "#);
}

#[test]
fn compressed_files_that_are_wrong_are_told_how() {
    let text = lines(&rows());
    let packed = gzip(text.as_bytes());
    let [zst, xz] = ["zst", "xz"].map(|name| fs::read(fixture(&format!("rows.jsonl.{name}")).path).unwrap());
    let mut changed = zst.clone();
    changed[100] ^= 1;
    // 300 MB of blank lines.
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    for _ in 0..600 {
        bomb.write_all(&[b'\n'; 1 << 19]).unwrap();
    }
    let parquet = fs::read(fixture("chat.parquet").path).unwrap();
    let files: Vec<(&str, Vec<u8>)> = vec![
        ("a.jsonl.gz", packed[..packed.len() / 2].to_vec()),
        ("a.jsonl.zst", zst[..zst.len() - 10].to_vec()),
        ("a.jsonl.zst", changed),
        ("a.jsonl.xz", xz[..xz.len() - 40].to_vec()),
        ("a.csv.gz", b"\x1f\x8b\x08\0".to_vec()),
        ("a.jsonl.gz", bomb.finish().unwrap()),
        ("a.parquet.gz", gzip(&parquet)),
        ("a.tar.gz", gzip(&[vec![b'a'; 257], b"ustar".to_vec(), vec![0; 250]].concat())),
        ("a.txt.gz", packed.clone()),
        ("a.jsonl.bz2", b"BZh91AY".to_vec()),
    ];
    let errors = files.iter().map(|(name, content)| {
        let format = name.starts_with("a.tar").then_some(Format::Jsonl);
        load(name, content, Layout::Pairs, |source, _| source.format = format).error
    });
    assert_snapshot!(errors.collect::<Vec<_>>().join("\n"), @r#"
    a.jsonl.gz: not a readable gzip file: incomplete deflate stream
    a.jsonl.zst: not a readable zstd file: Failed to parse block header: BlockContentReadError(Error { kind: UnexpectedEof, message: "failed to fill whole buffer" })
    a.jsonl.zst: not a readable zstd file: the checksum is another
    a.jsonl.xz: not a readable xz file: failed to fill whole buffer
    a.csv.gz: not a readable gzip file: unexpected end of file
    a.jsonl.gz: the file has 305572 bytes, and unpacked more than 100 times as many and 256 MiB. If that is meant, unpack it with `gunzip`
    a.parquet.gz: a Parquet file, compressed as a whole: unpack it with `gunzip`. Parquet compresses what is in it
    a.tar.gz: a tar archive: unpack it, and name a data file in it
    a.txt.gz: cannot tell the format from the extension: expected one of .jsonl, .ndjson, .json, .csv, .tsv, .parquet, .arrow, or format = "jsonl", "json", "csv", "tsv", "parquet" or "arrow"
    a.jsonl.bz2: compressed with bzip2: unpack it with `bunzip2`
    "#);
}
