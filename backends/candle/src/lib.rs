//! The candle backend: pure Rust, CPU, CUDA, Metal.
