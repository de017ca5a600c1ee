//! Where base weights come from: the safetensors of a Hugging Face folder, or a GGUF file.

use std::path::Path;

use safetensors::Dtype;
use serde_json::Value;
use spo_api::{Error, ModelSource, Result, nearest};
use spo_gguf::{BlockType, Gguf, Tensor};

use super::base_weights::BaseWeights;
use crate::config::Architecture;
use crate::decoder::Decoder;
use crate::files::read_json;
use crate::gguf;
use crate::parameters::{Role, Spec};

/// The configuration of a model, before its weights are looked at.
pub(super) enum Opened<'a> {
    Random(&'a Value),
    Folder(Value, &'a Path),
    File(Value, Box<Gguf>),
}

impl<'a> Opened<'a> {
    pub fn new(source: &'a ModelSource) -> Result<Self> {
        let path = match source {
            ModelSource::Random(config) => return Ok(Opened::Random(config)),
            ModelSource::Folder(path) => path,
        };
        match spo_gguf::file_of(path) {
            Some(file) => {
                let file = Gguf::open(&file)?;
                Ok(Opened::File(gguf::config(&file)?, Box::new(file)))
            }
            None => Ok(Opened::Folder(read_json(&path.join("config.json"))?, path)),
        }
    }

    pub fn config(&self) -> &Value {
        match self {
            Opened::Random(config) => config,
            Opened::Folder(config, _) | Opened::File(config, _) => config,
        }
    }

    /// What to name in errors about the configuration.
    pub fn origin(&self) -> String {
        match self {
            Opened::Random(_) => "model configuration".to_owned(),
            Opened::Folder(_, path) => path.join("config.json").display().to_string(),
            Opened::File(_, file) => file.path().display().to_string(),
        }
    }

    /// The weights, if the model has any; also those of `torch.save` if `pickled`.
    pub fn weights(self, decoder: &Decoder, pickled: bool) -> Result<Option<Source>> {
        match self {
            Opened::Random(_) => Ok(None),
            Opened::Folder(_, path) => {
                BaseWeights::open(path, decoder, pickled).map(Source::Folder).map(Some)
            }
            Opened::File(_, file) => Ok(Some(Source::File(file))),
        }
    }
}

/// The weights of a model.
pub(super) enum Source {
    Folder(BaseWeights),
    File(Box<Gguf>),
}

impl Source {
    /// Whether the files hold a head with values other than those of the embedding table.
    pub fn holds_own_head(&self, decoder: &Decoder) -> bool {
        match self {
            Source::Folder(weights) => weights.holds_own_head(decoder),
            // The configuration was made to say so.
            Source::File(_) => false,
        }
    }

    /// Lets a head be read that the decoder no longer ties to the embedding table.
    pub fn untie(&mut self, decoder: &Decoder) {
        match self {
            Source::Folder(weights) => weights.untie(decoder),
            // See `name`.
            Source::File(_) => {}
        }
    }

    /// Checks that every parameter is there in its shape, and nothing that would be left unread.
    pub fn check(&self, decoder: &Decoder) -> Result<()> {
        match self {
            Source::Folder(weights) => {
                weights.check_unused(decoder)?;
                weights.check(decoder)
            }
            Source::File(file) => check_file(file, decoder),
        }
    }

    /// The type of a parameter in a GGUF file, or that of safetensors by the same name.
    pub fn kind(&self, a: &Architecture, spec: &Spec) -> BlockType {
        match self {
            Source::Folder(weights) if weights.in_half(spec) => BlockType::Bf16,
            Source::Folder(_) => BlockType::F32,
            Source::File(file) => file.tensors().get(&name(file, a, spec)).map_or(BlockType::F32, |t| t.kind),
        }
    }

    /// The values of a parameter.
    pub fn read(&self, a: &Architecture, spec: &Spec) -> Result<Vec<f32>> {
        let (file, tensor) = match self {
            Source::Folder(weights) => return weights.read(spec),
            Source::File(file) => (file, tensor(file, &name(file, a, spec))?),
        };
        let mut values = file.values(tensor)?;
        if let Some(rows) = gguf::rows_in_file(a, spec) {
            values = in_order(&values, &rows);
        }
        if spec.role == Role::GainFromOne {
            // There, norms multiply with the weight itself.
            values.iter_mut().for_each(|x| *x -= 1.0);
        }
        Ok(values)
    }

    /// The blocks of a matrix, its rows in order.
    pub fn blocks(&self, a: &Architecture, spec: &Spec) -> Result<Vec<u8>> {
        let Source::File(file) = self else {
            return Err(Error::Model(format!("{} is not stored in blocks", spec.name)));
        };
        let blocks = file.read(tensor(file, &name(file, a, spec))?)?;
        Ok(match gguf::rows_in_file(a, spec) {
            Some(rows) => in_order(&blocks, &rows),
            None => blocks,
        })
    }

    /// Names and types under which base parameters are saved, by id.
    pub fn stored(&self, decoder: &Decoder) -> Vec<(String, Dtype)> {
        match self {
            Source::Folder(weights) => super::base_weights::stored(decoder, Some(weights)),
            Source::File(_) => {
                let a = &decoder.architecture;
                let base = decoder.specs.iter().filter(|spec| !spec.role.of_adapter());
                let dtype = |spec| match self.kind(a, spec) {
                    BlockType::F16 => Dtype::F16,
                    BlockType::Bf16 => Dtype::BF16,
                    _ => Dtype::F32,
                };
                base.map(|spec| (spec.name.clone(), dtype(spec))).collect()
            }
        }
    }
}

/// The name of a parameter in a file that was checked. Without a head of its own, the head is the embedding table.
fn name(file: &Gguf, a: &Architecture, spec: &Spec) -> String {
    let name = gguf::name(a, spec);
    match name.as_str() {
        "output.weight" if !file.tensors().contains_key(&name) => "token_embd.weight".to_owned(),
        _ => name,
    }
}

fn tensor<'f>(file: &'f Gguf, name: &str) -> Result<&'f Tensor> {
    file.tensors().get(name).ok_or_else(|| {
        let hint = nearest(name, file.tensors().keys().map(String::as_str));
        let hint = hint.map(|n| format!(" (nearest: {n})")).unwrap_or_default();
        Error::Model(format!("{}: the tensor {name} is missing{hint}", file.path().display()))
    })
}

