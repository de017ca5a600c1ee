//! A character-level tokenizer in the standard file format, so that transformers can read it too.

use serde_json::{Map, Value, json};

const PAD: &str = "<pad>";
const EOS: &str = "</s>";
const UNKNOWN: &str = "<unk>";

pub(super) fn files(alphabet: &str) -> Vec<(&'static str, Vec<u8>)> {
    let special = [PAD, EOS, UNKNOWN];
    let mut vocabulary = Map::new();
    for token in special.into_iter().map(str::to_owned).chain(alphabet.chars().map(String::from)) {
        let id = vocabulary.len();
        vocabulary.entry(token).or_insert(id.into());
    }
    let added: Vec<_> = special.iter().enumerate().map(|(id, token)| added_token(id, token)).collect();
    // A byte-pair model without merges keeps every character as its own token.
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": { "type": "Fuse" },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": UNKNOWN, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": [],
        },
    });
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": EOS,
        "pad_token": PAD,
        "unk_token": UNKNOWN,
        "clean_up_tokenization_spaces": false,
    });
    let text = |value: &Value| format!("{value:#}\n").into_bytes();
    vec![("tokenizer.json", text(&tokenizer)), ("tokenizer_config.json", text(&config))]
}

fn added_token(id: usize, content: &str) -> Value {
    json!({
        "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true,
    })
}
