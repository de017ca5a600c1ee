//! Hashes of the files a model is opened from.

use std::collections::BTreeMap;
use std::path::Path;

use spo_api::{Adapter, Error, ModelSource, ModelSpec};
use spo_data::hash;

use super::folders::is_pickled;

/// Hashes of the model's files (configuration, weights, adapter), by file name.
pub(crate) fn weights(spec: &ModelSpec) -> spo_api::Result<BTreeMap<String, String>> {
    let mut hashes = BTreeMap::new();
    if let ModelSource::Folder(folder) = &spec.source {
        add(folder, "", &mut hashes)?;
    }
    if let Some(Adapter::Saved { path: folder }) = &spec.adapter {
        add(folder, "adapter/", &mut hashes)?;
    }
    Ok(hashes)
}

fn add(folder: &Path, prefix: &str, hashes: &mut BTreeMap<String, String>) -> spo_api::Result<()> {
    let failed = |error| Error::io(folder, error);
    if let Some(file) = spo_gguf::file_of(folder) {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let unread = |e| Error::Model(format!("{}: {e}", file.display()));
        hashes.insert(format!("{prefix}{name}"), hash::of_file(&file).map_err(unread)?);
        return Ok(());
    }
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with("config.json") || name.ends_with(".safetensors") || is_pickled(&name) {
            let unread = |e| Error::Model(format!("{}: {e}", path.display()));
            hashes.insert(format!("{prefix}{name}"), hash::of_file(&path).map_err(unread)?);
        }
    }
    Ok(())
}
