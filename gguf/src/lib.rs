//! GGUF, the file format of llama.cpp.
//!
//! One file holds a model as a whole: metadata (sizes, tokenizer, chat template) and tensors, most of them quantised
//! in blocks of 32 or 256 numbers. [`Gguf`] reads such a file and [`write()`] writes one; [`BlockType`] turns blocks into
//! numbers and back. What metadata and tensors mean for a model or a tokenizer is not known here.
#![deny(unsafe_code)]

mod block;
mod file;
mod value;
mod write;

pub use block::BlockType;
pub use file::{Gguf, Tensor, file_of};
pub use value::{List, Value};
pub use write::{Entry, write};
