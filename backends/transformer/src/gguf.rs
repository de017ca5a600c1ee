//! A model in a GGUF file: its metadata as a `config.json`, and its tensors under the names of Hugging Face.

mod config;
mod export;
mod names;
mod rotary;

pub(crate) use config::config;
pub use export::{write_adapter, write_model};
pub(crate) use names::{name, rows_in_file};
