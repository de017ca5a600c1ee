//! The suite that every engine must pass, on the fused and on the composed operations.

use candle_core::{DType, Device};
use spo_backend_candle::CandleEngine;
use spo_transformer::{Options, conformance as suite};

fn fused() -> CandleEngine {
    CandleEngine::new(Device::Cpu, DType::F32)
}

fn composed() -> CandleEngine {
    CandleEngine::composed(Device::Cpu, DType::F32)
}

macro_rules! both {
    ($($check:ident),* $(,)?) => {
        mod on_fused_operations {
            $(#[test]
            fn $check() {
                super::suite::$check(super::fused);
            })*
        }
        mod on_composed_operations {
            $(#[test]
            fn $check() {
                super::suite::$check(super::composed);
            })*
        }
    };
}

both!(
    gradients_agree_with_finite_differences,
    sharing_a_prompt_is_exact,
    recomputation_is_exact,
    statistics_follow_their_definitions,
    vectors_behave,
    adamw_follows_its_formula,
    adapters_leave_the_rest_alone,
    generation_is_that_of_recomputation,
    sampling_follows_the_distribution,
);

#[test]
fn fused_and_composed_operations_agree() {
    suite::engines_agree(fused, composed);
}

#[test]
fn saving_and_opening_are_inverse() {
    let folder = tempfile::tempdir().unwrap();
    suite::saving_and_opening_are_inverse(fused, folder.path());
}

#[test]
fn a_restored_state_continues_exactly() {
    let half_moments = Options { half_moments: true, ..Options::default() };
    for (engine, options) in
        [(fused as fn() -> _, Options::default()), (fused, half_moments), (composed, Options::default())]
    {
        let folder = tempfile::tempdir().unwrap();
        suite::a_restored_state_continues_exactly(engine, options, folder.path());
    }
}

#[test]
fn frozen_halves_lose_nothing() {
    for engine in [fused, composed] {
        let folder = tempfile::tempdir().unwrap();
        suite::frozen_halves_lose_nothing(engine, folder.path());
    }
}

/// bf16 is for devices that have it; the CPU computes the same, only slowly.
#[test]
fn bf16_stays_near_f32() {
    suite::half_stays_near_full(fused, || CandleEngine::composed(Device::Cpu, DType::BF16));
}
