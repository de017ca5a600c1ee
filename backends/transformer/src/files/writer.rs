//! Writing safetensors files.

use std::path::Path;

use half::{bf16, f16};
use safetensors::Dtype;
use serde_json::json;
use spo_api::{Error, Result, write_whole};

/// A tensor of a safetensors file.
pub(crate) struct TensorEntry {
    pub name: String,
    pub shape: Vec<usize>,
    pub dtype: Dtype,
}

impl TensorEntry {
    fn bytes(&self) -> usize {
        self.dtype.bitsize() / 8 * self.shape.iter().product::<usize>()
    }
}

/// Writes a safetensors file, holding one tensor in memory at a time. `values` is called with the index of
/// each entry. `notes` go into the metadata.
pub(crate) fn write_safetensors<const N: usize>(
    path: &Path,
    notes: [(&str, String); N],
    entries: &[TensorEntry],
    values: impl Fn(usize) -> Result<Vec<f32>>,
) -> Result<()> {
    write_encoded(path, notes, entries, |i| Ok(encode(&values(i)?, entries[i].dtype)))
}

/// The same, given the bytes of each entry.
pub(crate) fn write_encoded<const N: usize>(
    path: &Path,
    notes: [(&str, String); N],
    entries: &[TensorEntry],
    bytes: impl Fn(usize) -> Result<Vec<u8>>,
) -> Result<()> {
    let mut header = serde_json::Map::new();
    // transformers rejects files without this key.
    let mut metadata = json!({ "format": "pt" });
    notes.into_iter().for_each(|(name, value)| metadata[name] = value.into());
    header.insert("__metadata__".into(), metadata);
    let mut offset = 0;
    for entry in entries {
        let end = offset + entry.bytes();
        let about = json!({ "dtype": entry.dtype, "shape": entry.shape, "data_offsets": [offset, end] });
        header.insert(entry.name.clone(), about);
        offset = end;
    }
    let mut header = serde_json::Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    write_whole(path, |out| {
        let mut put = |bytes: &[u8]| out.write_all(bytes).map_err(|source| Error::io(path, source));
        put(&(header.len() as u64).to_le_bytes())?;
        put(&header)?;
        for i in 0..entries.len() {
            put(&bytes(i)?)?;
        }
        Ok(())
    })
}

pub(crate) fn encode(values: &[f32], dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::U8 => values.iter().map(|&v| v as u8).collect(),
        Dtype::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
        Dtype::BF16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}
