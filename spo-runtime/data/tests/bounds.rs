//! Small files that ask for much, and files that are none: an error soon, in little memory.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::{Value, json};
use spo_api::Layout;
use spo_data::{Dataset, Fit, Format, Source, Tokenizer};

/// Reads demonstrations; the error without the folder.
fn load(source: Source) -> Result<usize, String> {
    let folder = source.path.parent().unwrap().display().to_string();
    let tokenizer = Tokenizer::characters("ab");
    let fit = Fit { max_length: 1 << 20, ..Fit::default() };
    let loaded =
        source.identity().and_then(|_| Dataset::load(&[source], Layout::Demonstrations, &tokenizer, &fit));
    loaded.map(|data| data.report.read).map_err(|e| e.to_string().replace(&folder, "FOLDER"))
}

/// A Parquet file that says the same prompt and answer `rows` times.
fn repeated(path: &Path, prompt: &str, answer: &str, rows: usize) {
    let schema = "message m { required binary prompt (UTF8); required binary completion (UTF8); }";
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_dictionary_page_size_limit(1 << 30)
        .build();
    let file = fs::File::create(path).unwrap();
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for text in [prompt, answer] {
        let mut column = group.next_column().unwrap().unwrap();
        let values = vec![ByteArray::from(text.as_bytes().to_vec()); 10_000];
        for written in (0..rows).step_by(values.len()) {
            let batch = &values[..values.len().min(rows - written)];
            column.typed::<ByteArrayType>().write_batch(batch, None, None).unwrap();
        }
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
}

#[test]
fn parquet_that_says_a_long_text_again_and_again_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.parquet");
    // 2 GB of text.
    repeated(&path, &"ab".repeat(50_000), "b", 20_000);
    assert!(path.metadata().unwrap().len() < 1 << 20);
    let error = load(Source::new(&path)).unwrap_err();
    assert!(error.starts_with("FOLDER/rows.parquet: the file has "), "{error}");
    assert!(error.contains("more than 100 times as much and 256 MiB"), "{error}");
    // Its first rows are few, wherever they begin.
    let some = |skip, take| Source { skip, take: Some(take), ..Source::new(&path) };
    assert_eq!(load(some(0, 2)), Ok(2));
    assert!(load(some(19_990, 2)).is_err());
}

#[test]
fn parquet_with_millions_of_rows_in_a_few_bytes_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.parquet");
    repeated(&path, "a", "b", 5_000_000);
    assert!(path.metadata().unwrap().len() < 1 << 20);
    let error = load(Source::new(&path)).unwrap_err();
    assert!(error.contains("more than 100 times as much and 256 MiB"), "{error}");
    repeated(&path, "a", "b", 30_000);
    assert_eq!(load(Source::new(&path)), Ok(30_000));
}

#[cfg(unix)]
#[test]
fn rows_are_read_from_regular_files_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let made = std::process::Command::new("mkfifo").arg(path("pipe")).status().unwrap();
    assert!(made.success());
    let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", path("device")).unwrap();
    std::os::unix::fs::symlink(folder.path(), path("folder")).unwrap();
    for format in [Format::Jsonl, Format::Json, Format::Parquet] {
        for (name, what) in [("pipe", "a pipe"), ("socket", "a socket"), ("device", "a device")] {
            let error = load(Source { format: Some(format), ..Source::new(path(name)) }).unwrap_err();
            let expected =
                format!("FOLDER/{name}: is not a regular file but {what}: write its content to a file");
            assert!(error.starts_with(&expected), "{error}");
        }
        let error = load(Source { format: Some(format), ..Source::new(path("folder")) }).unwrap_err();
        assert!(error.contains("folder"), "{error}");
    }
    assert!(spo_data::hash::of_file(&path("pipe")).is_err());
    // A link to a regular file is one.
    fs::write(path("rows.jsonl"), "{\"prompt\": \"a\", \"completion\": \"b\"}\n").unwrap();
    std::os::unix::fs::symlink(path("rows.jsonl"), path("link.jsonl")).unwrap();
    assert_eq!(load(Source::new(path("link.jsonl"))), Ok(1));
}

#[cfg(unix)]
#[test]
fn every_file_of_a_tokenizer_is_regular() {
    for name in ["tokenizer.json", "special_tokens_map.json", "chat_template.jinja", "generation_config.json"]
    {
        let folder = tempfile::tempdir().unwrap();
        Tokenizer::characters("ab").save(folder.path()).unwrap();
        let path = folder.path().join(name);
        let _ = fs::remove_file(&path);
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        let error = Tokenizer::open(folder.path()).err().unwrap().to_string();
        assert!(error.starts_with(&format!("{}: is not a regular file", path.display())), "{error}");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/nowhere", &path).unwrap();
        let error = Tokenizer::open(folder.path()).err().unwrap().to_string();
        assert!(error.starts_with(&path.display().to_string()), "{error}");
    }
}

