//! The decoder, written once over the tensor operations of an engine.
//!
//! A backend implements [`Engine`] for its tensor library and opens a [`TransformerSession`] on it; that
//! is the whole backend. Everything else is here: the architectures, how weights are read and written,
//! the forward and backward pass, adapters, the optimizer's book-keeping, generation.
//!
//! The backward pass is written out, operation by operation, instead of recorded on a tape: the network
//! is fixed, so this is the shorter way, and it decides in one place what is kept and what is computed
//! again. The `conformance` module proves it against finite differences, for every parameter of every
//! architecture.
#![deny(unsafe_code)]

mod adapter;
mod block;
mod config;
#[cfg(feature = "conformance")]
pub mod conformance;
mod decoder;
mod engine;
mod files;
mod flat;
mod generate;
mod hessian;
mod init;
mod linear;
mod mlp;
mod norm;
mod packing;
mod parameters;
mod pass;
mod rotary;
mod save;
mod session;
mod state;
mod weights;

pub use config::Architecture;
pub use engine::{
    Activation, AdamWStep, Cluster, Engine, HeadScores, Heads, Mat, Norm, NormKind, Precision, Rotation, Span,
};
pub use rotary::{Rope, Scaling};
pub use session::{Options, TransformerSession};
