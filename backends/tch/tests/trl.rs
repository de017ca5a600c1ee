//! libtorch, in Rust, against transformers, TRL and PEFT.

use spo_backend_tch::{Tch, TchEngine};
use tch::{Device, Kind};

#[path = "../../../tests/backends/trl.rs"]
mod trl;

fn backend() -> Tch {
    Tch::default()
}

fn engine() -> TchEngine {
    TchEngine::new(Device::Cpu, Kind::Float)
}
