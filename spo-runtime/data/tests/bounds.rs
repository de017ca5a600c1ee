//! Small files that ask for much, and files that are none: an error soon, in little memory.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::{Map, Value, json};
use spo_api::Layout;
use spo_data::{ChatTemplate, Dataset, Fit, Format, Source, Tokenizer};

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

#[test]
fn an_arrow_file_may_not_ask_for_much() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.arrow");
    let whole = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/types.arrow")).unwrap();
    let refused = |content: &[u8]| {
        fs::write(&path, content).unwrap();
        load(Source::new(&path)).unwrap_err()
    };
    // A message of 2 GiB that is not there.
    let mut long = whole.clone();
    long[4..8].copy_from_slice(&i32::MAX.to_le_bytes());
    assert_eq!(refused(&long), "FOLDER/rows.arrow: not a readable Arrow file: it ends within a message");
    // Each number of the file in turn becomes a large one, such as the length of a batch or of a column of nulls.
    for at in (0..whole.len() - 8).step_by(8) {
        let mut large = whole.clone();
        large[at..at + 8].copy_from_slice(&(1_i64 << 40).to_le_bytes());
        refused(&large);
    }
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
    for format in [Format::Jsonl, Format::Json, Format::Csv, Format::Parquet, Format::Arrow] {
        for (name, what) in [("pipe", "a pipe"), ("socket", "a socket"), ("device", "a device")] {
            let error = load(Source { format: Some(format), ..Source::new(path(name)) }).unwrap_err();
            let expected = format!("FOLDER/{name}: is not a regular file but {what}");
            assert!(error.starts_with(&expected), "{error}");
        }
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
    let unknown = json!({"type": "TemplateProcessing", "single": [
            {"SpecialToken": {"id": "s", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
        ], "pair": [], "special_tokens": {"s": {"id": "s", "ids": [99], "tokens": ["s"]}}});
    let cases = [
        ("/post_processor", post),
        ("/post_processor", unknown),
        ("/decoder", json!({"type": "Strip", "content": "3", "start": 1_u64 << 60, "stop": 1_u64 << 60})),
        ("/decoder", json!({"type": "Strip", "content": "b", "start": 0, "stop": 7})),
    ];
    for (name, part) in cases {
        let error = with(&[(name, part.clone())], "ab").expect_err(&part.to_string());
        assert!(error.starts_with("MODEL/tokenizer.json: "), "{error}");
    }
}

/// A normalizer of SentencePiece that replaces `a`, in its own format: a double array, and the replacements.
fn charsmap(replacement: &str) -> Value {
    let at = 256 ^ usize::from(b'a');
    let mut array = vec![0_u32; at + 2];
    array[0] = 256 << 10;
    array[at] = u32::from(b'a') | 1 << 8 | ((at as u32) ^ (at as u32 + 1)) << 10;
    let trie: Vec<u8> = array.iter().flat_map(|unit| unit.to_le_bytes()).collect();
    let bytes = [&(trie.len() as u32).to_le_bytes()[..], &trie, replacement.as_bytes(), &[0]].concat();
    json!({"type": "Precompiled", "precompiled_charsmap": base64(&bytes)})
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let number = chunk.iter().fold(0, |n, &byte| n << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let digit = DIGITS[(number >> (18 - 6 * i) & 63) as usize];
            text.push(if i <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[test]
fn a_table_that_multiplies_a_text_is_refused_before_it_does() {
    let text = "a".repeat(20_000);
    let error = with(&[("/normalizer", charsmap(&"b".repeat(1 << 20)))], &text).unwrap_err();
    assert!(error.starts_with("MODEL/tokenizer.json: ") && error.contains("normalizer"), "{error}");
    assert_eq!(with(&[("/normalizer", charsmap("2b"))], "1a2").unwrap(), "12b2");
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

/// A template over the messages of nobody.
fn rendered(source: &str) -> Result<String, String> {
    let template = ChatTemplate::new(source, Map::new()).map_err(|e| e.to_string())?;
    template.render(&[], false, &Map::new()).map_err(|e| e.to_string())
}

#[test]
fn templates_that_do_not_end_are_refused() {
    let endless = [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n > 0 %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% for i in [1, 2] recursive %}{{ loop([1, 2]) if loop.depth < 60 }}{% endfor %}",
        "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
        "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x | tojson }}",
        "{% set n = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% set n.y = [n.y, n.y] %}{% endfor %}{{ n.x == n.y }}",
        "{% set n = namespace(x=(1,)) %}{% for i in range(60) %}{% set n.x = (n.x, n.x) %}{% endfor %}{{ {n.x: 1} }}",
        "{{ range(100000) | map('string') | unique | list | length }}",
        "{% set l = range(100000) | list %}{% for i in l %}{{ 'x' in l }}{% endfor %}",
        "{% set l = ['ab' * 1000000] * 1000 %}{{ l | join | length }}",
        "{{ ('{:>9999999}' * 1000).format(*range(1000)) }}",
        "{{ ('%9999999d' * 1000) | format(*range(1000)) }}",
        "{{ '%999999999d' | format(1) }}",
        "{{ [1] | batch(1000000000000, 'x') | list | length }}",
        "{{ strftime_now('%Y' * 5000000) }}",
        "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{% set n = namespace(x='a\nb') %}{% for i in range(20) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x | indent(1000) }}",
        "{% for i in range(100000) %}{{ 'ab' * 1000 }}{% endfor %}",
        "{% set x = 'a' * 5000000 %}{{ (x ~ x).strip('b' * 100000) | length }}{% for i in range(99) %}{{ x.split('b') }}{% endfor %}",
    ];
    for source in endless {
        let started = std::time::Instant::now();
        let error = rendered(source).err().unwrap_or_else(|| panic!("no error: {source}"));
        println!("{:.2} s: {source}: {error}", started.elapsed().as_secs_f64());
        assert!(error.contains("does not come to an end") || error.contains("at most"), "{source}: {error}");
        assert!(error.len() < 300, "{source}: {error}");
    }
}

/// The stack of a thread is 2 MiB here, less than that of the program.
#[test]
fn templates_that_nest_deeply_are_refused() {
    let deep = [
        "{% set n = namespace() %}{% set n.self = n %}{{ n }}".to_owned(),
        format!("{{{{ {}1 }}}}", "not ".repeat(100_000)),
        format!("{{{{ {}1 }}}}", "1+".repeat(100_000)),
        format!("{{{{ {}1 }}}}", "-".repeat(100_000)),
        format!("{{{{ 1{} }}}}", "|string".repeat(100_000)),
        format!("{{{{ 1{} }}}}", " if 1 else 1".repeat(100_000)),
        format!("{{{{ 1{} }}}}", "**1".repeat(100_000)),
        format!("{}{}", "{% if 1 %}".repeat(100_000), "{% endif %}".repeat(100_000)),
        "{{ 'a' | map(*(['map'] * 100000)) | list }}".to_owned(),
        "{% set n = namespace(c=1) %}{% for i in range(9999) %}{% set n.c = cycler(n.c, n.c) %}{% endfor %}".to_owned(),
        "{% set n = namespace(g=1) %}{% for i in range(9999) %}{% set n.g = [n.g, n.g] | select %}{% endfor %}".to_owned(),
        "{% set n = namespace(l=1) %}{% for i in range(9999) %}{% for j in [n.l] %}{% set n.l = loop %}{% endfor %}{% endfor %}"
            .to_owned(),
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}".to_owned(),
        "{% set h = namespace(t=namespace()) %}{% set h.first = h.t %}{% for i in range(9999) %}{% set t = h.t %}{% set n = namespace() %}{% set t.x = n %}{% set h.t = n %}{% endfor %}{{ h.first }}".to_owned(),
    ];
    for source in &deep {
        let error = rendered(source).err().unwrap_or_else(|| panic!("no error: {source:.200}"));
        assert!(
            error.contains("nested")
                || error.contains("come to an end")
                || error.contains("in a row")
                || error.contains("in itself"),
            "{error}"
        );
    }
}

/// Cycles and long chains of values are freed without recursion, also where nothing prints them.
#[test]
fn values_that_contain_each_other_are_harmless() {
    let chains = [
        "{% set a = namespace() %}{% set a.s = a %}{% set b = namespace() %}{% set b.s = b %}{{ a == b }}",
        "{% set h = namespace(t=namespace()) %}{% for i in range(90000) %}{% set t = h.t %}{% set n = namespace(before=t) %}{% set h.t = n %}{% endfor %}",
        "{% set h = namespace(f=1) %}{% for i in range(90000) %}{% set f0 = h.f %}{% macro f() %}{{ f0 }}{% endmacro %}{% set h.f = f %}{% endfor %}",
        "{% set h = namespace(l=1) %}{% for i in range(90000) %}{% for j in [1] %}{% set x = loop.changed(h.l) %}{% set h.l = loop %}{% endfor %}{% endfor %}",
        "{% set h = namespace(l=1) %}{% for i in range(90000) %}{% set l = h.l %}{% for j in [1] recursive %}{% set h.l = loop %}{% endfor %}{% endfor %}",
    ];
    for source in chains {
        match rendered(source) {
            Ok(text) => assert!(text == "False" || text.is_empty(), "{source}: {text:.100}"),
            Err(error) => assert!(error.contains("nested deeper"), "{source}: {error}"),
        }
    }
}
