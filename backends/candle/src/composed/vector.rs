//! Linear algebra of vectors, sums over rows, and rows added to rows.

use candle_core::{DType, Result, Tensor};

use crate::memory::{copy, index};

/// The values of a tensor, a stretch at a time: what is computed of them then needs little memory.
pub(super) fn stretches(x: &Tensor) -> Result<Vec<Tensor>> {
    const LONGEST: usize = 1 << 24;
    if !x.is_contiguous() {
        candle_core::bail!("a vector operation was given a tensor that is not contiguous");
    }
    let (x, n) = (x.flatten_all()?, x.elem_count());
    (0..n).step_by(LONGEST).map(|start| x.narrow(0, start, LONGEST.min(n - start))).collect()
}

pub(super) fn scale(into: &Tensor, a: f64) -> Result<()> {
    for into in stretches(into)? {
        copy(&into, &if a == 0.0 { into.zeros_like()? } else { into.affine(a, 0.0)? })?;
    }
    Ok(())
}

pub(super) fn axpy(into: &Tensor, a: f64, x: &Tensor) -> Result<()> {
    for (into, x) in stretches(into)?.iter().zip(stretches(&x.contiguous()?)?) {
        copy(into, &(into + (x.to_dtype(into.dtype())? * a)?)?)?;
    }
    Ok(())
}

/// Sums of short runs of products in f32, added in f64 by the host: not every device has f64.
pub(super) fn dot(x: &Tensor, y: &Tensor) -> Result<f64> {
    const RUN: usize = 256;
    let mut total = 0.0;
    for (x, y) in stretches(x)?.iter().zip(stretches(y)?) {
        let products = (x.to_dtype(DType::F32)? * y.to_dtype(DType::F32)?)?;
        let n = products.elem_count();
        let whole = n / RUN * RUN;
        let sums = products.narrow(0, 0, whole)?.reshape((n / RUN, RUN))?.sum(1)?.to_vec1::<f32>()?;
        let rest = products.narrow(0, whole, n - whole)?.to_vec1::<f32>()?;
        total += sums.into_iter().chain(rest).map(f64::from).sum::<f64>();
    }
    Ok(total)
}

pub(super) fn scatter_add(into: &Tensor, ids: &[u32], x: &Tensor) -> Result<()> {
    let x = x.to_dtype(into.dtype())?;
    copy(into, &into.index_add(&index(ids, into)?, &x, 0)?)
}

pub(super) fn sum_rows_add(into: &Tensor, x: &Tensor) -> Result<()> {
    axpy(into, 1.0, &x.to_dtype(DType::F32)?.sum(0)?)
}

pub(super) fn sum_products_add(into: &Tensor, x: &Tensor, y: &Tensor) -> Result<()> {
    sum_rows_add(into, &(x.to_dtype(DType::F32)? * y.to_dtype(DType::F32)?)?)
}

pub(super) fn scale_columns(into: &Tensor, factors: &Tensor, bias: Option<&Tensor>) -> Result<()> {
    let mut scaled = into.broadcast_mul(&factors.to_dtype(into.dtype())?)?;
    if let Some(bias) = bias {
        scaled = scaled.broadcast_add(&bias.to_dtype(into.dtype())?)?;
    }
    copy(into, &scaled)
}

/// `x[i][j] factors[i]`.
pub(super) fn scale_rows(x: &Tensor, factors: &Tensor) -> Result<Tensor> {
    x.broadcast_mul(&factors.to_dtype(x.dtype())?)
}

/// `sum_j x[i][j] y[i][j]`, `[rows, 1]`.
pub(super) fn row_dots(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    (x.to_dtype(DType::F32)? * y.to_dtype(DType::F32)?)?.sum_keepdim(1)
}
