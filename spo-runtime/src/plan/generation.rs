//! What a model's own files say about generation.

use std::path::Path;

use serde_json::Value;

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

/// Tells which settings of a folder's `generation_config.json` transformers would apply and `spo-run` does not.
/// `None` if there are none, or no such file.
pub(crate) fn unapplied(folder: &Path) -> Option<String> {
    let path = folder.join("generation_config.json");
    let config: Value = serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?;
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
/// of `config.json`, as in transformers. Empty if neither names one.
pub(crate) fn stop_tokens(folder: &Path) -> Vec<u32> {
    let read = |name: &str| std::fs::read(folder.join(name)).ok();
    let Some(text) = read("generation_config.json").or_else(|| read("config.json")) else {
        return Vec::new();
    };
    let config: Value = serde_json::from_slice(&text).unwrap_or_default();
    let ids = match &config["eos_token_id"] {
        Value::Array(ids) => ids.as_slice(),
        id => std::slice::from_ref(id),
    };
    ids.iter().filter_map(|id| u32::try_from(id.as_u64()?).ok()).collect()
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
        assert_eq!(stop_tokens(folder(&[generation, model]).path()), [7, 9]);
        assert_eq!(stop_tokens(folder(&[model]).path()), [3]);
        assert!(stop_tokens(folder(&[]).path()).is_empty());
    }
}
