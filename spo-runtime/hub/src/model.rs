//! Which files of a repository a model or a tokenizer consists of.

use std::path::Path;

use serde_json::Value;

#[cfg(feature = "download")]
use crate::{Result, refused, repo::Repo};

/// The list of the files that weights are spread over.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

const SINGLE: &str = "model.safetensors";

/// Everything but weights that is read of a model, an adapter or a tokenizer.
const SMALL: [&str; 9] = [
    "adapter_config.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// The files that are needed of a tokenizer.
pub(crate) fn tokenizer(names: &[String]) -> Vec<String> {
    names.iter().filter(|name| SMALL.contains(&name.as_str())).cloned().collect()
}

/// The files that are needed of a model or an adapter.
///
/// # Errors
/// If there are no weights, or only such that are not read.
#[cfg(feature = "download")]
pub(crate) fn model(repo: &Repo, names: &[String]) -> Result<Vec<String>> {
    let has = |name: &str| names.iter().any(|n| n == name);
    let root = || names.iter().filter(|name| !name.contains('/'));
    let mut wanted = tokenizer(names);
    let safetensors: Vec<&String> = root().filter(|name| name.ends_with(".safetensors")).collect();
    if has("adapter_config.json") && !has("config.json") {
        wanted.extend(safetensors.into_iter().filter(|name| *name == "adapter_model.safetensors").cloned());
        return Ok(wanted);
    }
    if has(SINGLE) {
        wanted.push(SINGLE.to_owned());
        return Ok(wanted);
    }
    if has(INDEX) {
        wanted.push(INDEX.to_owned());
        // The same weights may be there once more under other names (`consolidated.safetensors`).
        wanted.extend(safetensors.into_iter().filter(|name| name.starts_with("model-")).cloned());
        return Ok(wanted);
    }
    if !safetensors.is_empty() {
        wanted.extend(safetensors.into_iter().cloned());
        return Ok(wanted);
    }
    let gguf: Vec<&String> = root().filter(|name| name.ends_with(".gguf")).collect();
    let id = repo.id();
    match &*gguf {
        [one] => {
            wanted.push((*one).clone());
            Ok(wanted)
        }
        [] => {
            let foreign = root().find(|name| {
                [".bin", ".pth", ".pt", ".h5", ".msgpack"].iter().any(|end| name.ends_with(end))
            });
            match foreign {
                Some(foreign) => refused(format!(
                    "`{id}` has no safetensors weights, only {foreign}: load them in Python and save them as safetensors \
                     (`model.save_pretrained(FOLDER)`)"
                )),
                None => refused(format!("`{id}` on the hub has no weights: no safetensors and no GGUF file")),
            }
        }
        several => refused(format!(
            "`{id}` has {} GGUF files: download one (`hf download {id} {} --local-dir FOLDER`) and give its path",
            several.len(),
            several[0]
        )),
    }
}

/// Whether all of a model or an adapter is in a folder.
pub(crate) fn is_whole(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).is_file();
    if has("adapter_config.json") && !has("config.json") {
        return has("adapter_model.safetensors");
    }
    let listed = |text: String| -> Option<bool> {
        let index: Value = serde_json::from_str(&text).ok()?;
        Some(index["weight_map"].as_object()?.values().all(|file| file.as_str().is_some_and(has)))
    };
    let ends = |end: &str| {
        let mut entries = folder.read_dir().into_iter().flatten().flatten();
        entries.any(|entry| entry.path().extension().is_some_and(|e| e == end) && entry.path().is_file())
    };
    if has(SINGLE) {
        return has("config.json");
    }
    match std::fs::read_to_string(folder.join(INDEX)) {
        Ok(text) => has("config.json") && listed(text).unwrap_or(false),
        Err(_) => has("config.json") && ends("safetensors") || ends("gguf"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(names: &[&str]) -> Result<String> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        model(&Repo::model("a/b").unwrap(), &names).map(|files| files.join(" "))
    }

    #[test]
    fn only_what_is_read_is_wanted() {
        let all = [
            "README.md",
            "config.json",
            "model.safetensors",
            "onnx/model.safetensors",
            "pytorch_model.bin",
            "tokenizer.json",
            "vocab.json",
        ];
        assert_eq!(wanted(&all).unwrap(), "config.json tokenizer.json model.safetensors");
        let shards = [
            "config.json",
            "consolidated.safetensors",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            INDEX,
        ];
        let files = "model-00001-of-00002.safetensors model-00002-of-00002.safetensors";
        assert_eq!(wanted(&shards).unwrap(), format!("config.json {INDEX} {files}"));
        let adapter =
            ["adapter_config.json", "adapter_model.bin", "adapter_model.safetensors", "optimizer.pt"];
        assert_eq!(wanted(&adapter).unwrap(), "adapter_config.json adapter_model.safetensors");
        assert_eq!(wanted(&["README.md", "model-q8.gguf"]).unwrap(), "model-q8.gguf");
    }

    #[test]
    fn what_is_not_read_is_named() {
        let said = |names: &[&str]| wanted(names).unwrap_err().to_string();
        assert!(said(&["config.json", "pytorch_model.bin"]).contains("only pytorch_model.bin"));
        assert!(said(&["a.gguf", "b.gguf"]).contains("hf download a/b a.gguf --local-dir"));
        assert!(said(&["README.md"]).contains("no weights"));
    }

    #[test]
    fn a_model_is_whole_with_every_file_of_its_index() {
        let place = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(place.path().join(name), text).unwrap();
        write("config.json", "{}");
        assert!(!is_whole(place.path()));
        write(INDEX, r#"{"weight_map": {"x": "model-1.safetensors", "y": "model-2.safetensors"}}"#);
        write("model-1.safetensors", "");
        assert!(!is_whole(place.path()));
        write("model-2.safetensors", "");
        assert!(is_whole(place.path()));
    }
}
