//! What a model's own files say about generation.

use std::io::ErrorKind;
use std::path::Path;

use serde_json::Value;
use spo_api::read_small;
use spo_gguf::Gguf;

const FILE: &str = "generation_config.json";

/// Settings of `generation_config.json` that change even greedy answers and are not applied, each with the
/// number that changes nothing.
const SETTINGS: [(&str, f64); 20] = [
    ("repetition_penalty", 1.0),
    ("encoder_repetition_penalty", 1.0),
    ("no_repeat_ngram_size", 0.0),
    ("bad_words_ids", 0.0),
    ("sequence_bias", 0.0),
    ("suppress_tokens", 0.0),
    ("begin_suppress_tokens", 0.0),
    ("forced_bos_token_id", -1.0),
    ("forced_eos_token_id", -1.0),
    ("min_length", 0.0),
    ("min_new_tokens", 0.0),
    ("exponential_decay_length_penalty", 0.0),
    ("stop_strings", 0.0),
    ("guidance_scale", 1.0),
    ("num_beams", 1.0),
    ("penalty_alpha", 0.0),
    ("dola_layers", 0.0),
    ("watermarking_config", 0.0),
    ("diversity_penalty", 0.0),
    ("token_healing", 0.0),
];

/// Settings that only have an effect where `do_sample` is on, likewise.
const OF_SAMPLING: [(&str, f64); 8] = [
    ("temperature", 1.0),
    ("top_k", 0.0),
    ("top_p", 1.0),
    ("min_p", 0.0),
    ("top_h", 0.0),
    ("typical_p", 1.0),
    ("epsilon_cutoff", 0.0),
    ("eta_cutoff", 0.0),
];

/// The content of one of a model's own files, if it is there.
///
/// # Errors
/// A message that names the file, if it cannot be read, or is no table of JSON.
fn config(folder: &Path, name: &str) -> Result<Option<Value>, String> {
    let path = folder.join(name);
    let shown = path.display();
    let text = match read_small(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|e| format!("{shown}: {e}"))?,
    };
    let config: Value = serde_json::from_slice(&text).map_err(|e| format!("{shown}: not valid JSON: {e}"))?;
    match config.is_object() {
        true => Ok(Some(config)),
        false => Err(format!("{shown}: must be a JSON object")),
    }
}

/// Tells which settings of a folder's `generation_config.json` transformers would apply and `spo-run` does not.
/// `None` if there are none, or no such file.
pub(crate) fn unapplied(folder: &Path) -> Option<String> {
    if folder.is_file() {
        return None;
    }
    let path = folder.join(FILE);
    let config = config(folder, FILE).ok()??;
    let changes = |(key, neutral): &(&str, f64)| {
        let value = &config[*key];
        let off = match value {
            Value::Null => true,
            Value::Bool(on) => !on,
            Value::Number(number) => number.as_f64() == Some(*neutral),
            Value::Array(list) => list.is_empty(),
            Value::Object(table) => table.is_empty(),
            Value::String(text) => text.is_empty(),
        };
        (!off).then(|| format!("`{key}` = {value}"))
    };
    let mut found: Vec<String> = SETTINGS.iter().filter_map(changes).collect();
    if config["do_sample"] == true {
        found.push("`do_sample` = true".into());
        found.extend(OF_SAMPLING.iter().filter_map(changes));
    }
    (!found.is_empty()).then(|| format!("{}: not applied: {}", path.display(), found.join(", ")))
}

/// The tokens that end an answer by a model's own files: those of `generation_config.json`, or without it those
/// of `config.json`, as in transformers; or those that a GGUF file names. Empty if there are none.
///
/// # Errors
/// A message that names the file, and what is wrong in it.
pub(crate) fn stop_tokens(folder: &Path) -> Result<Vec<u32>, String> {
    if let Some(file) = spo_gguf::file_of(folder) {
        let gguf = Gguf::open(&file).map_err(|e| e.to_string())?;
        let id = |name: &str| gguf.integer(&format!("tokenizer.ggml.{name}_token_id"));
        let ids = ["eos", "eot", "eom"].map(id).into_iter().collect::<spo_api::Result<Vec<_>>>();
        let ids = ids.map_err(|e| e.to_string())?;
        return Ok(ids.into_iter().flatten().filter_map(|id| u32::try_from(id).ok()).collect());
    }
    let of_generation = config(folder, FILE)?.map(|config| (FILE, config));
    let (name, config) = match of_generation {
        Some(found) => found,
        None => ("config.json", config(folder, "config.json")?.unwrap_or_default()),
    };
    let ids = match &config["eos_token_id"] {
        Value::Null => &[],
        Value::Array(ids) => ids.as_slice(),
        id => std::slice::from_ref(id),
    };
    let token = |id: &Value| {
        let token = id.as_u64().and_then(|id| u32::try_from(id).ok());
        token.ok_or_else(|| {
            let path = folder.join(name);
            format!("{}: `eos_token_id` must be a token id or a list of them, got {id}", path.display())
        })
    };
    ids.iter().map(token).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let place = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(place.path().join(name), content).unwrap();
        }
        place
    }

    #[test]
    fn settings_that_change_answers_are_told_and_no_others() {
        let said = |config: &str| unapplied(folder(&[("generation_config.json", config)]).path());
        let penalty =
            said(r#"{"repetition_penalty": 1.1, "temperature": 0.7, "eos_token_id": [1, 2]}"#).unwrap();
        assert!(penalty.ends_with("not applied: `repetition_penalty` = 1.1"), "{penalty}");
        let sampling = said(r#"{"do_sample": true, "temperature": 0.6, "top_p": 1.0, "top_k": 20}"#).unwrap();
        assert!(sampling.ends_with("`do_sample` = true, `temperature` = 0.6, `top_k` = 20"), "{sampling}");
        let neutral = r#"{"repetition_penalty": 1.0, "num_beams": 1, "max_length": 20, "bos_token_id": 1, "suppress_tokens": []}"#;
        assert_eq!(said(neutral), None);
        assert_eq!(unapplied(folder(&[]).path()), None);
    }

    #[test]
    fn stop_tokens_are_those_of_transformers() {
        let generation = ("generation_config.json", r#"{"eos_token_id": [7, 9]}"#);
        let model = ("config.json", r#"{"eos_token_id": 3}"#);
        let tokens = |files: &[(&str, &str)]| stop_tokens(folder(files).path());
        assert_eq!(tokens(&[generation, model]).unwrap(), [7, 9]);
        assert_eq!(tokens(&[model]).unwrap(), [3]);
        assert!(tokens(&[]).unwrap().is_empty());
        for senseless in [r#"{"eos_token_id": -1}"#, r#"{"eos_token_id": [1, "</s>"]}"#, "[]", "{"] {
            let message = tokens(&[("generation_config.json", senseless), model]).unwrap_err();
            assert!(message.contains("generation_config.json"), "{message}");
        }
    }
}
