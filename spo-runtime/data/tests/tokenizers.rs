//! What the files of a tokenizer's folder mean.

use std::fs;
use std::path::Path;

use insta::assert_snapshot;
use serde_json::{Value, json};
use spo_data::Tokenizer;

/// A character tokenizer with these other files.
fn open(files: &[(&str, Value)]) -> Result<Tokenizer, String> {
    let folder = tempfile::tempdir().unwrap();
    Tokenizer::characters("abc<>/s").save(folder.path()).unwrap();
    for (name, content) in files {
        let text = content.as_str().map_or_else(|| content.to_string(), str::to_owned);
        fs::write(folder.path().join(name), text).unwrap();
    }
    let shorten =
        |e: spo_data::DataError| e.to_string().replace(&folder.path().display().to_string(), "MODEL");
    Tokenizer::open(folder.path()).map_err(shorten)
}

#[test]
fn characters_are_tokens_and_come_back() {
    let tokenizer = Tokenizer::characters("abca");
    assert_eq!(tokenizer.encode("abc</s>z").unwrap(), [3, 4, 5, 1, 2]);
    assert_eq!(tokenizer.decode(&[3, 4, 5, 1]).unwrap(), "abc</s>");
    assert_eq!(tokenizer.vocabulary(), 6);
    assert_eq!(tokenizer.eos(), Some(("</s>", 1)));
    assert_eq!(tokenizer.stop_tokens(), [1]);

    let folder = tempfile::tempdir().unwrap();
    tokenizer.save(folder.path()).unwrap();
    let reopened = Tokenizer::open(folder.path()).unwrap();
    assert_eq!(reopened.hash(), tokenizer.hash());
    assert_eq!(reopened.encode("cab").unwrap(), [5, 3, 4]);
    assert_ne!(Tokenizer::characters("ab").hash(), tokenizer.hash());
}

#[test]
fn special_tokens_are_read_in_both_forms_and_from_both_files() {
    let map = json!({"bos_token": {"content": "a", "lstrip": false}, "eos_token": "b"});
    let tokenizer = open(&[
        ("tokenizer_config.json", json!({"eos_token": {"content": "c"}})),
        ("special_tokens_map.json", map),
    ])
    .unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(3), Some(("c", 5))));
    let stop = json!({"eos_token_id": [4, 1]});
    let tokenizer = open(&[("generation_config.json", stop)]).unwrap();
    assert_eq!(tokenizer.stop_tokens(), [1, 4]);
}

#[test]
fn the_beginning_token_is_added_once_by_whoever_adds_it() {
    let config = json!({"bos_token": "a", "eos_token": "b", "add_bos_token": true, "add_eos_token": true});
    let tokenizer = open(&[("tokenizer_config.json", config)]).unwrap();
    assert_eq!(tokenizer.encode("cc").unwrap(), [3, 5, 5]);
    assert_eq!(tokenizer.encode("acc").unwrap(), [3, 5, 5]);
    assert_eq!(tokenizer.encode("").unwrap(), [3]);

    // The same by the post-processor, which would add an end token too.
    let folder = tempfile::tempdir().unwrap();
    Tokenizer::characters("abc").save(folder.path()).unwrap();
    let path = folder.path().join("tokenizer.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let token = |name: &str| json!({"SpecialToken": {"id": name, "type_id": 0}});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    json["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [token("a"), text, token("b")],
        "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            "a": {"id": "a", "ids": [3], "tokens": ["a"]},
            "b": {"id": "b", "ids": [4], "tokens": ["b"]},
        },
    });
    // Cutting and padding are not the tokenizer's to do.
    json["truncation"] =
        json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    fs::write(&path, json.to_string()).unwrap();
    let tokenizer = Tokenizer::open(folder.path()).unwrap();
    assert_eq!(tokenizer.encode("ccc").unwrap(), [3, 5, 5, 5]);
}

