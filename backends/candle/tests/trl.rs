//! candle against transformers, TRL and PEFT.

use spo_backend_candle::{Candle, FusedEngine};

test_support::compare_with_trl!(Candle::default(), FusedEngine::default);
