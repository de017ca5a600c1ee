//! Operations on each element of vectors.

use candle_core::{Result, Tensor, bail};
use spo_api::{Combine, Map};

use super::vector::stretches;
use crate::memory::copy;

pub(super) fn map(f: Map, into: &Tensor) -> Result<()> {
    for into in stretches(into)? {
        let mapped = match f {
            Map::Add(a) => (&into + a)?,
            Map::Divide(a) => into.broadcast_div(&Tensor::new(a as f32, into.device())?)?,
            Map::SquareRoot => into.sqrt()?,
            // candle's sign of NaN is 0.
            Map::Sign => into.eq(&into)?.where_cond(&into.sign()?, &into)?,
            Map::Absolute => into.abs()?,
            other => bail!("{other:?} is unknown to it"),
        };
        copy(&into, &mapped)?;
    }
    Ok(())
}

pub(super) fn combine(op: Combine, into: &Tensor, x: &Tensor) -> Result<()> {
    for (y, x) in stretches(into)?.iter().zip(stretches(x)?) {
        let combined = match op {
            Combine::Multiply => (y * x)?,
            Combine::Divide => (y / x)?,
            // candle's maximum of NaN and a number may be the number.
            Combine::Maximum => y.gt(&x)?.where_cond(y, &y.eq(y)?.where_cond(&x, y)?)?,
            other => bail!("{other:?} is unknown to it"),
        };
        copy(y, &combined)?;
    }
    Ok(())
}
