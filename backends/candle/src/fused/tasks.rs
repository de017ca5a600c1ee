//! How work is cut into tasks, and a task compiled for the processor at hand.

use candle_core::{Device, Result, Tensor};

/// Runs a loop compiled for the processor at hand. The closure and what it calls must be inlined.
#[inline(always)]
pub(super) fn vectorised<R>(run: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(run)
}

/// A tensor shaped like `like`.
pub(super) fn shaped_as(values: Vec<f32>, like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(values, like.shape(), &Device::Cpu)
}

/// Elements that a task should have at least, lest threads cost more than they bring.
pub(super) const GRAIN: usize = 1 << 14;

/// Number of rows of `width` elements that make a task.
pub(super) fn rows_per_task(width: usize) -> usize {
    (GRAIN / width).max(1)
}