#[test]
fn the_template_is_found_wherever_it_is_kept() {
    let message = json!({"role": "user", "content": "x"}).as_object().unwrap().clone();
    let render = |files: &[(&str, Value)]| {
        let tokenizer = open(files).unwrap();
        tokenizer
            .template()
            .unwrap()
            .render(std::slice::from_ref(&message), false, &Default::default())
            .unwrap()
    };
    let named = json!([{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]);
    let config =
        |template: Value| ("tokenizer_config.json", json!({"eos_token": "</s>", "chat_template": template}));
    assert_eq!(render(&[config(json!("s{{ eos_token }}"))]), "s</s>");
    assert_eq!(render(&[config(named)]), "d");
    assert_eq!(render(&[config(json!("s")), ("chat_template.jinja", json!("j"))]), "j");
}

#[test]
fn folders_that_do_not_hold_a_tokenizer_are_refused_in_words() {
    let config = |content: Value| vec![("tokenizer_config.json", content)];
    let cases = [
        vec![("tokenizer.json", json!({}))],
        vec![("tokenizer_config.json", json!("{"))],
        config(json!({"eos_token": "<end>"})),
        config(json!({"eos_token": 7})),
        config(json!({"chat_template": [{"name": "tool_use", "template": "t"}]})),
        config(json!({"chat_template": "{% for m in messages %}"})),
        vec![("generation_config.json", json!({"eos_token_id": "</s>"}))],
    ];
    let mut errors: Vec<_> = cases.iter().map(|files| open(files).err().unwrap()).collect();
    errors.push(Tokenizer::open(Path::new("/nowhere")).err().unwrap().to_string());
    errors.push(Tokenizer::characters("abc").check_vocabulary(4).unwrap_err().to_string());
    assert_snapshot!(errors.join("\n"), @r#"
    MODEL/tokenizer.json: not a tokenizer: Model missing. at line 1 column 2
    MODEL/tokenizer_config.json: malformed: EOF while parsing an object at line 1 column 1
    MODEL/tokenizer_config.json: eos_token `<end>` is not in the vocabulary of tokenizer.json
    MODEL/tokenizer_config.json: eos_token must be a string or an object with `content`, found 7
    MODEL/tokenizer_config.json: no chat_template is named `default`, only: tool_use
    MODEL/tokenizer_config.json: the chat template is malformed: the template ends where `endfor` is missing (template line 1)
    MODEL/generation_config.json: eos_token_id must be a token id or a list of them, found "</s>"
    /nowhere: no tokenizer.json in this folder: a tokenizer in the fast (Rust) format is needed
    the tokenizer does not fit the model: it has token ids up to 5, the model knows 4 (the first too many is 4, `b`)
    "#);
    Tokenizer::characters("abc").check_vocabulary(64).unwrap();
}

#[test]
fn a_tokenizer_that_is_random_is_refused() {
    let bpe = |dropout: Value| {
        json!({"version": "1.0", "added_tokens": [{"id": 0, "content": "</s>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}], "normalizer": null, "pre_tokenizer": null,
            "post_processor": null, "decoder": null, "model": {"type": "BPE", "dropout": dropout, "unk_token": null,
            "vocab": {"</s>": 0, "a": 1, "b": 2, "<unk>": 3, "<pad>": 4}, "merges": []}})
    };
    for steady in [Value::Null, json!(0.0)] {
        assert!(open(&[("tokenizer.json", bpe(steady))]).is_ok());
    }
    let error = open(&[("tokenizer.json", bpe(json!(0.1)))]).err().unwrap();
    assert!(error.starts_with("MODEL/tokenizer.json: ") && error.contains("dropout"), "{error}");
}

/// The ids that transformers gives texts with the tokenizers in GGUF files.
#[test]
fn tokenizers_in_gguf_files_are_those_of_transformers() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/gguf");
    for name in ["llama", "qwen2", "gemma3"] {
        let figures = std::fs::read(folder.join(format!("{name}.json"))).unwrap();
        let figures: serde_json::Value = serde_json::from_slice(&figures).unwrap();
        let tokenizer = Tokenizer::open(&folder.join(format!("{name}.gguf"))).unwrap();
        let texts = figures["texts"].as_array().unwrap();
        assert_eq!(texts.len(), 25);
        for row in texts {
            let text = row["text"].as_str().unwrap();
            let mut expected: Vec<u32> = serde_json::from_value(row["ids"].clone()).unwrap();
            // A token at the beginning is not doubled here.
            if tokenizer.bos().is_some_and(|bos| expected.starts_with(&[bos, bos])) {
                expected.remove(0);
            }
            assert_eq!(tokenizer.encode(text).unwrap(), expected, "{name}: {text:?}");
        }
        assert!(tokenizer.template().is_ok());
    }
}
