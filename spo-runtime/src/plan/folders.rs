//! What is in a folder that should hold a model, a tokenizer or an adapter. Checked before anything is read,
//! because the usual mistakes (another kind of folder, weights in another format, files that were not
//! downloaded) can be named by a look at the names of the files.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;
use spo_api::{open_regular, read_small};

use crate::hub::model_id;

/// The beginning of the names of weights that `torch.save` wrote.
const PICKLED: &str = "pytorch_model";

/// The file of an adapter that `torch.save` wrote.
const ADAPTER_PICKLED: &str = "adapter_model.bin";

/// Endings of weights in formats that are not read.
const FOREIGN: [&str; 7] = [".bin", ".ggml", ".pth", ".pt", ".h5", ".msgpack", ".ckpt"];

/// Whether a file of this name is one of weights that `torch.save` wrote, of a model or of an adapter.
pub(super) fn is_pickled(name: &str) -> bool {
    name.starts_with(PICKLED) || name == ADAPTER_PICKLED
}

/// Checks that a folder looks like a model, or a file like one in a GGUF file. If `pickled`, its weights may be in
/// `pytorch_model.bin`.
///
/// # Errors
/// A message that says what it is instead, or what is missing, and what to do.
pub(crate) fn model(folder: &Path, pickled: bool) -> Result<(), String> {
    if let Some(done) = gguf(folder) {
        return done;
    }
    let wanted =
        "a model is a folder with config.json, tokenizer.json and safetensors weights, or a GGUF file";
    let names = names(folder, wanted)?;
    let has = |name: &str| names.iter().any(|n| n == name);
    let shown = folder.display();
    let of_gguf: Vec<&str> =
        names.iter().map(String::as_str).filter(|name| name.ends_with(".gguf")).collect();
    if of_gguf.len() > 1 && !names.iter().any(|name| name.ends_with(".safetensors")) {
        return Err(format!(
            "{shown} has {} GGUF files: name one of them, {}",
            of_gguf.len(),
            of_gguf.join(" or ")
        ));
    }
    if has("adapter_config.json") && !has("config.json") {
        let base =
            base_model(folder).map_or("its base model".to_owned(), |base| format!("its base model, {base},"));
        return Err(format!(
            "{shown} is an adapter, not a model: give {base} as the model, and this folder as the adapter (`--adapter` on \
             the command line, `model.adapter.path` in a recipe)"
        ));
    }
    if has("run.json") || has("sweep.json") {
        let models = models_in(folder);
        let models = match models.is_empty() {
            true => "it holds no saved model".to_owned(),
            false => format!("its models are in {}", models.join(", ")),
        };
        return Err(format!("{shown} is the folder of a run, not of a model: {models}"));
    }
    let foreign: Vec<&str> =
        names.iter().map(String::as_str).filter(|n| FOREIGN.iter().any(|end| n.ends_with(end))).collect();
    let foreign: Vec<&str> = foreign
        .into_iter()
        .filter(|name| is_weights(name) && !(pickled && name.starts_with(PICKLED)))
        .collect();
    if !names.iter().any(|name| name.contains(".safetensors")) && !foreign.is_empty() {
        return Err(format!(
            "{shown} has no safetensors weights, only {}: {}",
            listed(&foreign),
            remedy(foreign[0])
        ));
    }
    if !has("config.json") {
        return Err(format!("{shown} has no config.json, so it is no model in the layout of Hugging Face"));
    }
    pointers(folder, &names)
}

/// Checks that a folder looks like one of a tokenizer.
///
/// # Errors
/// As [`model`].
pub(crate) fn tokenizer(folder: &Path) -> Result<(), String> {
    if let Some(done) = gguf(folder) {
        return done;
    }
    let names = names(folder, "a tokenizer is a folder with tokenizer.json, or a GGUF file")?;
    pointers(folder, &names)
}

/// Checks a GGUF file, or the folder of one; `None` if it is neither.
fn gguf(path: &Path) -> Option<Result<(), String>> {
    let file = spo_gguf::file_of(path).filter(|file| file.exists())?;
    Some(match is_pointer(&file) {
        true => Err(unfetched(&file)),
        false => Ok(()),
    })
}

/// Checks that a folder looks like an adapter in PEFT's layout. If `pickled`, its weights may be in `adapter_model.bin`.
///
/// # Errors
/// As [`model`].
pub(crate) fn adapter(folder: &Path, pickled: bool) -> Result<(), String> {
    let layout = "adapter_config.json and adapter_model.safetensors";
    let names = names(folder, &format!("an adapter is a folder with {layout}"))?;
    let has = |name: &str| names.iter().any(|n| n == name);
    let shown = folder.display();
    if !has("adapter_config.json") {
        let instead = if has("config.json") { ": it is a model, not an adapter" } else { "" };
        return Err(format!("{shown} has no adapter_config.json{instead}. An adapter is {layout}"));
    }
    let pickle = has(ADAPTER_PICKLED);
    let read = has("adapter_model.safetensors") || (pickle && pickled);
    if !read {
        return Err(match pickle {
            true => format!(
                "{shown} has no adapter_model.safetensors, only {ADAPTER_PICKLED}: {}",
                remedy(ADAPTER_PICKLED)
            ),
            false => format!("{shown} has no adapter_model.safetensors"),
        });
    }
    pointers(folder, &names)
}

