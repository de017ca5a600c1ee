//! candle against transformers, TRL and PEFT.

use candle_core::{DType, Device};
use spo_backend_candle::{Candle, CandleEngine};

test_support::compare_with_trl!(Candle::default(), || CandleEngine::new(Device::Cpu, DType::F32));
