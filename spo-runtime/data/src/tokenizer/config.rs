//! Reads the configuration files next to `tokenizer.json`.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{DataError, Result};

/// Special tokens, chat template and stop tokens of a model.
pub(super) struct Config {
    pub bos: Option<String>,
    pub eos: Option<String>,
    /// Whether to put the beginning-of-text token before plain text; `None` leaves it to the
    /// post-processor.
    pub add_bos: Option<bool>,
    /// Source of the chat template.
    pub template: Option<String>,
    /// End tokens listed in `generation_config.json`.
    pub stop: Vec<u32>,
    pub pad: Option<String>,
    pub unk: Option<String>,
}

impl Config {
    pub fn read(folder: &Path, files: &[(&'static str, Vec<u8>)]) -> Result<Self> {
        let bytes =
            |name: &str| files.iter().find(|(n, _)| *n == name).map(|(_, content)| content.as_slice());
        let table = |name: &str| -> Result<Map<String, Value>> {
            match bytes(name) {
                None => Ok(Map::new()),
                Some(content) => serde_json::from_slice(content)
                    .map_err(|e| DataError::in_file(&folder.join(name), format!("malformed: {e}"))),
            }
        };
        let config = table("tokenizer_config.json")?;
        let older = table("special_tokens_map.json")?;
        let token = |name: &str| match config.get(name).or_else(|| older.get(name)) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match token_text(value) {
                Some(text) => Ok(Some(text.to_owned())),
                None => Err(DataError::in_file(
                    &folder.join("tokenizer_config.json"),
                    format!("{name} must be a string or an object with `content`, found {value}"),
                )),
            },
        };
        // As in transformers: if either key is present, it overrides the post-processor.
        let explicit = ["add_bos_token", "add_eos_token"].iter().any(|key| config.contains_key(*key));
        let add_bos = explicit.then(|| config.get("add_bos_token") == Some(&Value::Bool(true)));
        let template = match bytes("chat_template.jinja") {
            Some(source) => Some(
                String::from_utf8(source.to_vec())
                    .map_err(|_| DataError::in_file(&folder.join("chat_template.jinja"), "not UTF-8"))?,
            ),
            None => template(config.get("chat_template"))
                .map_err(|e| DataError::in_file(&folder.join("tokenizer_config.json"), e.message))?,
        };
        Ok(Config {
            bos: token("bos_token")?,
            eos: token("eos_token")?,
            add_bos,
            template,
            stop: stop_tokens(table("generation_config.json")?.get("eos_token_id"))
                .map_err(|e| DataError::in_file(&folder.join("generation_config.json"), e.message))?,
            pad: token("pad_token")?,
            unk: token("unk_token")?,
        })
    }

    /// The special tokens that are set, under the names chat templates use.
    pub fn special_tokens(&self) -> Map<String, Value> {
        [
            ("bos_token", &self.bos),
            ("eos_token", &self.eos),
            ("pad_token", &self.pad),
            ("unk_token", &self.unk),
        ]
        .into_iter()
        .filter_map(|(name, token)| Some((name.to_owned(), token.clone()?.into())))
        .collect()
    }
}

/// `"</s>"`, or `{"content": "</s>", ...}`.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// A template, or a list of named templates, from which `default` is taken.
fn template(value: Option<&Value>) -> Result<Option<String>> {
    let named = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(source)) => return Ok(Some(source.clone())),
        Some(Value::Array(named)) => named,
        Some(other) => {
            return Err(DataError::new(format!(
                "chat_template must be a string or a list of named templates, found {other}"
            )));
        }
    };
    let text = |entry: &Value, key: &str| entry.get(key).and_then(Value::as_str).map(str::to_owned);
    let default = named.iter().find(|entry| text(entry, "name").as_deref() == Some("default"));
    default.and_then(|entry| text(entry, "template")).map(Some).ok_or_else(|| {
        let names: Vec<_> = named.iter().filter_map(|entry| text(entry, "name")).collect();
        DataError::new(format!("no chat_template is named `default`, only: {}", names.join(", ")))
    })
}

/// Either one id or a list of ids.
fn stop_tokens(value: Option<&Value>) -> Result<Vec<u32>> {
    let ids = match value {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(ids)) => ids.as_slice(),
        Some(id) => std::slice::from_ref(id),
    };
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    ids.iter()
        .map(|value| {
            id(value).ok_or_else(|| {
                DataError::new(format!("eos_token_id must be a token id or a list of them, found {value}"))
            })
        })
        .collect()
}
