//! File formats: JSON and safetensors.

mod json;
mod weights;
mod writer;

pub(crate) use json::{read_json, write_json};
pub(crate) use weights::{Weights, transposed};
pub(crate) use writer::{TensorEntry, write_safetensors};
