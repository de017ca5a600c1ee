//! libtorch, in Rust, against transformers, torch and PEFT, on a tiny model of every architecture.

use spo_backend_tch::{Tch, TchEngine};
use tch::{Device, Kind};

test_support::compare_with_transformers!(Tch::default(), || TchEngine::new(Device::Cpu, Kind::Float));
test_support::compare_with_peft!(Tch::default(), || TchEngine::new(Device::Cpu, Kind::Float));
