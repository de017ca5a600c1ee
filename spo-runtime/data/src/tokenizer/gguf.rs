//! The tokenizer of a GGUF file, as the files that transformers would have for it.
//!
//! llama.cpp keeps a vocabulary with the types of its tokens, and either merges (byte-level BPE) or scores
//! (SentencePiece). How text is normalised and split before is known by a name for the former, and for the latter by
//! the architecture.

use std::collections::HashMap;

use serde_json::{Map, Value, json};
use spo_api::{Error, Result, nearest};
use spo_gguf::Gguf;

use super::splits;

/// Types of tokens in `tokenizer.ggml.token_type`.
mod kind {
    pub const NORMAL: i64 = 1;
    pub const UNKNOWN: i64 = 2;
    pub const CONTROL: i64 = 3;
    pub const USER_DEFINED: i64 = 4;
}

/// What SentencePiece puts for a space.
const SPACE: &str = "\u{2581}";

/// Contents of files, by name. A model without a tokenizer in its file has none.
pub(super) fn files(gguf: &Gguf) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let vocabulary = Vocabulary::read(gguf)?;
    let model = gguf.required("tokenizer.ggml.model", gguf.text("tokenizer.ggml.model")?)?;
    let parts = match model {
        "gpt2" => vocabulary.byte_level()?,
        "llama" => vocabulary.sentence_piece()?,
        other => {
            let problem = format!("= \"{other}\" is not supported, only gpt2, llama: {REMEDY}");
            return Err(gguf.error("tokenizer.ggml.model", problem));
        }
    };
    let bos = vocabulary.special("bos")?;
    // What llama.cpp takes where the file does not say.
    let adds_bos = match gguf.flag("tokenizer.ggml.add_bos_token")? {
        Some(adds) => adds,
        None => model == "llama" || parts.adds_bos,
    };
    let mut tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": vocabulary.added(),
        "normalizer": parts.normalizer,
        "pre_tokenizer": parts.pre_tokenizer,
        "post_processor": bos.filter(|_| adds_bos).map(|bos| beginning(bos, &vocabulary.tokens[bos])),
        "decoder": parts.decoder,
    });
    tokenizer["model"] = parts.model;
    let mut config = Map::new();
    config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    config.insert("clean_up_tokenization_spaces".into(), false.into());
    for (key, name) in
        [("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding")]
    {
        if let Some(id) = vocabulary.special(name)? {
            config.insert(key.into(), vocabulary.tokens[id].as_str().into());
        }
    }
    if let Some(template) = gguf.text("tokenizer.chat_template")? {
        config.insert("chat_template".into(), template.into());
    }
    let mut ends: Vec<usize> = Vec::new();
    for name in ["eos", "eot", "eom"] {
        ends.extend(vocabulary.special(name)?.filter(|id| !ends.contains(id)));
    }
    let generation = json!({ "bos_token_id": bos, "eos_token_id": ends });
    let text = |value: &Value| format!("{value:#}\n").into_bytes();
    let mut files = vec![
        // In one line each: there may be half a million merges.
        ("tokenizer.json", tokenizer.to_string().into_bytes()),
        ("tokenizer_config.json", text(&Value::Object(config))),
    ];
    if !ends.is_empty() {
        files.push(("generation_config.json", text(&generation)));
    }
    Ok(files)
}

/// What to do about a tokenizer that is not read.
const REMEDY: &str = "give the folder of the model's own tokenizer.json as `model.tokenizer`";

/// The parts of a `tokenizer.json` that depend on the kind of tokenizer.
struct Parts {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    model: Value,
    /// Whether texts begin with a token of their own unless the file says otherwise.
    adds_bos: bool,
}

/// Puts a token before every text.
fn beginning(id: usize, token: &str) -> Value {
    let first = json!({ "SpecialToken": { "id": token, "type_id": 0 } });
    let text = |name: &str, kind: u8| json!({ "Sequence": { "id": name, "type_id": kind } });
    json!({
        "type": "TemplateProcessing",
        "single": [first, text("A", 0)],
        "pair": [first, text("A", 0), text("B", 1)],
        "special_tokens": { token: { "id": token, "ids": [id], "tokens": [token] } },
    })
}

struct Vocabulary<'a> {
    gguf: &'a Gguf,
    tokens: &'a [String],
    kinds: Vec<i64>,
}

