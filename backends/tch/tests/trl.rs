//! libtorch, in Rust, against transformers, TRL and PEFT.

use spo_backend_tch::{Tch, TchEngine};
use tch::{Device, Kind};

test_support::compare_with_trl!(Tch::default(), || TchEngine::new(Device::Cpu, Kind::Float));