/// What becomes of a character tokenizer with other parts, and of a text: its tokens back as text, or the error.
fn with(parts: &[(&str, Value)], text: &str) -> Result<String, String> {
    let folder = tempfile::tempdir().unwrap();
    Tokenizer::characters("ab123").save(folder.path()).unwrap();
    let path = folder.path().join("tokenizer.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (name, part) in parts {
        *json.pointer_mut(name).unwrap() = part.clone();
    }
    fs::write(&path, json.to_string()).unwrap();
    let tokenizer = Tokenizer::open(folder.path());
    let text = tokenizer.and_then(|tokenizer| tokenizer.decode(&tokenizer.encode(text)?));
    text.map_err(|e| e.to_string().replace(&folder.path().display().to_string(), "MODEL"))
}

fn replace(kind: &str, pattern: &str, content: &str) -> Value {
    json!({"type": "Replace", "pattern": {kind: pattern}, "content": content})
}

#[test]
fn parts_that_make_the_library_panic_are_errors() {
    let special = json!({"SpecialToken": {"id": "nope", "type_id": 0}});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let post =
        json!({"type": "TemplateProcessing", "single": [special, text], "pair": [], "special_tokens": {}});
    let cases = [
        ("/normalizer", replace("Regex", "", "aaaa")),
        ("/normalizer", replace("Regex", "x*", "")),
        ("/post_processor", post),
        ("/decoder", json!({"type": "Strip", "content": "3", "start": 1_u64 << 60, "stop": 1_u64 << 60})),
        ("/decoder", json!({"type": "Strip", "content": "b", "start": 0, "stop": 7})),
    ];
    for (name, part) in cases {
        let error = with(&[(name, part.clone())], "ab").expect_err(&part.to_string());
        assert!(error.starts_with("MODEL/tokenizer.json: "), "{error}");
    }
}

#[test]
fn parts_that_multiply_a_text_are_refused() {
    let sequence = |kind: &str, list: &str, parts: Vec<Value>| json!({"type": kind, list: parts});
    let long = "a".repeat(1000);
    let normalizers = |parts| sequence("Sequence", "normalizers", parts);
    let decoders = |parts| sequence("Sequence", "decoders", parts);
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let cases = [
        ("/normalizer", normalizers(vec![replace("String", "a", &long); 3]), "normalizer"),
        ("/normalizer", json!({"type": "Prepend", "prepend": "a".repeat(100_000)}), "normalizer"),
        ("/normalizer", normalizers(vec![json!({"type": "ByteLevel"}); 30]), "normalizer"),
        ("/pre_tokenizer", sequence("Sequence", "pretokenizers", vec![byte_level; 40]), "pre_tokenizer"),
        ("/decoder", decoders(vec![replace("String", "", "aaaaaaaaaa"); 8]), "decoder"),
        ("/decoder", decoders(vec![decoders(vec![replace("Regex", ".", "aaaaaaaaaa"); 8])]), "decoder"),
        ("/model/unk_token", json!("a".repeat(100_000)), "unk_token"),
    ];
    for (name, part, named) in cases {
        let error = with(&[(name, part)], "a é").expect_err(name);
        assert!(error.starts_with("MODEL/tokenizer.json: ") && error.contains(named), "{error}");
        assert!(error.len() < 400, "{error}");
    }
}

#[test]
fn parts_that_real_tokenizers_have_are_left_alone() {
    let metaspace = vec![
        json!({"type": "Prepend", "prepend": "\u{2581}"}),
        replace("String", " ", "\u{2581}"),
        json!({"type": "NFKD"}),
    ];
    let decoder = json!({"type": "Sequence", "decoders": [
        replace("String", "\u{2581}", " "), {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]});
    let normalizer = json!({"type": "Sequence", "normalizers": metaspace});
    let parts = [("/normalizer", normalizer), ("/decoder", decoder)];
    // U+FDFA is the longest expansion of Unicode: 18 characters.
    let text = "ab 12".repeat(10_000) + &"\u{fdfa}".repeat(10_000);
    let back = with(&parts, &text).unwrap();
    assert!(back.starts_with("<unk>ab<unk>12ab"), "{}", &back[..40]);
}
