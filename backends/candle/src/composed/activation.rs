//! Activation functions of the MLP, in f32.

use candle_core::{DType, Result, Tensor};
use spo_transformer::Activation;

use super::vjp::vjp;

fn sigmoid(x: &Tensor) -> Result<Tensor> {
    (x.neg()?.exp()? + 1.0)?.recip()
}

/// An activation of values in f32.
fn activated(f: Activation, x: &Tensor) -> Result<Tensor> {
    match f {
        Activation::Silu => x * sigmoid(x)?,
        // candle's own has its constants to six digits in the backward pass.
        Activation::GeluTanh => {
            let cubic = ((x.sqr()? * x)? * 0.044715)?;
            let tanh = ((x + cubic)? * (2.0 / std::f64::consts::PI).sqrt())?.tanh()?;
            (x * 0.5)? * (tanh + 1.0)?
        }
        Activation::Gelu => (x * 0.5)? * ((x * std::f64::consts::FRAC_1_SQRT_2)?.erf()? + 1.0)?,
    }
}

pub(super) fn activate(f: Activation, x: &Tensor) -> Result<Tensor> {
    activated(f, &x.to_dtype(DType::F32)?)?.to_dtype(x.dtype())
}

pub(super) fn activate_backward(f: Activation, x: &Tensor, upstream: &Tensor) -> Result<Tensor> {
    let [dx] = vjp([x], upstream, |[x]| activate(f, x))?;
    Ok(dx)
}

pub(super) fn gate(f: Activation, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    (activated(f, &gate.to_dtype(DType::F32)?)? * up.to_dtype(DType::F32)?)?.to_dtype(gate.dtype())
}

pub(super) fn gate_backward(f: Activation, of: [&Tensor; 2], upstream: &Tensor) -> Result<[Tensor; 2]> {
    vjp(of, upstream, |[x, up]| gate(f, x, up))
}
