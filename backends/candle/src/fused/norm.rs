//! RMS norm and layer norm over rows, which are consecutive stretches of the gain's length.

use candle_core::{Result, Tensor};
use rayon::prelude::*;
use spo_transformer::{Norm, NormKind};

use super::math::{dot, sum};
use super::slices::{Values, write};
use super::tasks::{rows_per_task, shaped_as, vectorised};

/// What a row is moved by, and then multiplied by.
#[derive(Clone, Copy)]
struct Standard {
    mean: f32,
    /// `1 / sqrt(mean square + epsilon)`, of the row without its mean.
    scale: f32,
}

impl Standard {
    #[inline(always)]
    fn of(row: &[f32], kind: NormKind, epsilon: f32) -> Self {
        let n = row.len() as f32;
        let mean = if kind.centred() { sum(row, |x| x) / n } else { 0.0 };
        let square = sum(row, |x| (x - mean) * (x - mean)) / n;
        Standard { mean, scale: 1.0 / (square + epsilon).sqrt() }
    }
}

/// What a normalised row is multiplied by.
fn gain(norm: Norm<&Tensor>) -> Result<Vec<f32>> {
    Ok(Values::of(norm.weight)?.iter().map(|w| w + norm.offset as f32).collect())
}

pub(super) fn norm(x: &Tensor, norm: Norm<&Tensor>) -> Result<Tensor> {
    let Norm { kind, epsilon, .. } = norm;
    let (values, weight) = (Values::of(x)?, gain(norm)?);
    let bias = norm.bias.map(Values::of).transpose()?;
    let width = weight.len();
    let task = rows_per_task(width) * width;
    let mut out = vec![0.0; values.len()];
    out.par_chunks_mut(task).zip(values.par_chunks(task)).for_each(|(out, x)| {
        vectorised(
            #[inline(always)]
            || {
                for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                    let Standard { mean, scale } = Standard::of(x, kind, epsilon as f32);
                    for ((out, &x), &w) in out.iter_mut().zip(x).zip(weight.iter()) {
                        *out = (x - mean) * scale * w;
                    }
                    if let Some(bias) = &bias {
                        for (out, &b) in out.iter_mut().zip(bias.iter()) {
                            *out += b;
                        }
                    }
                }
            },
        );
    });
    shaped_as(out, x)
}

/// Gradient with respect to `x`; those of weight and bias are added to `gradients`.
pub(super) fn norm_backward(
    x: &Tensor,
    norm: Norm<&Tensor>,
    upstream: &Tensor,
    gradients: [Option<&Tensor>; 2],
) -> Result<Tensor> {
    let Norm { kind, epsilon, .. } = norm;
    let (values, weight, d) = (Values::of(x)?, gain(norm)?, Values::of(upstream)?);
    let width = weight.len();
    let task = rows_per_task(width) * width;
    let mut dx = vec![0.0; values.len()];
    // Each task sums the gradients of weight and bias over its own rows; the sums are added in order.
    let sums: Vec<[Vec<f32>; 2]> = dx
        .par_chunks_mut(task)
        .zip(values.par_chunks(task))
        .zip(d.par_chunks(task))
        .map(|((dx, x), d)| {
            let mut sums = gradients.map(|wanted| vec![0.0; if wanted.is_some() { width } else { 0 }]);
            vectorised(
                #[inline(always)]
                || {
                    let mut normed = vec![0.0; width];
                    let mut pulled = vec![0.0; width];
                    let rows =
                        dx.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(d.chunks_exact(width));
                    for ((dx, x), d) in rows {
                        let Standard { mean, scale } = Standard::of(x, kind, epsilon as f32);
                        for i in 0..width {
                            normed[i] = (x[i] - mean) * scale;
                            pulled[i] = d[i] * weight[i];
                        }
                        let n = width as f32;
                        let along = dot(&normed, &pulled) / n;
                        let shift = if kind.centred() { sum(&pulled, |p| p) / n } else { 0.0 };
                        for i in 0..width {
                            dx[i] = scale * (pulled[i] - shift - normed[i] * along);
                        }
                        let [d_weight, d_bias] = &mut sums;
                        for (sum, (&d, &normed)) in d_weight.iter_mut().zip(d.iter().zip(&normed)) {
                            *sum += d * normed;
                        }
                        for (sum, &d) in d_bias.iter_mut().zip(d) {
                            *sum += d;
                        }
                    }
                },
            );
            sums
        })
        .collect();
    for (i, gradient) in gradients.into_iter().enumerate() {
        let Some(gradient) = gradient else { continue };
        write(gradient, |gradient: &mut [f32]| {
            for part in &sums {
                for (g, s) in gradient.iter_mut().zip(&part[i]) {
                    *g += s;
                }
            }
            Ok(())
        })?;
    }
    shaped_as(dx, x)
}
