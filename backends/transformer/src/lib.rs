//! Not a backend, but what backends are made of: the decoder, written once over the tensor operations of an engine.
//!
//! A backend implements [`Engine`] for its tensor library and opens a [`TransformerSession`] on it; that
//! is the whole backend. Everything else is here: the architectures, how weights are read and written,
//! the forward and backward pass, adapters, the optimizer's book-keeping, generation.
//!
//! The backward pass is written out, operation by operation, instead of recorded on a tape: the network
//! is fixed, so this is the shorter way, and it decides in one place what is kept and what is computed
//! again. The `conformance` module proves it against finite differences, for every parameter of every
//! architecture.
//!
//! Each module imports only from those above it:
//!
//! | module | what it knows |
//! |---|---|
//! | `engine` | the operations |
//! | `config` | `config.json` as the shape of a decoder, one file for each family |
//! | `parameters` | values and gradients, side by side in memory |
//! | `decoder` | which parameters a shape has, and the passes through its blocks |
//! | `files` | JSON and safetensors |
//! | `model` | a decoder with its parameters, opened from a folder or at random |
//! | `export` | a model into a folder |
//! | `packing` | a batch as rows without padding |
//! | `pass`, `hessian`, `generate` | from a batch to log-probs and back |
//! | `optimizer` | the rules that a session runs itself, and their moments |
//! | `state` | what training changes, on disk |
//! | `session` | all of it as a [`Session`](spo_api::Session) |
//! | `conformance` | what every engine must pass |
#![deny(unsafe_code)]

mod config;
#[cfg(feature = "conformance")]
pub mod conformance;
mod decoder;
mod engine;
mod export;
mod files;
mod generate;
mod hessian;
mod model;
mod optimizer;
mod packing;
mod parameters;
mod pass;
mod session;
mod state;

pub use config::ModelType;
pub use engine::{
    Activation, AdamWStep, BLOCK, Blockwise, Cluster, DynamicMap, Engine, HeadScores, Heads, Mat, Memory,
    NoTape, Norm, NormKind, Precision, Recorder, Rotation, SIGNED, Span, UNSIGNED,
};
pub use session::{Options, TransformerSession};
