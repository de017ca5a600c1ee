//! Matrix products, in the type that the engine computes in, as autocast has it.

use candle_core::{DType, Result, Tensor};
use spo_transformer::Mat;

use super::vector::axpy;

pub(super) fn linear(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, dtype: DType) -> Result<Tensor> {
    let y = matmul(Mat::new(x), Mat::t(w), dtype)?;
    match bias {
        Some(bias) => y.broadcast_add(&bias.to_dtype(dtype)?),
        None => Ok(y),
    }
}

pub(super) fn matmul(a: Mat<'_, Tensor>, b: Mat<'_, Tensor>, dtype: DType) -> Result<Tensor> {
    plain(a)?.to_dtype(dtype)?.matmul(&plain(b)?.to_dtype(dtype)?)
}

pub(super) fn matmul_add(
    into: &Tensor,
    scale: f64,
    a: Mat<'_, Tensor>,
    b: Mat<'_, Tensor>,
    dtype: DType,
) -> Result<()> {
    axpy(into, scale, &matmul(a, b, dtype)?)
}

/// A factor as candle wants it.
fn plain(of: Mat<'_, Tensor>) -> Result<Tensor> {
    if of.transposed { of.tensor.t() } else { Ok(of.tensor.clone()) }
}
