//! How text is split before it is merged: what llama.cpp means by the names in `tokenizer.ggml.pre`.

use serde_json::{Value, json};

/// How one kind of tokenizer splits text.
pub(super) struct Split {
    how: How,
    /// Whether text is brought to Unicode's composed form (NFC) first.
    pub composes: bool,
    /// Whether a word that is a token is taken as one, whatever the merges make of it.
    pub whole_words_first: bool,
    /// Whether texts begin with a token of their own unless the file says otherwise.
    pub adds_bos: bool,
}

#[derive(Clone, Copy)]
enum How {
    /// At the matches of a pattern.
    Pattern(&'static str),
    /// As GPT-2.
    Gpt2,
    /// As GPT-2, and every digit for itself.
    Gpt2WithDigits,
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// As [`LLAMA3`], and every digit for itself.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Names that mean the same, and what they mean.
const NAMES: [(&[&str], How); 6] = [
    (
        &["llama-bpe", "llama3", "llama-v3", "dbrx", "falcon3", "falcon-h1", "pixtral", "smaug-bpe"],
        How::Pattern(LLAMA3),
    ),
    (&["qwen2", "deepseek-r1-qwen", "stablelm2"], How::Pattern(QWEN2)),
    (&["gpt-2", "gpt2", "mpt", "olmo", "phi-2", "roberta-bpe"], How::Gpt2),
    (&["smollm", "starcoder", "refact", "codeshell", "command-r"], How::Gpt2WithDigits),
    (&["tekken"], How::Pattern(TEKKEN)),
    (&["gpt-4o", "llama4"], How::Pattern(GPT4O)),
];

/// The names that are known.
pub(super) fn names() -> Vec<&'static str> {
    NAMES.iter().flat_map(|(names, _)| names.iter().copied()).collect()
}

/// What a name means.
pub(super) fn named(name: &str) -> Option<Split> {
    let (names, how) = NAMES.iter().find(|(names, _)| names.contains(&name))?;
    let of_llama = names.contains(&"llama-bpe") && !matches!(name, "dbrx" | "smaug-bpe");
    Some(Split {
        how: *how,
        composes: name == "qwen2",
        whole_words_first: of_llama || name == "tekken",
        adds_bos: of_llama || name == "tekken",
    })
}

impl Split {
    pub fn pre_tokenizer(&self) -> Value {
        let byte_level = |splits: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": splits });
        let sequence =
            |first: Value, then: Value| json!({ "type": "Sequence", "pretokenizers": [first, then] });
        match self.how {
            How::Gpt2 => byte_level(true),
            How::Gpt2WithDigits => {
                sequence(json!({ "type": "Digits", "individual_digits": true }), byte_level(true))
            }
            How::Pattern(pattern) => sequence(
                json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false }),
                byte_level(false),
            ),
        }
    }
}

/// The name for a way to split text, as a `tokenizer.json` describes it.
pub(super) fn matching(pre_tokenizer: &Value, composes: bool) -> Option<&'static str> {
    let wanted = essence(pre_tokenizer);
    let same = |name: &&'static str| {
        named(name)
            .is_some_and(|split| split.composes == composes && essence(&split.pre_tokenizer()) == wanted)
    };
    // Text that is composed first is known by a name of its own only for Qwen2.
    let mut found = names().into_iter().filter(same);
    found.next()
}

/// What a pre-tokenizer does to text, without settings that change nothing of it.
fn essence(pre_tokenizer: &Value) -> Vec<String> {
    let part = |part: &Value| match part["type"].as_str() {
        Some("ByteLevel") => {
            let splits = part["use_regex"] != false;
            format!("bytes {splits} {}", part["add_prefix_space"] == true)
        }
        Some("Digits") => format!("digits {}", part["individual_digits"] == true),
        Some("Split") => format!("split {} {} {}", part["pattern"], part["behavior"], part["invert"] == true),
        other => format!("{other:?}"),
    };
    match pre_tokenizer["pretokenizers"].as_array() {
        Some(parts) => parts.iter().map(part).collect(),
        None => vec![part(pre_tokenizer)],
    }
}
