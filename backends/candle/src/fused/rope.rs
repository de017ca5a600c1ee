//! Rotary positions.

use candle_core::{Result, Tensor};
use rayon::prelude::*;
use spo_transformer::{Pairs, Rotation};

use super::slices::Values;
use super::tasks::{rows_per_task, shaped_as, vectorised};

pub(super) fn rope(x: &Tensor, rotation: &Rotation<Tensor>, back: bool) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let (half, dim) = (rotation.cos.dim(1)?, rotation.dim);
    let direction = if back { -1.0 } else { 1.0 };
    let (values, cos, sin) = (Values::of(x)?, Values::of(&rotation.cos)?, Values::of(&rotation.sin)?);
    let mut out = vec![0.0; rows * width];
    let n = rows_per_task(width);
    let inputs = values.par_chunks(n * width).zip(cos.par_chunks(n * half)).zip(sin.par_chunks(n * half));
    out.par_chunks_mut(n * width).zip(inputs).for_each(|(out, ((x, cos), sin))| {
        vectorised(
            #[inline(always)]
            || {
                let angles = cos.chunks_exact(half).zip(sin.chunks_exact(half));
                let rows = out.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(angles);
                for ((out, x), (cos, sin)) in rows {
                    for (out, x) in out.chunks_exact_mut(dim).zip(x.chunks_exact(dim)) {
                        let (out, rest) = out.split_at_mut(2 * half);
                        let (x, kept) = x.split_at(2 * half);
                        rest.copy_from_slice(kept);
                        match rotation.pairs {
                            Pairs::Halves => halves(out, x, [cos, sin], direction),
                            Pairs::Neighbours => neighbours(out, x, [cos, sin], direction),
                        }
                    }
                }
            },
        );
    });
    shaped_as(out, x)
}

#[inline(always)]
fn halves(out: &mut [f32], x: &[f32], [cos, sin]: [&[f32]; 2], direction: f32) {
    let half = cos.len();
    let ((y1, y2), (x1, x2)) = (out.split_at_mut(half), x.split_at(half));
    for i in 0..half {
        let s = direction * sin[i];
        y1[i] = x1[i] * cos[i] - x2[i] * s;
        y2[i] = x2[i] * cos[i] + x1[i] * s;
    }
}

#[inline(always)]
fn neighbours(out: &mut [f32], x: &[f32], [cos, sin]: [&[f32]; 2], direction: f32) {
    for ((y, x), (cos, sin)) in
        out.as_chunks_mut::<2>().0.iter_mut().zip(x.as_chunks::<2>().0).zip(cos.iter().zip(sin))
    {
        let s = direction * sin;
        *y = [x[0] * cos - x[1] * s, x[1] * cos + x[0] * s];
    }
}
