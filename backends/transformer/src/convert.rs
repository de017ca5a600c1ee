//! Weights of any model, from the files of `torch.save` or from safetensors, to one safetensors file.

use std::path::Path;

use safetensors::Dtype;
use spo_api::{Error, Result, WeightType};

use crate::export::{dtype_of, in_type};
use crate::files::{TensorEntry, Weights, decoded, encode, read_json, write_encoded, write_json};

/// Writes `config.json` and `model.safetensors` of a folder into another, one tensor at a time. Whatever the architecture,
/// tensors keep their names; those of floating-point numbers get the type `kind`, if there is one.
///
/// # Errors
/// [`Error::Model`] when the folder has no weights that can be read, [`Error::Io`] when a file cannot be written.
pub fn convert(folder: &Path, out: &Path, kind: Option<WeightType>) -> Result<()> {
    let config = read_json(&folder.join("config.json"))?;
    let weights = Weights::of_model(folder, true)?;
    let types = |name: &str| weights.info(name).map(|(dtype, _)| (dtype, saved(dtype, kind)));
    let entry = |name: &str| {
        let (_, shape) = weights.info(name)?;
        let (_, dtype) = types(name)?;
        Some(TensorEntry { name: name.to_owned(), shape: shape.to_vec(), dtype })
    };
    let entries: Vec<TensorEntry> = weights.names().filter_map(entry).collect();
    write_encoded(&out.join("model.safetensors"), [], &entries, |i| {
        let name = &entries[i].name;
        let bytes = types(name).and_then(|(before, after)| {
            weights.map(name, |bytes| match before == after {
                true => bytes.to_vec(),
                false => encode(&decoded(bytes, before), after),
            })
        });
        bytes.ok_or_else(|| Error::Model(format!("{}: {name} is missing", folder.display())))
    })?;
    write_json(&out.join("config.json"), &in_type(&config, kind))
}

/// The type in which a tensor is saved that has this one.
fn saved(dtype: Dtype, kind: Option<WeightType>) -> Dtype {
    match kind {
        Some(kind) if [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16].contains(&dtype) => dtype_of(kind),
        _ => dtype,
    }
}
