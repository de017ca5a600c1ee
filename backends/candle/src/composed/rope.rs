//! Rotary positions.

use candle_core::{Result, Tensor};
use spo_transformer::Rotation;

pub(super) fn rope(x: &Tensor, rotation: &Rotation<Tensor>, back: bool) -> Result<Tensor> {
    let (n, width) = x.dims2()?;
    let half = rotation.cos.dim(1)?;
    let table = |t: &Tensor| t.to_dtype(x.dtype())?.reshape((n, 1, half));
    let (cos, sin) = (table(&rotation.cos)?, table(&rotation.sin)?);
    let sin = if back { sin.neg()? } else { sin };
    let heads = x.reshape((n, width / (2 * half), 2 * half))?;
    let (x1, x2) = (heads.narrow(2, 0, half)?, heads.narrow(2, half, half)?);
    let y1 = (x1.broadcast_mul(&cos)? - x2.broadcast_mul(&sin)?)?;
    let y2 = (x2.broadcast_mul(&cos)? + x1.broadcast_mul(&sin)?)?;
    Tensor::cat(&[y1, y2], 2)?.reshape((n, width))
}