impl<'a> Vocabulary<'a> {
    fn read(gguf: &'a Gguf) -> Result<Self> {
        let key = "tokenizer.ggml.tokens";
        let tokens = gguf.required(key, gguf.texts(key)?)?;
        let kinds = match gguf.integers("tokenizer.ggml.token_type")? {
            None => vec![kind::NORMAL; tokens.len()],
            Some(kinds) if kinds.len() == tokens.len() => kinds.to_vec(),
            Some(kinds) => {
                let problem =
                    format!("has {} entries, one for each of {} tokens is needed", kinds.len(), tokens.len());
                return Err(gguf.error("tokenizer.ggml.token_type", problem));
            }
        };
        Ok(Vocabulary { gguf, tokens, kinds })
    }

    fn is_of_gemma(&self) -> bool {
        matches!(self.gguf.text("general.architecture"), Ok(Some(name)) if name.starts_with("gemma"))
    }

    /// The id of a special token by its name in the metadata.
    fn special(&self, name: &str) -> Result<Option<usize>> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let Some(id) = self.gguf.integer(&key)? else { return Ok(None) };
        match usize::try_from(id).ok().filter(|id| *id < self.tokens.len()) {
            Some(id) => Ok(Some(id)),
            None => {
                Err(self.gguf.error(&key, format!("= {id}, where there are {} tokens", self.tokens.len())))
            }
        }
    }

    /// Control tokens, and those that users defined. They are found in a text before anything else; but not Gemma's runs of
    /// spaces, which are merged as other tokens are.
    fn added(&self) -> Vec<Value> {
        let (of_gemma, ids) = (self.is_of_gemma(), self.ids());
        let token = |(id, content): (usize, &String)| {
            let special = matches!(self.kinds[id], kind::CONTROL | kind::UNKNOWN);
            let defined =
                self.kinds[id] == kind::USER_DEFINED && !(of_gemma && respelled(content) != *content);
            ((special || defined) && ids[content.as_str()] == id).then(|| {
                json!({
                    "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": special,
                })
            })
        };
        self.tokens.iter().enumerate().filter_map(token).collect()
    }

    /// Ids by token. Of tokens that are there twice, the last has the name, as in transformers.
    fn ids(&self) -> HashMap<&str, usize> {
        self.tokens.iter().enumerate().map(|(id, token)| (token.as_str(), id)).collect()
    }

    fn model(&self, vocabulary: impl Iterator<Item = (String, usize)>, merges: &[[&str; 2]]) -> Value {
        let mut ids = Map::new();
        for (token, id) in vocabulary {
            ids.insert(token, id.into());
        }
        json!({
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": ids, "merges": merges,
        })
    }

    fn spelled(&self) -> impl Iterator<Item = (String, usize)> {
        self.tokens.iter().enumerate().map(|(id, token)| (token.clone(), id))
    }

    fn byte_level(&self) -> Result<Parts> {
        let (gguf, key) = (self.gguf, "tokenizer.ggml.pre");
        let name = gguf.required(key, gguf.text(key)?).map_err(|e| Error::Model(format!("{e}: {REMEDY}")))?;
        let Some(split) = splits::named(name) else {
            let known = splits::names();
            let hint =
                nearest(name, known.iter().copied()).map(|n| format!(" (nearest: {n})")).unwrap_or_default();
            let problem = format!("= \"{name}\" is not supported, only {}{hint}: {REMEDY}", known.join(", "));
            return Err(gguf.error(key, problem));
        };
        let key = "tokenizer.ggml.merges";
        let ids = self.ids();
        let mut merges = Vec::new();
        for merge in gguf.required(key, gguf.texts(key)?)? {
            // A piece may be a space itself only at the ends.
            let pair = merge.split_once(' ').filter(|(a, b)| ids.contains_key(a) && ids.contains_key(b));
            let pair = pair.filter(|(a, b)| ids.contains_key(format!("{a}{b}").as_str()));
            match pair {
                Some((a, b)) => merges.push([a, b]),
                None => {
                    return Err(
                        gguf.error(key, format!("has {merge:?}, which is no pair of tokens that make one"))
                    );
                }
            }
        }
        let mut model = self.model(self.spelled(), &merges);
        model["ignore_merges"] = split.whole_words_first.into();
        Ok(Parts {
            normalizer: if split.composes { json!({ "type": "NFC" }) } else { Value::Null },
            pre_tokenizer: split.pre_tokenizer(),
            decoder: json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true }),
            model,
            adds_bos: split.adds_bos,
        })
    }

    fn sentence_piece(&self) -> Result<Parts> {
        let architecture = self.gguf.text("general.architecture")?.unwrap_or_default();
        let of_gemma = self.is_of_gemma();
        // Gemma's runs of spaces are stored as spaces, and looked up in the other spelling.
        let spelled: Vec<String> = match of_gemma {
            true => self.tokens.iter().map(|token| respelled(token)).collect(),
            false => self.tokens.to_vec(),
        };
        let ids: HashMap<&str, usize> =
            spelled.iter().enumerate().map(|(id, token)| (token.as_str(), id)).collect();
        let ranks = self.ranks(of_gemma)?;
        let merges = merges(&spelled, &ids, &ranks, &self.kinds);
        let mut model = self.model(spelled.iter().cloned().zip(0..), &merges);
        model["byte_fallback"] = true.into();
        model["fuse_unk"] = true.into();
        model["unk_token"] = self.special("unknown")?.map(|id| spelled[id].as_str()).into();
        let prefixed = self.gguf.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true) && !of_gemma;
        let replace = json!({ "type": "Replace", "pattern": { "String": " " }, "content": SPACE });
        let prepend = json!({ "type": "Prepend", "prepend": SPACE });
        let (normalizer, pre_tokenizer) = match architecture {
            _ if of_gemma => (
                replace,
                json!({
                    "type": "Split", "pattern": { "String": " " }, "behavior": "MergedWithPrevious", "invert": false,
                }),
            ),
            "phi3" => (json!({ "type": "Sequence", "normalizers": [prepend, replace] }), Value::Null),
            _ => {
                let scheme = if prefixed { "first" } else { "never" };
                (
                    Value::Null,
                    json!({ "type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": false }),
                )
            }
        };
        let mut decoders = vec![
            json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " }),
            json!({ "type": "ByteFallback" }),
            json!({ "type": "Fuse" }),
        ];
        if prefixed {
            decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        }
        let decoder = json!({ "type": "Sequence", "decoders": decoders });
        Ok(Parts { normalizer, pre_tokenizer, decoder, model, adds_bos: true })
    }

    /// What tokens are merged by, best first: their scores, or, for Gemma, whose scores do not follow the order in
    /// which its tokens were learned, their places.
    fn ranks(&self, by_place: bool) -> Result<Vec<f64>> {
        if by_place {
            return Ok((0..self.tokens.len()).map(|id| -(id as f64)).collect());
        }
        let key = "tokenizer.ggml.scores";
        let scores = self.gguf.required(key, self.gguf.numbers(key)?)?;
        match scores.len() == self.tokens.len() && scores.iter().all(|score| score.is_finite()) {
            true => Ok(scores.to_vec()),
            false => {
                let problem = format!("must be one number for each of {} tokens", self.tokens.len());
                Err(self.gguf.error(key, problem))
            }
        }
    }
}

