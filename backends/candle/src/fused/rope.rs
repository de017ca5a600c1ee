//! Rotary positions.

use candle_core::{Result, Tensor};
use rayon::prelude::*;
use spo_transformer::Rotation;

use super::slices::Values;
use super::tasks::{rows_per_task, shaped_as, vectorised};

pub(super) fn rope(x: &Tensor, Rotation { cos, sin }: &Rotation<Tensor>, back: bool) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let half = cos.dim(1)?;
    let direction = if back { -1.0 } else { 1.0 };
    let (values, cos, sin) = (Values::of(x)?, Values::of(cos)?, Values::of(sin)?);
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
                    for (out, x) in out.chunks_exact_mut(2 * half).zip(x.chunks_exact(2 * half)) {
                        let ((y1, y2), (x1, x2)) = (out.split_at_mut(half), x.split_at(half));
                        for i in 0..half {
                            let s = direction * sin[i];
                            y1[i] = x1[i] * cos[i] - x2[i] * s;
                            y2[i] = x2[i] * cos[i] + x1[i] * s;
                        }
                    }
                }
            },
        );
    });
    shaped_as(out, x)
}
