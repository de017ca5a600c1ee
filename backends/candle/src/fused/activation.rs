//! Activation functions of the MLP.

use candle_core::{Result, Tensor};
use rayon::prelude::*;
use spo_transformer::Activation;

use super::math::{erf, exp, sigmoid, tanh};
use super::slices::Values;
use super::tasks::{GRAIN, shaped_as, vectorised};

/// An activation function and its derivative, each times a number. Where this stands among the factors decides the
/// last bit.
trait Curve {
    /// `by f(x)`.
    fn times(by: f32, x: f32) -> f32;
    /// `by f'(x)`.
    fn slope_times(by: f32, x: f32) -> f32;
}

struct Silu;

impl Curve for Silu {
    #[inline(always)]
    fn times(by: f32, x: f32) -> f32 {
        by * x * sigmoid(x)
    }

    #[inline(always)]
    fn slope_times(by: f32, x: f32) -> f32 {
        let s = sigmoid(x);
        by * s * (1.0 + x * (1.0 - s))
    }
}

struct GeluTanh;

impl GeluTanh {
    const ROOT: f32 = 0.797_884_6; // sqrt(2 / pi)
    const CUBIC: f32 = 0.044_715;

    #[inline(always)]
    fn tanh(x: f32) -> f32 {
        tanh(Self::ROOT * (x + Self::CUBIC * x * x * x))
    }
}

impl Curve for GeluTanh {
    #[inline(always)]
    fn times(by: f32, x: f32) -> f32 {
        by * 0.5 * x * (1.0 + Self::tanh(x))
    }

    #[inline(always)]
    fn slope_times(by: f32, x: f32) -> f32 {
        let t = Self::tanh(x);
        let slope = Self::ROOT * (1.0 + 3.0 * Self::CUBIC * x * x);
        by * 0.5 * (1.0 + t + x * (1.0 - t * t) * slope)
    }
}

struct Gelu;

impl Curve for Gelu {
    #[inline(always)]
    fn times(by: f32, x: f32) -> f32 {
        by * 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
    }

    #[inline(always)]
    fn slope_times(by: f32, x: f32) -> f32 {
        const DENSITY: f32 = 0.398_942_3; // 1 / sqrt(2 pi)
        by * (0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)) + x * DENSITY * exp(-0.5 * x * x))
    }
}

/// Calls an operation that is generic over the curve with that of an activation.
macro_rules! of_curve {
    ($activation:expr, $operation:ident($($argument:expr),*)) => {
        match $activation {
            Activation::Silu => $operation::<Silu>($($argument),*),
            Activation::GeluTanh => $operation::<GeluTanh>($($argument),*),
            Activation::Gelu => $operation::<Gelu>($($argument),*),
        }
    };
}

pub(super) fn activate(f: Activation, x: &Tensor) -> Result<Tensor> {
    of_curve!(f, activate_by(x))
}

pub(super) fn activate_backward(f: Activation, x: &Tensor, upstream: &Tensor) -> Result<Tensor> {
    of_curve!(f, activate_backward_by(x, upstream))
}

pub(super) fn gate(f: Activation, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    of_curve!(f, gate_by(gate, up))
}

pub(super) fn gate_backward(
    f: Activation,
    gate: &Tensor,
    up: &Tensor,
    upstream: &Tensor,
) -> Result<[Tensor; 2]> {
    of_curve!(f, gate_backward_by(gate, up, upstream))
}

fn activate_by<C: Curve>(x: &Tensor) -> Result<Tensor> {
    zip(
        x,
        x,
        #[inline(always)]
        |x, _| C::times(1.0, x),
    )
}

fn activate_backward_by<C: Curve>(x: &Tensor, upstream: &Tensor) -> Result<Tensor> {
    zip(
        x,
        upstream,
        #[inline(always)]
        |x, d| C::slope_times(d, x),
    )
}

fn gate_by<C: Curve>(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    zip(
        gate,
        up,
        #[inline(always)]
        |g, u| C::times(1.0, g) * u,
    )
}

fn gate_backward_by<C: Curve>(gate: &Tensor, up: &Tensor, upstream: &Tensor) -> Result<[Tensor; 2]> {
    let (g, u, d) = (Values::of(gate)?, Values::of(up)?, Values::of(upstream)?);
    let (mut d_gate, mut d_up) = (vec![0.0; g.len()], vec![0.0; g.len()]);
    let outputs = d_gate.par_chunks_mut(GRAIN).zip(d_up.par_chunks_mut(GRAIN));
    let inputs = g.par_chunks(GRAIN).zip(u.par_chunks(GRAIN)).zip(d.par_chunks(GRAIN));
    outputs.zip(inputs).for_each(|((d_gate, d_up), ((g, u), d))| {
        vectorised(
            #[inline(always)]
            || {
                for (i, (d_gate, d_up)) in d_gate.iter_mut().zip(d_up).enumerate() {
                    *d_up = C::times(d[i], g[i]);
                    *d_gate = C::slope_times(d[i] * u[i], g[i]);
                }
            },
        );
    });
    Ok([shaped_as(d_gate, gate)?, shaped_as(d_up, gate)?])
}

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
