//! The fused engine against transformers, torch and PEFT, on a tiny model of every architecture.

use spo_backend_candle::{Candle, FusedEngine};

test_support::compare_with_transformers!(Candle::default(), FusedEngine::default);
