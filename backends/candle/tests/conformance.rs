//! The suite that every engine must pass, on the fused and on the composed operations.

use candle_core::{DType, Device};
use spo_backend_candle::{ComposedEngine, FusedEngine};
use spo_transformer::conformance as suite;

fn fused() -> FusedEngine {
    FusedEngine::default()
}

fn composed() -> ComposedEngine {
    ComposedEngine::new(Device::Cpu, DType::F32)
}

mod on_fused_operations {
    spo_transformer::engine_tests!(super::fused);
}

mod on_composed_operations {
    spo_transformer::engine_tests!(super::composed);
}

#[test]
fn fused_and_composed_operations_agree() {
    suite::engines_agree(fused, composed);
}

#[test]
fn a_restored_state_with_half_moments_continues_exactly() {
    suite::a_restored_state_with_half_moments_continues_exactly(fused);
}

/// bf16 is for devices that have it; the CPU computes the same, only slowly.
#[test]
fn bf16_stays_near_f32() {
    suite::half_stays_near_full(fused, || ComposedEngine::new(Device::Cpu, DType::BF16));
}