/// Checks that a path exists; the error suggests a similarly named neighbour.
pub(super) fn exists(path: &Path) -> Result<(), String> {
    if path.exists() {
        return Ok(());
    }
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let neighbours = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names: Vec<String> =
        neighbours.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let hint = spo_api::nearest(&name, names.iter().map(String::as_str));
    let hint = hint.map_or(String::new(), |n| format!("; did you mean {}?", folder.join(n).display()));
    Err(format!("there is no {}{hint}", path.display()))
}

/// The names of the files in a folder, in order.
fn names(folder: &Path, wanted: &str) -> Result<Vec<String>, String> {
    let shown = folder.display();
    if !folder.exists() {
        return Err(exists(folder).err().unwrap_or_default());
    }
    if folder.is_file() {
        let name = folder.to_string_lossy();
        let foreign = FOREIGN.iter().any(|end| name.ends_with(end));
        let more = if foreign { format!(". {}", remedy(&name)) } else { String::new() };
        return Err(format!("{shown} is a file: {wanted}{more}"));
    }
    let entries = folder.read_dir().map_err(|e| format!("{shown}: {e}"))?;
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    match names.is_empty() {
        true => Err(format!("{shown} is empty: {wanted}")),
        false => Ok(names),
    }
}

/// The base model that an adapter names.
fn base_model(adapter: &Path) -> Option<String> {
    let text = read_small(&adapter.join("adapter_config.json")).ok()?;
    let config: Value = serde_json::from_slice(&text).ok()?;
    config["base_model_name_or_path"].as_str().map(str::to_owned)
}

/// The base model of a folder that holds an adapter alone, if the adapter names a model: a folder, a GGUF file, or an id on
/// the hub.
pub(crate) fn base(folder: &Path) -> Option<PathBuf> {
    let alone = folder.join("adapter_config.json").exists() && !folder.join("config.json").exists();
    let base = PathBuf::from(base_model(folder).filter(|_| alone)?);
    let here =
        base.join("config.json").exists() || spo_gguf::file_of(&base).is_some_and(|file| file.exists());
    (here || model_id(&base).is_some()).then_some(base)
}

/// The models that the stages of a run have saved.
fn models_in(run: &Path) -> Vec<String> {
    let folders = run.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
    let models = folders.filter(|path| holds_model(path));
    let mut models: Vec<String> = models.map(|path| path.display().to_string()).collect();
    models.sort_unstable();
    models
}

/// Whether a model or an adapter was saved in a folder.
pub(crate) fn holds_model(folder: &Path) -> bool {
    ["config.json", "adapter_config.json"].iter().any(|name| folder.join(name).exists())
}

/// Whether a file with the ending of a foreign format holds weights. Trainers also leave their arguments and
/// the state of optimizers behind.
fn is_weights(name: &str) -> bool {
    let other = ["training_args", "optimizer", "scheduler", "scaler", "rng_state"];
    !other.iter().any(|begin| name.starts_with(begin))
}

fn listed(names: &[&str]) -> String {
    match names {
        [one] => (*one).to_owned(),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
        [] => String::new(),
    }
}

/// What to do about weights in another format.
fn remedy(name: &str) -> String {
    match name.rsplit('.').next() {
        Some("ggml") => {
            "weights in the format that llama.cpp had before GGUF are not read: take the repository they were made from, \
             in the layout of Hugging Face (safetensors), or a GGUF file"
        }
        Some("h5" | "msgpack") => {
            "weights in the format of TensorFlow or Flax are not read: load them with transformers and save them as \
             safetensors (`model.save_pretrained(FOLDER)`)"
        }
        Some("bin") if is_pickled(name) => {
            "weights in PyTorch's own format are a pickle, a program, of which only the tensors are read and nothing is run, \
             and that only if asked for: set `model.allow_pickle = true` in the recipe, or convert the folder with \
             `spo-run convert FOLDER OUT`"
        }
        _ => {
            "weights in PyTorch's own format are not read: load them in Python and save them as safetensors \
             (`model.save_pretrained(FOLDER)`)"
        }
    }
    .to_owned()
}

