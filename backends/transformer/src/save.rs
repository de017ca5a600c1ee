//! Base weights from a Hugging Face folder, and back into one.

use std::collections::BTreeMap;
use std::path::Path;

use half::{bf16, f16};
use safetensors::Dtype;
use serde_json::json;
use spo_api::{Error, Result, write_whole};

use crate::decoder::Decoder;
use crate::engine::{Engine, Mat, Precision};
use crate::files::write_json;
use crate::linear::LowRank;
use crate::parameters::{Id, Spec};
use crate::session::TransformerSession;
use crate::weights::{Weights, transposed};

/// The weight files of a model folder, checked against a decoder.
pub(crate) struct BaseWeights {
    weights: Weights,
    /// What files saved from the bare model, without its head, leave out in front of every name.
    dropped: &'static str,
}

/// Tensors in the files of some models that are tables, not weights.
const TABLES: [&str; 3] = [".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"];

impl BaseWeights {
    pub fn open(folder: &Path, decoder: &Decoder) -> Result<Self> {
        let weights = Weights::of_model(folder)?;
        let first = &decoder.specs[0].name;
        let dropped = ["model.", "transformer."]
            .into_iter()
            .find(|prefix| {
                first
                    .strip_prefix(prefix)
                    .is_some_and(|bare| weights.contains(bare) && !weights.contains(first))
            })
            .unwrap_or("");
        let base = BaseWeights { weights, dropped };
        base.reject_strangers(decoder)?;
        Ok(base)
    }

    fn stored<'n>(&self, name: &'n str) -> &'n str {
        name.strip_prefix(self.dropped).unwrap_or(name)
    }

    /// Whether the files hold a parameter in bf16.
    pub fn in_half(&self, spec: &Spec) -> bool {
        self.weights.dtype(self.stored(&spec.name)) == Some(Dtype::BF16)
    }

    pub fn read(&self, spec: &Spec) -> Result<Vec<f32>> {
        self.weights.read(self.stored(&spec.name), spec)
    }

    fn reject_strangers(&self, decoder: &Decoder) -> Result<()> {
        let mut known: Vec<&str> = decoder.specs.iter().map(|s| self.stored(&s.name)).collect();
        // Some files hold the head although it is the embedding table.
        known.push("lm_head.weight");
        let mut names = self.weights.names();
        let stranger = names.find(|name| !known.contains(name) && !TABLES.iter().any(|t| name.ends_with(t)));
        match stranger {
            None => Ok(()),
            Some(name) => Err(Error::Model(format!(
                "{}: {name} is no part of a {} of this configuration",
                self.weights.origin(),
                decoder.architecture.model_type
            ))),
        }
    }
}

/// How the base parameters lie on disk, by id: as they came, or as `architecture` says.
pub(crate) fn stored(decoder: &Decoder, weights: Option<&BaseWeights>) -> Vec<(String, Dtype)> {
    let default = match decoder.architecture.dtype.as_str() {
        "bfloat16" => Dtype::BF16,
        "float16" => Dtype::F16,
        _ => Dtype::F32,
    };
    let base = decoder.specs.iter().filter(|spec| !spec.role.of_adapter());
    base.map(|spec| {
        let name = weights.map_or(spec.name.as_str(), |w| w.stored(&spec.name));
        (name.to_owned(), weights.and_then(|w| w.weights.dtype(name)).unwrap_or(default))
    })
    .collect()
}

/// Writes `config.json` and `model.safetensors`: the names and types the weights came with, an adapter
/// merged into them.
pub(crate) fn model<E: Engine>(session: &TransformerSession<E>, folder: &Path) -> Result<()> {
    let decoder = &session.decoder;
    let entries: Vec<Entry> = session
        .stored
        .iter()
        .enumerate()
        .map(|(id, (name, dtype))| Entry {
            name: name.clone(),
            shape: decoder.specs[id].stored_shape(),
            dtype: *dtype,
        })
        .collect();
    let deltas: BTreeMap<Id, LowRank> = decoder.adapted.iter().copied().collect();
    let engine = &session.engine;
    let p = &session.parameters;
    write_safetensors(&folder.join("model.safetensors"), [], &entries, |id| {
        let spec = &decoder.specs[id];
        let mut values = engine.download(p.value(id))?;
        if let Some(low_rank) = deltas.get(&id) {
            let merged = engine.upload(values, &spec.shape, Precision::Full)?;
            let (a, b) = (p.value(low_rank.a), p.value(low_rank.b));
            engine.matmul_add(&merged, low_rank.scale, Mat::new(b), Mat::new(a))?;
            values = engine.download(&merged)?;
        }
        if spec.transposed {
            values = transposed(&values, spec.shape[0], spec.shape[1]);
        }
        Ok(values)
    })?;
    write_json(&folder.join("config.json"), &session.config)
}

/// A tensor of a safetensors file.
pub(crate) struct Entry {
    pub name: String,
    pub shape: Vec<usize>,
    pub dtype: Dtype,
}

impl Entry {
    fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * if self.dtype == Dtype::F32 { 4 } else { 2 }
    }
}

/// Writes a safetensors file, one tensor in memory at a time: `values` is asked for the entries by their
/// index. `notes` go into its metadata.
pub(crate) fn write_safetensors<const N: usize>(
    path: &Path,
    notes: [(&str, String); N],
    entries: &[Entry],
    values: impl Fn(usize) -> Result<Vec<f32>>,
) -> Result<()> {
    let mut header = serde_json::Map::new();
    // transformers refuses files that do not say so.
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
        for (i, entry) in entries.iter().enumerate() {
            put(&encode(&values(i)?, entry.dtype))?;
        }
        Ok(())
    })
}

fn encode(values: &[f32], dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
        Dtype::BF16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}
