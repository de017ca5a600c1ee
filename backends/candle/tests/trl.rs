//! candle against transformers, TRL and PEFT.

use spo_backend_candle::{Candle, FusedEngine};

#[path = "../../../tests/backends/trl.rs"]
mod trl;

fn backend() -> Candle {
    Candle::default()
}

fn engine() -> FusedEngine {
    FusedEngine::default()
}
