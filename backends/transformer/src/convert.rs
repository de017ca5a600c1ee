//! Weights of any model or adapter, from the files of `torch.save` or from safetensors, to one safetensors file.

use std::path::Path;

use safetensors::Dtype;
use spo_api::{Error, Result, WeightType};

use crate::export::{dtype_of, in_type};
use crate::files::{OF_ADAPTER, TensorEntry, Weights, decoded, encode, read_json, write_encoded, write_json};
use crate::model::adapter::CONFIG;

/// Writes `config.json` and `model.safetensors` of a folder into another, one tensor at a time; of an adapter,
/// `adapter_config.json` and `adapter_model.safetensors`. Whatever the architecture, tensors keep their names; those of
/// floating-point numbers get the type `kind`, if there is one.
///
/// # Errors
/// [`Error::Model`] when the folder has no weights that can be read, [`Error::Io`] when a file cannot be written.
pub fn convert(folder: &Path, out: &Path, kind: Option<WeightType>) -> Result<()> {
    let of_adapter = is_adapter(folder);
    let (config_file, file) =
        if of_adapter { (CONFIG, OF_ADAPTER) } else { ("config.json", "model.safetensors") };
    let config = read_json(&folder.join(config_file))?;
    let weights = match of_adapter {
        true => Weights::of_adapter(folder, true)?,
        false => Weights::of_model(folder, true)?,
    };
    let types = |name: &str| weights.info(name).map(|(dtype, _)| (dtype, saved(dtype, kind)));
    let entry = |name: &str| {
        let (_, shape) = weights.info(name)?;
        let (_, dtype) = types(name)?;
        Some(TensorEntry { name: name.to_owned(), shape: shape.to_vec(), dtype })
    };
    let entries: Vec<TensorEntry> = weights.names().filter_map(entry).collect();
    write_encoded(&out.join(file), [], &entries, |i| {
        let name = &entries[i].name;
        let bytes = types(name).and_then(|(before, after)| {
            weights.map(name, |bytes| match before == after {
                true => bytes.to_vec(),
                false => encode(&decoded(bytes, before), after),
            })
        });
        bytes.ok_or_else(|| Error::Model(format!("{}: {name} is missing", folder.display())))
    })?;
    // The configuration of an adapter says nothing of types.
    let config = if of_adapter { config } else { in_type(&config, kind) };
    write_json(&out.join(config_file), &config)
}

/// Whether a folder is one of an adapter alone.
#[must_use]
pub fn is_adapter(folder: &Path) -> bool {
    folder.join(CONFIG).exists() && !folder.join("config.json").exists()
}

/// The type in which a tensor is saved that has this one.
fn saved(dtype: Dtype, kind: Option<WeightType>) -> Dtype {
    match kind {
        Some(kind) if [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16].contains(&dtype) => dtype_of(kind),
        _ => dtype,
    }
}
