//! File formats: JSON, safetensors, and the files of `torch.save`.

mod json;
mod pickle;
mod weights;
mod writer;

pub(crate) use json::{read_json, write_json};
pub(crate) use weights::{OF_ADAPTER, Weights, decoded, transposed};
pub(crate) use writer::{TensorEntry, encode, write_encoded, write_safetensors};
