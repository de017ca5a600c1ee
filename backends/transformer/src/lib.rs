//! The shared part of the transformer backends: the decoder, written once in terms of the tensor operations
//! of an engine.
//!
//! A backend implements [`Engine`] for its tensor library and opens a [`TransformerSession`] with it; nothing
//! else is needed. This crate contains everything else: the architectures, reading and writing weights, the
//! forward and backward pass, adapters, optimizer state and generation.
//!
//! The backward pass is written out operation by operation instead of being recorded on a tape. The network
//! is fixed, so this is shorter, and one place decides what is kept and what is recomputed. The `conformance`
//! module checks it against finite differences, for every parameter of every architecture.
//!
//! Each module imports only from the modules above it:
//!
//! | module | contents |
//! |---|---|
//! | `engine` | the operations |
//! | `config` | `config.json` as the shape of a decoder, one file for each family |
//! | `parameters` | values and gradients, stored contiguously |
//! | `decoder` | the parameters of an architecture, and the passes through its blocks |
//! | `files` | JSON and safetensors |
//! | `gguf` | what GGUF files say, in the words of Hugging Face |
//! | `model` | a decoder with its parameters, opened from a folder or initialised at random |
//! | `export`, `convert` | writing a model to a folder |
//! | `packing` | a batch as rows without padding |
//! | `pass`, `hessian`, `generate` | from a batch to log-probs and back |
//! | `optimizer` | the optimizers that a session runs itself, and their moments |
//! | `state` | saving and restoring what training changes |
//! | `session` | all of it combined as a [`Session`](spo_api::Session) |
//! | `conformance` | the tests that every engine must pass |
#![deny(unsafe_code)]

mod config;
#[cfg(feature = "conformance")]
pub mod conformance;
mod convert;
mod decoder;
mod engine;
mod export;
mod files;
mod generate;
pub mod gguf;
mod hessian;
mod model;
mod optimizer;
mod packing;
mod parameters;
mod pass;
mod session;
mod state;

pub use config::ModelType;
pub use convert::{convert, is_adapter};
pub use engine::{
    Activation, AdamWStep, Attention, BLOCK, Blocks, Blockwise, Cluster, DynamicMap, Engine, Head,
    HeadScores, Heads, Mat, Memory, NoTape, Norm, NormKind, Pairs, Precision, Recorder, Rotation, SIGNED,
    Span, UNSIGNED,
};
pub use session::{Options, TransformerSession};
