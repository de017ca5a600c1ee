//! The suite that every engine must pass.

use spo_backend_tch::TchEngine;
use spo_transformer::conformance as suite;
use tch::{Device, Kind};

fn engine() -> TchEngine {
    // Tests run beside one another, and so small models gain nothing from threads.
    tch::set_num_threads(1);
    TchEngine::new(Device::Cpu, Kind::Float)
}

spo_transformer::engine_tests!(engine);

#[test]
fn hessian_vector_products_agree_with_finite_differences() {
    suite::hessian_vector_products_agree_with_finite_differences(engine);
}

/// The type of GPUs; the CPU computes the same, only slowly.
#[test]
fn bf16_stays_near_f32() {
    suite::half_stays_near_full(engine, || TchEngine::new(Device::Cpu, Kind::BFloat16));
}
