//! candle against transformers, TRL and PEFT.

use candle_core::{DType, Device};
use spo_backend_candle::{Candle, CandleEngine};

#[path = "../../../tests/backends/trl.rs"]
mod trl;

fn backend() -> Candle {
    Candle::default()
}

fn engine() -> CandleEngine {
    CandleEngine::new(Device::Cpu, DType::F32)
}
