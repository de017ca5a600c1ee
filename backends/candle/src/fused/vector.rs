//! Linear algebra of vectors, sums over rows, and the optimizer.

use candle_core::{Result, Tensor};
use rayon::prelude::*;
use spo_transformer::AdamWStep;

use super::{GRAIN, vectorised};
use crate::memory::{Values, write};

pub(crate) fn scale(into: &Tensor, a: f64) -> Result<()> {
    let a = a as f32;
    write(into, |y| {
        y.par_chunks_mut(GRAIN).for_each(|y| match a == 0.0 {
            true => y.fill(0.0),
            false => y.iter_mut().for_each(|y| *y *= a),
        });
        Ok(())
    })
}

pub(crate) fn copy(into: &Tensor, x: &Tensor) -> Result<()> {
    let x = Values::of(x)?;
    write(into, |y| {
        y.copy_from_slice(&x);
        Ok(())
    })
}

pub(crate) fn axpy(into: &Tensor, a: f64, x: &Tensor) -> Result<()> {
    let a = a as f32;
    let x = Values::of(x)?;
    write(into, |y| {
        y.par_chunks_mut(GRAIN).zip(x.par_chunks(GRAIN)).for_each(|(y, x)| {
            for (y, x) in y.iter_mut().zip(x) {
                *y += a * x;
            }
        });
        Ok(())
    })
}

pub(crate) fn dot(x: &Tensor, y: &Tensor) -> Result<f64> {
    let (x, y) = (Values::of(x)?, Values::of(y)?);
    let partial = |(x, y): (&[f32], &[f32])| {
        vectorised(
            #[inline(always)]
            || {
                let mut lanes = [0.0f64; 16];
                let (x_chunks, y_chunks) = (x.chunks_exact(16), y.chunks_exact(16));
                let rest = x_chunks.remainder().iter().zip(y_chunks.remainder());
                let tail: f64 = rest.map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
                for (x, y) in x_chunks.zip(y_chunks) {
                    for i in 0..16 {
                        lanes[i] += f64::from(x[i]) * f64::from(y[i]);
                    }
                }
                lanes.iter().sum::<f64>() + tail
            },
        )
    };
    // Collected before they are added: the order of a parallel sum would change from run to run.
    let partials: Vec<f64> = x.par_chunks(GRAIN).zip(y.par_chunks(GRAIN)).map(partial).collect();
    Ok(partials.iter().sum())
}

/// `into[j] <- into[j] + sum_i x[i][j]`.
pub(crate) fn sum_rows_add(into: &Tensor, x: &Tensor) -> Result<()> {
    let x = Values::of(x)?;
    write(into, |sums| {
        for row in x.chunks_exact(sums.len()) {
            for (s, x) in sums.iter_mut().zip(row) {
                *s += x;
            }
        }
        Ok(())
    })
}

/// `into[i][j] <- into[i][j] + bias[j]`.
pub(crate) fn add_bias(into: &mut [f32], bias: &Tensor) -> Result<()> {
    let bias = Values::of(bias)?;
    into.par_chunks_mut(bias.len()).with_min_len(16).for_each(|row| {
        for (y, b) in row.iter_mut().zip(bias.iter()) {
            *y += b;
        }
    });
    Ok(())
}

/// `into[ids[i]] <- into[ids[i]] + x[i]`.
pub(crate) fn scatter_add(into: &Tensor, ids: &[u32], x: &Tensor) -> Result<()> {
    let width = into.dim(1)?;
    let x = Values::of(x)?;
    write(into, |table| {
        for (&id, x) in ids.iter().zip(x.chunks_exact(width)) {
            let start = id as usize * width;
            for (t, x) in table[start..start + width].iter_mut().zip(x) {
                *t += x;
            }
        }
        Ok(())
    })
}

/// AdamW as torch has it: decay before the step, epsilon outside the root of the corrected moment.
pub(crate) fn adamw(
    into: &Tensor,
    gradient: &Tensor,
    [first, second]: [&Tensor; 2],
    step: &AdamWStep,
) -> Result<()> {
    let h = &step.hyper;
    let count = step.count as f64;
    let correction = [h.beta1, h.beta2].map(|beta| 1.0 - beta.powf(count));
    let decay = (1.0 - h.lr * step.weight_decay) as f32;
    let rate = (h.lr / correction[0]) as f32;
    let root = (1.0 / correction[1].sqrt()) as f32;
    let (beta1, beta2, epsilon) = (h.beta1 as f32, h.beta2 as f32, h.epsilon as f32);
    let (rest1, rest2) = ((1.0 - h.beta1) as f32, (1.0 - h.beta2) as f32);
    let scale = h.gradient_scale as f32;
    let g = Values::of(gradient)?;
    write(into, |p| {
        write(first, |m| {
            write(second, |v| {
                let moments = m.par_chunks_mut(GRAIN).zip(v.par_chunks_mut(GRAIN));
                let all = p.par_chunks_mut(GRAIN).zip(g.par_chunks(GRAIN)).zip(moments);
                all.for_each(|((p, g), (m, v))| {
                    vectorised(
                        #[inline(always)]
                        || {
                            for (((p, &g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
                                let g = g * scale;
                                *m = beta1 * *m + rest1 * g;
                                *v = beta2 * *v + rest2 * g * g;
                                *p = *p * decay - rate * *m / (v.sqrt() * root + epsilon);
                            }
                        },
                    );
                });
                Ok(())
            })
        })
    })
}
