//! Activations of the MLP.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::math::{sigmoid, tanh};
use super::{GRAIN, shaped_as, vectorised};
use crate::memory::Values;

/// A tensor of `f` of each pair of elements.
fn zip(a: &Tensor, b: &Tensor, f: impl Fn(f32, f32) -> f32 + Sync) -> Result<Tensor> {
    let (x, y) = (Values::of(a)?, Values::of(b)?);
    let mut out = vec![0.0; x.len()];
    out.par_chunks_mut(GRAIN).zip(x.par_chunks(GRAIN)).zip(y.par_chunks(GRAIN)).for_each(|((out, x), y)| {
        vectorised(
            #[inline(always)]
            || {
                for ((out, &x), &y) in out.iter_mut().zip(x).zip(y) {
                    *out = f(x, y);
                }
            },
        );
    });
    shaped_as(out, a)
}

pub(crate) fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    zip(
        gate,
        up,
        #[inline(always)]
        |g, u| g * sigmoid(g) * u,
    )
}

pub(crate) fn swiglu_backward(gate: &Tensor, up: &Tensor, upstream: &Tensor) -> Result<[Tensor; 2]> {
    let (g, u, d) = (Values::of(gate)?, Values::of(up)?, Values::of(upstream)?);
    let (mut d_gate, mut d_up) = (vec![0.0; g.len()], vec![0.0; g.len()]);
    let outputs = d_gate.par_chunks_mut(GRAIN).zip(d_up.par_chunks_mut(GRAIN));
    let inputs = g.par_chunks(GRAIN).zip(u.par_chunks(GRAIN)).zip(d.par_chunks(GRAIN));
    outputs.zip(inputs).for_each(|((d_gate, d_up), ((g, u), d))| {
        vectorised(
            #[inline(always)]
            || {
                for (i, (d_gate, d_up)) in d_gate.iter_mut().zip(d_up).enumerate() {
                    let s = sigmoid(g[i]);
                    *d_up = d[i] * g[i] * s;
                    *d_gate = d[i] * u[i] * s * (1.0 + g[i] * (1.0 - s));
                }
            },
        );
    });
    Ok([shaped_as(d_gate, gate)?, shaped_as(d_up, gate)?])
}

const ROOT: f32 = 0.797_884_6; // sqrt(2 / pi)
const CUBIC: f32 = 0.044_715;

pub(crate) fn gelu(x: &Tensor) -> Result<Tensor> {
    zip(
        x,
        x,
        #[inline(always)]
        |x, _| 0.5 * x * (1.0 + tanh(ROOT * (x + CUBIC * x * x * x))),
    )
}

pub(crate) fn gelu_backward(x: &Tensor, upstream: &Tensor) -> Result<Tensor> {
    zip(
        x,
        upstream,
        #[inline(always)]
        |x, d| {
            let t = tanh(ROOT * (x + CUBIC * x * x * x));
            let slope = ROOT * (1.0 + 3.0 * CUBIC * x * x);
            d * 0.5 * (1.0 + t + x * (1.0 - t * t) * slope)
        },
    )
}
