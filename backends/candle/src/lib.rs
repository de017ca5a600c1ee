//! The candle backend: pure Rust, CPU, CUDA, Metal.
//!
//! On the CPU, in f32, the hot operations run as kernels of this crate on candle's memory; everywhere
//! else they are composed of candle's own operations. Both are one [`Engine`](spo_transformer::Engine)
//! and compute the same.
#![deny(unsafe_code)]

mod backend;
mod composed;
mod engine;
mod fused;
mod memory;

pub use backend::Candle;
pub use engine::CandleEngine;
