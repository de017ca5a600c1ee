//! Mutated rows, Parquet and Arrow files, tokenizers and chat templates: each gives a result or an error, soon and in bounded
//! memory. `SPO_FUZZ_SECONDS` says how long to try.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};
use spo_api::Layout;
use spo_data::{ChatTemplate, Dataset, Fit, Format, Message, Source, Tokenizer};
use test_support::fuzz::{corpus, fuzz};

/// Reads a file in every layout, with a chat template.
fn read(format: Format, path: &Path, tokenizer: &Tokenizer) {
    let source = Source { format: Some(format), ..Source::new(path) };
    let _ = source.identity();
    for layout in [Layout::Pairs, Layout::Unpaired, Layout::Demonstrations] {
        // An error is as good as rows.
        let _ = Dataset::load(std::slice::from_ref(&source), layout, tokenizer, &Fit::default());
    }
}

fn chat_tokenizer(folder: &Path) -> Tokenizer {
    Tokenizer::characters("ab0123456789+= {}\":,").save(folder).unwrap();
    let template = "{% for m in messages %}{{ m.role }}:{{ m.content }}{{ m | tojson }}</s>{% endfor %}";
    fs::write(folder.join("chat_template.jinja"), template).unwrap();
    Tokenizer::open(folder).unwrap()
}

#[test]
fn rows() {
    let folder = tempfile::tempdir().unwrap();
    let (path, tokenizer) = (folder.path().join("rows"), chat_tokenizer(folder.path()));
    let words = [
        "\"prompt\":",
        "\"chosen\":",
        "\"rejected\":",
        "\"completion\":",
        "\"label\":",
        "\"messages\":",
        "\"conversations\":",
        "\"role\":",
        "\"content\":",
        "\"tools\":",
        "\"chat_template_kwargs\":",
        "null",
        "\\ud800",
        "\u{feff}",
        "\n",
    ];
    fuzz("rows", &corpus("rows"), &words, |bytes| {
        fs::write(&path, bytes).unwrap();
        for format in [Format::Jsonl, Format::Json, Format::Csv, Format::Tsv] {
            read(format, &path, &tokenizer);
        }
        read(Format::Csv, &path, &tokenizer);
    });
}

#[test]
fn parquet() {
    let folder = tempfile::tempdir().unwrap();
    let (path, tokenizer) = (folder.path().join("rows.parquet"), chat_tokenizer(folder.path()));
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let packed = ["zstd", "brotli"].map(|codec| fs::read(fixtures.join(format!("{codec}.parquet"))).unwrap());
    let corpus = [corpus("parquet"), packed.to_vec()].concat();
    fuzz("parquet", &corpus, &["PAR1", "prompt", "\u{0}\u{0}\u{0}"], |bytes| {
        fs::write(&path, bytes).unwrap();
        read(Format::Parquet, &path, &tokenizer);
    });
}

#[test]
fn arrow() {
    let folder = tempfile::tempdir().unwrap();
    let (path, tokenizer) = (folder.path().join("rows.arrow"), chat_tokenizer(folder.path()));
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let names =
        ["types.arrow", "file.arrow", "lz4.arrow", "zstd.arrow", "saved/test/data-00000-of-00001.arrow"];
    let corpus = names.map(|name| fs::read(fixtures.join(name)).unwrap());
    fuzz("arrow", &corpus, &["ARROW1\0\0", "prompt", "\u{0}\u{0}\u{0}"], |bytes| {
        fs::write(&path, bytes).unwrap();
        read(Format::Arrow, &path, &tokenizer);
    });
}

#[test]
fn tokenizer() {
    let words = [
        "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"\"},\"content\":\"aaaa\"}",
        "{\"type\":\"Replace\",\"pattern\":{\"String\":\"\"},\"content\":\"a\"},",
        "{\"type\":\"Strip\",\"content\":\"a\",\"start\":9,\"stop\":9},",
        "{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true},",
        "{\"type\":\"CTC\",\"pad_token\":\"\",\"word_delimiter_token\":\"\",\"cleanup\":true},",
        "\"byte_fallback\":true,",
        "\"ignore_merges\":true,",
        "(a+)+$",
        "\\u0000",
    ];
    let folder = tempfile::tempdir().unwrap();
    Tokenizer::characters("ab").save(folder.path()).unwrap();
    fuzz("tokenizer", &corpus("tokenizer"), &words, |bytes| {
        fs::write(folder.path().join("tokenizer.json"), bytes).unwrap();
        let Ok(tokenizer) = Tokenizer::open(folder.path()) else { return };
        for text in ["", "a", " ab</s> é\u{301}b  12", &"ab b".repeat(1000)] {
            let Ok(ids) = tokenizer.encode(text) else { continue };
            assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocabulary()), "a token without an id");
            let _ = tokenizer.decode(&ids);
        }
    });
}

/// Tokenizers in GGUF files.
#[test]
fn gguf() {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/gguf");
    let corpus =
        ["llama.gguf", "qwen2.gguf", "gemma3.gguf"].map(|name| fs::read(goldens.join(name)).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let words = ["tokenizer.ggml.model", "tokenizer.ggml.merges", "llama", "gpt2", "\u{2581}", "<0x00>"];
    fuzz("gguf-tokenizer", &corpus, &words, |bytes| {
        fs::write(&path, bytes).unwrap();
        let Ok(tokenizer) = Tokenizer::open(&path) else { return };
        for text in ["", " ab</s> é\u{301}b  12", &"ab b".repeat(1000)] {
            let Ok(ids) = tokenizer.encode(text) else { continue };
            let _ = tokenizer.decode(&ids);
        }
    });
}

#[test]
fn template() {
    let message = |value: Value| -> Message { value.as_object().unwrap().clone() };
    let messages = [
        message(json!({"role": "system", "content": "be brief"})),
        message(json!({"role": "user", "content": "2 + 2 = é?"})),
        message(json!({"role": "assistant", "content": "4", "tool_calls": [{"function": {"name": "f"}}]})),
    ];
    let tokens = Map::from_iter([("eos_token".to_owned(), Value::from("</s>"))]);
    let words = [
        "{% for m in messages %}",
        "{% endfor %}",
        "{% set x = x ~ x %}",
        "{{ x * 99999999 }}",
        "range(999999999)",
        " ** ",
        " | tojson",
        " | format(1)",
        "loop.index",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "namespace(x='a')",
        "'%999999999d' % 1",
    ];
    fuzz("template", &corpus("template"), &words, |bytes| {
        let source = String::from_utf8_lossy(bytes);
        let Ok(template) = ChatTemplate::new(&source, tokens.clone()) else { return };
        for generation in [false, true] {
            let _ = template.render(&messages, generation, &Map::new());
        }
    });
}
