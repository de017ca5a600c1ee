//! Rotary positions.

use candle_core::{Result, Tensor};
use spo_transformer::{Pairs, Rotation};

pub(super) fn rope(x: &Tensor, rotation: &Rotation<Tensor>, back: bool) -> Result<Tensor> {
    let (n, width) = x.dims2()?;
    let (half, dim) = (rotation.cos.dim(1)?, rotation.dim);
    let heads = width / dim;
    // The axis of a pair's two elements, in [rows, heads, ...].
    let (axis, shape, table) = match rotation.pairs {
        Pairs::Halves => (2, (n, heads, 2, half), (n, 1, 1, half)),
        Pairs::Neighbours => (3, (n, heads, half, 2), (n, 1, half, 1)),
    };
    let table = |t: &Tensor| t.to_dtype(x.dtype())?.reshape(table);
    let (cos, sin) = (table(&rotation.cos)?, table(&rotation.sin)?);
    let sin = if back { sin.neg()? } else { sin };
    let x = x.reshape((n, heads, dim))?;
    let rotated = x.narrow(2, 0, 2 * half)?.contiguous()?.reshape(shape)?;
    let (x1, x2) = (rotated.narrow(axis, 0, 1)?, rotated.narrow(axis, 1, 1)?);
    let y1 = (x1.broadcast_mul(&cos)? - x2.broadcast_mul(&sin)?)?;
    let y2 = (x2.broadcast_mul(&cos)? + x1.broadcast_mul(&sin)?)?;
    let turned = Tensor::cat(&[y1, y2], axis)?.reshape((n, heads, 2 * half))?;
    let rest = x.narrow(2, 2 * half, dim - 2 * half)?;
    let all = if 2 * half == dim { turned } else { Tensor::cat(&[turned, rest], 2)? };
    all.reshape((n, width))
}
