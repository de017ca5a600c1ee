//! Norms, in f32 whatever the type of their input.

use spo_transformer::{Norm, NormKind};
use tch::{Kind, Tensor};

use crate::shim;
use crate::tensor::Outcome;

/// `into <- into + sum of the rows of x`.
pub(crate) fn sum_rows_add(into: &Tensor, x: &Tensor) -> Outcome<()> {
    shim::axpy(into, 1.0, &x.f_sum_dim_intlist(0, false, Kind::Float)?)
}

/// The rows of `width` values of `x` in f32: normalised, and the factor that made them so.
fn normalised(x: &Tensor, width: i64, kind: NormKind, epsilon: f64) -> Outcome<[Tensor; 2]> {
    let mut x = x.f_to_kind(Kind::Float)?.f_reshape([-1, width])?;
    if kind.centred() {
        x = x.f_sub(&x.f_mean_dim(-1, true, Kind::Float)?)?;
    }
    let factor = x.f_square()?.f_mean_dim(-1, true, Kind::Float)?.f_add_scalar_(epsilon)?.f_rsqrt()?;
    Ok([x.f_mul(&factor)?, factor])
}

/// What a normalised row is multiplied by.
fn gain(norm: Norm<&Tensor>) -> Outcome<Tensor> {
    let weight = norm.weight.f_to_kind(Kind::Float)?;
    if norm.offset == 0.0 { Ok(weight) } else { weight.f_add_scalar(norm.offset) }
}

pub(crate) fn norm(x: &Tensor, norm: Norm<&Tensor>) -> Outcome<Tensor> {
    let Norm { kind, epsilon, weight, .. } = norm;
    let [mut y, _] = normalised(x, weight.size1()?, kind, epsilon)?;
    y = y.f_mul_(&gain(norm)?)?;
    if let Some(bias) = norm.bias {
        y = y.f_add_(&bias.f_to_kind(Kind::Float)?)?;
    }
    y.f_view_as(x)?.f_to_kind(x.f_kind()?)
}

/// With `n` the normalised row, `f` its factor and `g = upstream * weight`, the gradient is
/// `f (g - mean(g) - n mean(g n))`, without the first mean if the row was not centred.
pub(crate) fn norm_backward(
    x: &Tensor,
    norm: Norm<&Tensor>,
    upstream: &Tensor,
    [d_weight, d_bias]: [Option<&Tensor>; 2],
) -> Outcome<Tensor> {
    let Norm { kind, epsilon, weight, .. } = norm;
    let width = weight.size1()?;
    let [normed, factor] = normalised(x, width, kind, epsilon)?;
    let upstream = upstream.f_to_kind(Kind::Float)?.f_reshape([-1, width])?;
    if let Some(d_weight) = d_weight {
        sum_rows_add(d_weight, &upstream.f_mul(&normed)?)?;
    }
    if let Some(d_bias) = d_bias {
        sum_rows_add(d_bias, &upstream)?;
    }
    let mut g = upstream.f_mul(&gain(norm)?)?;
    let along = g.f_mul(&normed)?.f_mean_dim(-1, true, Kind::Float)?;
    if kind.centred() {
        g = g.f_sub(&g.f_mean_dim(-1, true, Kind::Float)?)?;
    }
    // Not in place: a recording still needs what the mean along the row was taken of.
    g.f_sub(&normed.f_mul(&along)?)?.f_mul_(&factor)?.f_view_as(x)?.f_to_kind(x.f_kind()?)
}
