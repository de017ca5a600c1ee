//! Activation functions of the MLP.

use spo_transformer::Activation;
use tch::Tensor;

use crate::tensor::Outcome;

/// The way an activation is pulled back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slope {
    /// By libtorch's own kernels.
    Fused,
    /// By operations that all have a derivative themselves, for a recording.
    Recorded,
}

pub(crate) fn activate(f: Activation, x: &Tensor) -> Outcome<Tensor> {
    match f {
        Activation::Silu => x.f_silu(),
        Activation::GeluTanh => x.f_gelu("tanh"),
        Activation::Gelu => x.f_gelu("none"),
    }
}

pub(crate) fn activate_backward(
    f: Activation,
    x: &Tensor,
    upstream: &Tensor,
    slope: Slope,
) -> Outcome<Tensor> {
    match (f, slope) {
        (Activation::Silu, Slope::Recorded) => upstream.f_mul(&silu_slope(x)?),
        (Activation::Silu, Slope::Fused) => x.f_silu_backward(upstream),
        // These have a derivative.
        (Activation::GeluTanh, _) => x.f_gelu_backward(upstream, "tanh"),
        (Activation::Gelu, _) => x.f_gelu_backward(upstream, "none"),
    }
}

pub(crate) fn gate(f: Activation, gate: &Tensor, up: &Tensor) -> Outcome<Tensor> {
    activate(f, gate)?.f_mul_(up)
}

pub(crate) fn gate_backward(
    f: Activation,
    [gate, up]: [&Tensor; 2],
    upstream: &Tensor,
    slope: Slope,
) -> Outcome<[Tensor; 2]> {
    let d_gate = activate_backward(f, gate, &upstream.f_mul(up)?, slope)?;
    Ok([d_gate, activate(f, gate)?.f_mul_(upstream)?])
}

/// The derivative of `x sigmoid(x)`; libtorch's own has none itself.
fn silu_slope(x: &Tensor) -> Outcome<Tensor> {
    let s = x.f_sigmoid()?;
    s.f_add(&x.f_mul(&s)?.f_mul(&s.f_neg()?.f_add_scalar(1.0)?)?)
}
