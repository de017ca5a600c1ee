//! The candle backend: pure Rust, CPU, CUDA, Metal.
//!
//! It has two engines that compute the same: [`FusedEngine`], kernels of this crate for the CPU in f32, and
//! [`ComposedEngine`], candle's own operations for every other device and type. Both keep their arrays in candle's
//! memory.
#![deny(unsafe_code)]

mod backend;
mod composed;
mod fused;
mod memory;

pub use backend::Candle;
pub use composed::ComposedEngine;
pub use fused::FusedEngine;
pub use memory::CandleMemory;
