//! Norms, in f32 whatever the type of their input.

use candle_core::{D, DType, Result, Tensor};
use spo_transformer::{Norm, NormKind};

use super::vector::sum_rows_add;
use super::vjp::vjp;

/// `x` in f32, in rows of `width`.
fn in_rows(x: &Tensor, width: usize) -> Result<Tensor> {
    x.to_dtype(DType::F32)?.reshape((x.elem_count() / width, width))
}

/// The part of a norm that has no parameters.
fn normalised(x: &Tensor, kind: NormKind, epsilon: f64) -> Result<Tensor> {
    let x = if kind.centred() { x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)? } else { x.clone() };
    x.broadcast_div(&(x.sqr()?.mean_keepdim(D::Minus1)? + epsilon)?.sqrt()?)
}

/// What a normalised row is multiplied by.
fn gain(norm: Norm<&Tensor>) -> Result<Tensor> {
    norm.weight.to_dtype(DType::F32)? + norm.offset
}

pub(super) fn norm(x: &Tensor, norm: Norm<&Tensor>) -> Result<Tensor> {
    let Norm { kind, epsilon, weight, .. } = norm;
    let normed = normalised(&in_rows(x, weight.dim(0)?)?, kind, epsilon)?;
    let mut y = normed.broadcast_mul(&gain(norm)?)?;
    if let Some(bias) = norm.bias {
        y = y.broadcast_add(&bias.to_dtype(DType::F32)?)?;
    }
    y.to_dtype(x.dtype())?.reshape(x.shape())
}

pub(super) fn norm_backward(
    x: &Tensor,
    norm: Norm<&Tensor>,
    upstream: &Tensor,
    [d_weight, d_bias]: [Option<&Tensor>; 2],
) -> Result<Tensor> {
    let Norm { kind, epsilon, weight, .. } = norm;
    let width = weight.dim(0)?;
    let (x32, d) = (in_rows(x, width)?, in_rows(upstream, width)?);
    if let Some(d_weight) = d_weight {
        sum_rows_add(d_weight, &(&d * normalised(&x32, kind, epsilon)?)?)?;
    }
    if let Some(d_bias) = d_bias {
        sum_rows_add(d_bias, &d)?;
    }
    let pulled = d.broadcast_mul(&gain(norm)?)?;
    let [dx] = vjp([&x32], &pulled, |[x]| normalised(x, kind, epsilon))?;
    dx.to_dtype(x.dtype())?.reshape(x.shape())
}