fn respelled(token: &str) -> String {
    match token.is_empty() || token.chars().any(|c| c != ' ') {
        true => token.to_owned(),
        false => SPACE.repeat(token.len()),
    }
}

/// The longest token that merges are looked for in, in bytes: it takes time that grows with the square of it.
const LONGEST_TOKEN: usize = 1 << 8;

/// The merges that a vocabulary with scores stands for: every cut of a token into two others, those of the best tokens
/// first. As transformers has them, except that no merge makes a control token.
fn merges<'t>(
    spelled: &'t [String],
    ids: &HashMap<&str, usize>,
    ranks: &[f64],
    kinds: &[i64],
) -> Vec<[&'t str; 2]> {
    let mut found: Vec<(f64, [&str; 2], [usize; 2])> = Vec::new();
    for (id, token) in spelled.iter().enumerate().filter(|(_, token)| token.len() <= LONGEST_TOKEN) {
        if !matches!(kinds[id], kind::NORMAL | kind::USER_DEFINED) || ids[token.as_str()] != id {
            continue;
        }
        let mut cuts: Vec<_> = token
            .char_indices()
            .skip(1)
            .filter_map(|(at, _)| {
                let (a, b) = token.split_at(at);
                Some(([*ids.get(a)?, *ids.get(b)?], [a, b]))
            })
            .collect();
        cuts.sort_unstable_by_key(|(ids, _)| *ids);
        found.extend(
            cuts.into_iter().map(|(_, pair)| (ranks[id], pair, pair.map(|part| part.chars().count()))),
        );
    }
    found.sort_by(|(a, _, of_a), (b, _, of_b)| b.total_cmp(a).then(of_b.cmp(of_a)));
    found.into_iter().map(|(_, pair, _)| pair).collect()
}
