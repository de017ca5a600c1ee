//! The tch backend: libtorch, on the CPU and on NVIDIA GPUs, as a library that `spo-run` loads.
//!
//! The engine's operations are libtorch's, called through the tch crate, or through a small shim in C++
//! where that lacks them. The decoder itself is that of every backend.
//!
//! `shim` and `tensor` know nothing of the other modules. On these are written `memory` and the operations: `norm`,
//! `activation`, `attention`, `explicit` (attention that can be recorded), `head`, `elementwise` and `optimizer`.
//! `engine` gathers them, and `backend` opens it.
#![deny(unsafe_code)]

mod activation;
mod attention;
mod backend;
mod elementwise;
mod engine;
mod explicit;
mod head;
mod memory;
mod norm;
mod optimizer;
#[allow(unsafe_code, reason = "the border to C++")]
mod shim;
mod tensor;

pub use backend::Tch;
pub use engine::{TchEngine, TchRecorder};
pub use memory::{Array, TchMemory};

#[allow(unsafe_code, reason = "the border to spo-run")]
mod exported {
    spo_api::export_plugins!();
}
