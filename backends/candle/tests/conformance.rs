//! The suite that every engine must pass, on the fused and on the composed operations.

use candle_core::{DType, Device};
use spo_backend_candle::{ComposedEngine, FusedEngine};
use spo_transformer::{Options, conformance as suite};

fn fused() -> FusedEngine {
    FusedEngine::default()
}

fn composed() -> ComposedEngine {
    ComposedEngine::new(Device::Cpu, DType::F32)
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
    let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let half_moments = Options { half_moments: true, ..Options::default() };
    suite::a_restored_state_continues_exactly(fused, Options::default(), folders[0].path());
    suite::a_restored_state_continues_exactly(fused, half_moments, folders[1].path());
    suite::a_restored_state_continues_exactly(composed, Options::default(), folders[2].path());
}

#[test]
fn frozen_halves_lose_nothing() {
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    suite::frozen_halves_lose_nothing(fused, folders[0].path());
    suite::frozen_halves_lose_nothing(composed, folders[1].path());
}

/// bf16 is for devices that have it; the CPU computes the same, only slowly.
#[test]
fn bf16_stays_near_f32() {
    suite::half_stays_near_full(fused, || ComposedEngine::new(Device::Cpu, DType::BF16));
}
