//! The optimizer.

use candle_core::{Result, Tensor};
use spo_transformer::AdamWStep;

use crate::memory::copy;

pub(super) fn adamw(
    into: &Tensor,
    gradient: &Tensor,
    [first, second]: [&Tensor; 2],
    step: &AdamWStep,
) -> Result<()> {
    let h = &step.hyper;
    let count = step.count as f64;
    let g = (gradient * h.gradient_scale)?;
    copy(first, &((first * h.beta1)? + (&g * (1.0 - h.beta1))?)?)?;
    copy(second, &((second * h.beta2)? + (g.sqr()? * (1.0 - h.beta2))?)?)?;
    let [c1, c2] = [h.beta1, h.beta2].map(|beta| 1.0 - beta.powf(count));
    let denominator = ((second.sqrt()? / c2.sqrt())? + h.epsilon)?;
    let update = ((first / denominator)? * (h.lr / c1))?;
    copy(into, &((into * (1.0 - h.lr * step.weight_decay))? - update)?)
}
