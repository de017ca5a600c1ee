//! Configurations in files.

use std::path::Path;

use spo_api::read_small;

use super::settings::{Setting, Settings};
use super::yaml;
use crate::error::{BadInput, bad};

/// Reads a YAML file. Those of other trainers are named.
pub(super) fn read(file: &Path) -> Result<Settings, BadInput> {
    let shown = file.display().to_string();
    let wrong = |problem: String| bad(format!("{shown}: {problem}"));
    let bytes = read_small(file).map_err(|e| wrong(e.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|_| wrong("not UTF-8 text".into()))?;
    let table = yaml::read(&text).map_err(|(line, problem)| wrong(format!("{shown}:{line}: {problem}")))?;
    let has = |key: &str| table.iter().any(|(name, ..)| name == key);
    let others = [
        ("axolotl", has("base_model") && (has("datasets") || has("sequence_len"))),
        ("LLaMA-Factory", has("stage") && (has("finetuning_type") || has("cutoff_len") || has("template"))),
        ("torchtune", has("_component_") || has("tokenizer") && has("loss") && has("optimizer")),
        ("the alignment-handbook", has("dataset_mixer")),
    ];
    if let Some((other, _)) = others.iter().find(|(_, is)| *is) {
        return Err(wrong(format!("this is a configuration of {other}; only those of TRL are imported")));
    }
    let settings =
        table.into_iter().map(|(key, value, line)| Setting { key, value, place: format!("{shown}:{line}") });
    Ok(Settings::new(settings.collect()))
}