/// Tables that the configuration was made from, or that llama.cpp keeps for itself.
fn is_table(name: &str) -> bool {
    name.starts_with("rope_f") || name.ends_with(".rope_freqs.weight") || name.ends_with(".attn_rot_embd")
}

fn check_file(file: &Gguf, decoder: &Decoder) -> Result<()> {
    let a = &decoder.architecture;
    let shown = file.path().display();
    let mut known = std::collections::BTreeSet::new();
    for spec in decoder.specs.iter().filter(|spec| !spec.role.of_adapter()) {
        let name = gguf::name(a, spec);
        let found = &tensor(file, &name)?.shape;
        if *found != spec.shape {
            let expected = &spec.shape;
            return Err(Error::Model(format!(
                "{shown}: {name}: shape {found:?}, but the metadata make it {expected:?}"
            )));
        }
        known.insert(name);
    }
    match file.tensors().keys().find(|name| !known.contains(*name) && !is_table(name)) {
        None => Ok(()),
        Some(name) => Err(Error::Model(format!(
            "{shown}: the tensor {name} is no part of a {} of these metadata",
            a.model_type.name()
        ))),
    }
}

/// The rows `rows` of a matrix of as many.
fn in_order<T: Clone>(matrix: &[T], rows: &[usize]) -> Vec<T> {
    let width = matrix.len() / rows.len();
    rows.iter().flat_map(|row| matrix[row * width..(row + 1) * width].iter().cloned()).collect()
}
