//! f32 kernels for the CPU.
//!
//! Loops are written so that the compiler vectorises them, and run through [`vectorised`], which picks
//! the widest instructions of the processor when the program runs. Sums that cross rows are taken over
//! fixed stretches in a fixed order: results do not depend on how threads share the work.

pub(crate) mod activation;
pub(crate) mod adamw;
pub(crate) mod attention;
pub(crate) mod gemm;
pub(crate) mod head;
mod math;
pub(crate) mod norm;
pub(crate) mod rope;
pub(crate) mod vector;

use candle_core::{Device, Result, Tensor};

/// Runs a loop compiled for the processor at hand. The closure and what it calls must be inlined.
#[inline(always)]
pub(crate) fn vectorised<R>(run: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(run)
}

/// A tensor shaped like `like`.
pub(crate) fn shaped_as(values: Vec<f32>, like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(values, like.shape(), &Device::Cpu)
}

/// Elements that a task should have at least, lest threads cost more than they bring.
pub(crate) const GRAIN: usize = 1 << 14;

/// Number of rows of `width` elements that make a task.
fn rows_per_task(width: usize) -> usize {
    (GRAIN / width).max(1)
}