/// Finds files that Git LFS has not fetched.
fn pointers(folder: &Path, names: &[String]) -> Result<(), String> {
    let read = |name: &&String| {
        name.ends_with(".safetensors") || name.ends_with(".json") || name.as_str() == "chat_template.jinja"
    };
    let found: Vec<&str> =
        names.iter().filter(read).filter(|name| is_pointer(&folder.join(name))).map(String::as_str).collect();
    match found.is_empty() {
        true => Ok(()),
        false if found.len() == 1 => Err(unfetched(&folder.join(found[0]))),
        false => Err(format!(
            "{}: like {} more, is a Git LFS pointer, not the file itself: run `git lfs pull` in the folder",
            folder.join(found[0]).display(),
            found.len() - 1
        )),
    }
}

fn unfetched(file: &Path) -> String {
    format!("{}: is a Git LFS pointer, not the file itself: run `git lfs pull` in the folder", file.display())
}

/// Whether a file is a pointer of Git LFS (its specification, version 1).
fn is_pointer(path: &Path) -> bool {
    let mut begin = Vec::new();
    let read = open_regular(path).and_then(|file| file.take(64).read_to_end(&mut begin));
    read.is_ok() && begin.starts_with(b"version https://git-lfs")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// What is said of a folder with these files.
    fn said(check: fn(&Path) -> Result<(), String>, files: &[(&str, &str)]) -> String {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("thing");
        fs::create_dir(&folder).unwrap();
        for (name, content) in files {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        check(&folder).err().unwrap_or_default().replace(place.path().to_str().unwrap(), "")
    }

    #[test]
    fn a_model_folder_is_told_from_others() {
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
        let config = ("config.json", "{}");
        for (files, expected) in [
            (vec![], "/thing is empty"),
            (vec![("adapter_config.json", r#"{"base_model_name_or_path": "org/base"}"#)], "org/base"),
            (vec![("run.json", "{}"), ("sft/config.json", "{}")], "its models are in /thing/sft"),
            (vec![config, ("pytorch_model.bin", "")], "pytorch_model.bin: weights in PyTorch's"),
            (
                vec![
                    config,
                    ("pytorch_model-1.bin", ""),
                    ("pytorch_model-2.bin", ""),
                    ("training_args.bin", ""),
                ],
                "pytorch_model-1.bin and 1 more",
            ),
            (vec![("consolidated.00.pth", "")], "consolidated.00.pth: weights in PyTorch's"),
            (vec![("a.gguf", ""), ("b.gguf", "")], "has 2 GGUF files: name one of them, a.gguf or b.gguf"),
            (vec![("model.ggml", "")], "model.ggml: weights in the format that llama.cpp had before"),
            (vec![("model.gguf", pointer)], "model.gguf: is a Git LFS pointer"),
            (vec![config, ("tf_model.h5", "")], "tf_model.h5: weights in the format of TensorFlow"),
            (vec![("tokenizer.json", "{}")], "no config.json"),
            (vec![config, ("model.safetensors", pointer)], "model.safetensors: is a Git LFS pointer"),
            (vec![("config.json", pointer), ("model.safetensors", "")], "config.json: is a Git LFS pointer"),
            (
                vec![config, ("tokenizer.json", pointer), ("model.safetensors", "")],
                "tokenizer.json: is a Git LFS",
            ),
        ] {
            let message = said(|folder| model(folder, false), &files);
            assert!(message.contains(expected), "{message} does not say {expected}");
        }
        let whole = [config, ("model.safetensors", ""), ("training_args.bin", ""), ("README.md", pointer)];
        let model = |folder: &Path| model(folder, false);
        assert_eq!(said(model, &whole), "");
        assert_eq!(said(model, &[config, ("training_args.bin", "")]), "", "left to the backend");
        assert_eq!(said(|folder| super::model(folder, true), &[config, ("pytorch_model.bin", "")]), "");
    }

    #[test]
    fn an_adapter_folder_is_told_from_others() {
        let config = ("adapter_config.json", "{}");
        for (files, expected) in [
            (vec![("config.json", "{}")], "it is a model, not an adapter"),
            (vec![config, ("adapter_model.bin", "")], "only adapter_model.bin: weights in PyTorch's"),
            (vec![config], "no adapter_model.safetensors"),
            (vec![config, ("adapter_model.safetensors", "version https://git-lfs")], "Git LFS pointer"),
        ] {
            let message = said(|folder| adapter(folder, false), &files);
            assert!(message.contains(expected), "{message} does not say {expected}");
        }
        assert_eq!(said(|folder| adapter(folder, true), &[config, ("adapter_model.bin", "")]), "");
        assert_eq!(said(|folder| adapter(folder, false), &[config, ("adapter_model.safetensors", "")]), "");
    }

    #[test]
    fn paths_that_are_no_folders_are_told_apart() {
        let said = |path: &str| model(Path::new(path), false).unwrap_err();
        assert_eq!(said("/nowhere/model"), "there is no /nowhere/model");
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("model.bin");
        fs::write(&file, "").unwrap();
        let message = said(file.to_str().unwrap());
        assert!(message.contains("is a file") && message.contains("PyTorch"), "{message}");
    }
}
