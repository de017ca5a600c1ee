//! The weights of a Hugging Face folder, checked against a decoder.

use std::path::Path;

use safetensors::Dtype;
use spo_api::{Error, Result};

use crate::decoder::Decoder;
use crate::files::Weights;
use crate::parameters::Spec;

/// The weight files of a model folder, checked against a decoder.
pub(super) struct BaseWeights {
    weights: Weights,
    /// Prefix that is missing from every name in files saved from the bare model, without its head.
    dropped: &'static str,
}

/// Tensors in the files of some models that are constant tables, not weights.
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

    /// Whether the files store a parameter in bf16.
    pub fn in_half(&self, spec: &Spec) -> bool {
        self.weights.dtype(self.stored(&spec.name)) == Some(Dtype::BF16)
    }

    pub fn read(&self, spec: &Spec) -> Result<Vec<f32>> {
        self.weights.read(self.stored(&spec.name), spec)
    }

    fn reject_strangers(&self, decoder: &Decoder) -> Result<()> {
        let mut known: Vec<&str> = decoder.specs.iter().map(|s| self.stored(&s.name)).collect();
        // Some files contain the head although it is tied to the embedding table.
        known.push("lm_head.weight");
        let mut names = self.weights.names();
        let stranger = names.find(|name| !known.contains(name) && !TABLES.iter().any(|t| name.ends_with(t)));
        match stranger {
            None => Ok(()),
            Some(name) => Err(Error::Model(format!(
                "{}: {name} is no part of a {} of this configuration",
                self.weights.origin(),
                decoder.architecture.model_type.name()
            ))),
        }
    }
}

/// Names and types of the base parameters on disk, by id: those of the weight files if there are any, else
/// those of `architecture`.
pub(super) fn stored(decoder: &Decoder, weights: Option<&BaseWeights>) -> Vec<(String, Dtype)> {
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
