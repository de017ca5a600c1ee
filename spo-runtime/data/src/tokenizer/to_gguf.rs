//! A tokenizer as the metadata of a GGUF file: the inverse of what `gguf.rs` beside this file does.

use std::collections::HashMap;

use serde_json::Value as Json;
use spo_gguf::{List, Value};

use super::config::Config;
use super::splits;

/// Types of tokens.
const NORMAL: i64 = 1;
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
const UNUSED: i64 = 5;
const BYTE: i64 = 6;

/// The metadata of a `tokenizer.json` for a model with `size` embeddings.
///
/// # Errors
/// What llama.cpp does not know of such a tokenizer.
pub(super) fn metadata(
    file: &Json,
    config: &Config,
    adds_bos: bool,
    size: usize,
) -> Result<Vec<(String, Value)>, String> {
    let model = &file["model"];
    let kind = model["type"].as_str().unwrap_or("unknown");
    if kind != "BPE" {
        return Err(format!("its model is {kind}, and only BPE is written as GGUF"));
    }
    let vocabulary = model["vocab"].as_object().ok_or("its model has no vocabulary")?;
    let mut tokens: Vec<Option<&str>> = vec![None; size];
    let mut kinds = vec![NORMAL; size];
    let mut place = |id: Option<u64>, token| match id.and_then(|id| tokens.get_mut(id as usize)) {
        Some(into) => {
            *into = Some(token);
            Ok(())
        }
        None => Err(format!("the token {token:?} has an id that the model does not know")),
    };
    for (token, id) in vocabulary {
        place(id.as_u64(), token)?;
    }
    let added = file["added_tokens"].as_array().map(Vec::as_slice).unwrap_or_default();
    for token in added {
        let content = token["content"].as_str().unwrap_or_default();
        place(token["id"].as_u64(), content)?;
        let unknown = config.unk.as_deref() == Some(content) && model["byte_fallback"] == true;
        let special = token["special"] == true;
        kinds[token["id"].as_u64().unwrap_or(0) as usize] = match special {
            true if unknown => UNKNOWN,
            true => CONTROL,
            false => USER_DEFINED,
        };
    }
    let merges: Vec<[&str; 2]> = model["merges"].as_array().into_iter().flatten().filter_map(pair).collect();
    let mut texts: Vec<String> = Vec::with_capacity(size);
    for (id, token) in tokens.iter().enumerate() {
        match token {
            Some(token) => texts.push((*token).to_owned()),
            None => {
                kinds[id] = UNUSED;
                texts.push(format!("[PAD{id}]"));
            }
        }
    }
    let mut metadata: Vec<(String, Value)> = Vec::new();
    let mut set = |key: &str, value: Value| metadata.push((format!("tokenizer.ggml.{key}"), value));
    if model["byte_fallback"] == true {
        let byte = |text: &str| text.len() == 6 && text.starts_with("<0x") && text.ends_with('>');
        let is_byte = texts.iter().zip(&kinds).map(|(text, kind)| *kind == NORMAL && byte(text));
        let is_byte: Vec<bool> = is_byte.collect();
        kinds.iter_mut().zip(is_byte).for_each(|(kind, byte)| *kind = if byte { BYTE } else { *kind });
        set("model", "llama".into());
        set("pre", "default".into());
        set("scores", Value::List(List::Numbers(scores(&texts, &merges))));
        set("add_space_prefix", Value::Flag(prefixes_a_space(file)));
    } else {
        let pre = splits::matching(&file["pre_tokenizer"], file["normalizer"]["type"] == "NFC");
        let pre = pre.ok_or("its way to split text (`pre_tokenizer`) has no name in llama.cpp")?;
        set("model", "gpt2".into());
        set("pre", pre.into());
        let merges = merges.iter().map(|[a, b]| format!("{a} {b}")).collect();
        set("merges", Value::List(List::Texts(merges)));
    }
    let ids: HashMap<&str, usize> = texts.iter().enumerate().rev().map(|(id, t)| (t.as_str(), id)).collect();
    let special =
        [("bos", &config.bos), ("eos", &config.eos), ("unknown", &config.unk), ("padding", &config.pad)];
    for (name, token) in special {
        if let Some(id) = token.as_deref().and_then(|token| ids.get(token)) {
            set(&format!("{name}_token_id"), Value::Integer(*id as i64));
        }
    }
    set("add_bos_token", Value::Flag(adds_bos));
    set("token_type", Value::List(List::Integers(kinds)));
    set("tokens", Value::List(List::Texts(texts)));
    if let Some(template) = &config.template {
        metadata.push(("tokenizer.chat_template".into(), template.as_str().into()));
    }
    Ok(metadata)
}

/// A merge: a pair, or, in older files, a text with a space between its halves.
fn pair(merge: &Json) -> Option<[&str; 2]> {
    match merge {
        Json::Array(pair) => Some([pair.first()?.as_str()?, pair.get(1)?.as_str()?]),
        Json::String(text) => text.split_once(' ').map(|(a, b)| [a, b]),
        _ => None,
    }
}

/// Scores by which llama.cpp merges in the same order: the place of the first merge that makes a token.
fn scores(texts: &[String], merges: &[[&str; 2]]) -> Vec<f64> {
    let mut places: HashMap<String, usize> = HashMap::with_capacity(merges.len());
    for (place, [a, b]) in merges.iter().enumerate() {
        places.entry(format!("{a}{b}")).or_insert(place);
    }
    // f32 counts to 2^24; there are fewer tokens than that, but perhaps more merges.
    let mut order: Vec<(usize, usize)> =
        texts.iter().enumerate().filter_map(|(id, text)| Some((*places.get(text)?, id))).collect();
    order.sort_unstable();
    let mut scores = vec![0.0; texts.len()];
    order.iter().enumerate().for_each(|(rank, (_, id))| scores[*id] = -(rank as f64 + 1.0));
    scores
}

/// Whether a space is put before a text.
fn prefixes_a_space(file: &Json) -> bool {
    let metaspace = &file["pre_tokenizer"];
    let prepends = |part: &Json| part["type"] == "Prepend";
    let normalizer = &file["normalizer"];
    let in_sequence = normalizer["normalizers"].as_array().is_some_and(|parts| parts.iter().any(prepends));
    (metaspace["type"] == "Metaspace" && metaspace["prepend_scheme"] != "never")
        || prepends(normalizer)
        || in_sequence
}
