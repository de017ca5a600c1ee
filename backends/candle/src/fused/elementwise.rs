//! Operations on each element of vectors.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;
use spo_api::{Combine, Map};

use super::slices::{Values, write};
use super::tasks::{GRAIN, vectorised};

pub(super) fn map(f: Map, into: &Tensor) -> Result<()> {
    match f {
        Map::Add(a) => each(
            into,
            #[inline(always)]
            |x| x + a as f32,
        ),
        Map::Divide(a) => each(
            into,
            #[inline(always)]
            |x| x / a as f32,
        ),
        Map::SquareRoot => each(into, f32::sqrt),
        Map::Sign => each(
            into,
            #[inline(always)]
            |x| match x == 0.0 || x.is_nan() {
                true => x,
                false => 1f32.copysign(x),
            },
        ),
        Map::Absolute => each(into, f32::abs),
        other => bail!("{other:?} is unknown to it"),
    }
}

pub(super) fn combine(op: Combine, into: &Tensor, x: &Tensor) -> Result<()> {
    match op {
        Combine::Multiply => both(
            into,
            x,
            #[inline(always)]
            |y, x| y * x,
        ),
        Combine::Divide => both(
            into,
            x,
            #[inline(always)]
            |y, x| y / x,
        ),
        Combine::Maximum => both(
            into,
            x,
            #[inline(always)]
            |y, x| if y > x || y.is_nan() { y } else { x },
        ),
        other => bail!("{other:?} is unknown to it"),
    }
}

fn each(into: &Tensor, f: impl Fn(f32) -> f32 + Sync) -> Result<()> {
    write(into, |y: &mut [f32]| {
        y.par_chunks_mut(GRAIN).for_each(|y| {
            vectorised(
                #[inline(always)]
                || y.iter_mut().for_each(|y| *y = f(*y)),
            );
        });
        Ok(())
    })
}

fn both(into: &Tensor, x: &Tensor, f: impl Fn(f32, f32) -> f32 + Sync) -> Result<()> {
    let x = Values::of(x)?;
    write(into, |y: &mut [f32]| {
        y.par_chunks_mut(GRAIN).zip(x.par_chunks(GRAIN)).for_each(|(y, x)| {
            vectorised(
                #[inline(always)]
                || y.iter_mut().zip(x).for_each(|(y, &x)| *y = f(*y, x)),
            );
        });
        Ok(())
    })
}
