//! The tch backend: libtorch, on the CPU and on NVIDIA GPUs, as a library that `spo-run` loads.
//!
//! The engine's operations are libtorch's, called through the tch crate, or through a small shim in C++
//! where that lacks them. The decoder itself is that of every backend.
#![deny(unsafe_code)]

mod activation;
mod attention;
mod backend;
mod engine;
mod explicit;
mod head;
mod norm;
#[allow(unsafe_code, reason = "the border to C++")]
mod shim;

pub use backend::Tch;
pub use engine::{Array, TchEngine};

#[allow(unsafe_code, reason = "the border to spo-run")]
mod exported {
    spo_api::export_plugins!();
}
