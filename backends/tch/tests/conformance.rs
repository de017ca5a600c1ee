//! The suite that every engine must pass.

use spo_backend_tch::TchEngine;
use spo_transformer::{Options, conformance as suite};
use tch::{Device, Kind};

fn engine() -> TchEngine {
    // Tests run beside one another, and so small models gain nothing from threads.
    tch::set_num_threads(1);
    TchEngine::new(Device::Cpu, Kind::Float)
}

macro_rules! passes {
    ($($check:ident),* $(,)?) => {
        $(#[test]
        fn $check() {
            suite::$check(engine);
        })*
    };
}

passes!(
    gradients_agree_with_finite_differences,
    hessian_vector_products_agree_with_finite_differences,
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
fn saving_and_opening_are_inverse() {
    let folder = tempfile::tempdir().unwrap();
    suite::saving_and_opening_are_inverse(engine, folder.path());
}

#[test]
fn a_restored_state_continues_exactly() {
    let folder = tempfile::tempdir().unwrap();
    suite::a_restored_state_continues_exactly(engine, Options::default(), folder.path());
}

#[test]
fn frozen_halves_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    suite::frozen_halves_lose_nothing(engine, folder.path());
}

/// The type of GPUs; the CPU computes the same, only slowly.
#[test]
fn bf16_stays_near_f32() {
    suite::half_stays_near_full(engine, || TchEngine::new(Device::Cpu, Kind::BFloat16));
}
