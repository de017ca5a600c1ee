//! RMS norm and layer norm over rows, which are consecutive stretches of the gain's length.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::math::{dot, sum};
use super::{rows_per_task, shaped_as, vectorised};
use crate::memory::{Values, write};

/// What a norm subtracts and multiplies by.
#[derive(Clone, Copy)]
struct Moments {
    mean: f32,
    /// `1 / sqrt(variance + epsilon)`.
    scale: f32,
}

impl Moments {
    #[inline(always)]
    fn of(row: &[f32], centred: bool, epsilon: f32) -> Self {
        let n = row.len() as f32;
        let mean = if centred { sum(row, |x| x) / n } else { 0.0 };
        let variance = sum(row, |x| (x - mean) * (x - mean)) / n;
        Moments { mean, scale: 1.0 / (variance + epsilon).sqrt() }
    }
}

/// Layer norm if there is a bias, else RMS norm.
pub(crate) fn norm(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, epsilon: f64) -> Result<Tensor> {
    let (values, weight) = (Values::of(x)?, Values::of(weight)?);
    let bias = bias.map(Values::of).transpose()?;
    let width = weight.len();
    let task = rows_per_task(width) * width;
    let mut out = vec![0.0; values.len()];
    out.par_chunks_mut(task).zip(values.par_chunks(task)).for_each(|(out, x)| {
        vectorised(
            #[inline(always)]
            || {
                for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                    let Moments { mean, scale } = Moments::of(x, bias.is_some(), epsilon as f32);
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

/// Gradient with respect to `x`. `gradients` are of the weight, and of the bias if there is one.
pub(crate) fn norm_backward(
    x: &Tensor,
    weight: &Tensor,
    centred: bool,
    epsilon: f64,
    upstream: &Tensor,
    gradients: &[&Tensor],
) -> Result<Tensor> {
    let (values, weight, d) = (Values::of(x)?, Values::of(weight)?, Values::of(upstream)?);
    let width = weight.len();
    let task = rows_per_task(width) * width;
    let mut dx = vec![0.0; values.len()];
    // Each task sums the gradients of weight and bias over its own rows; the sums are added in order.
    let sums: Vec<Vec<f32>> = dx
        .par_chunks_mut(task)
        .zip(values.par_chunks(task))
        .zip(d.par_chunks(task))
        .map(|((dx, x), d)| {
            let mut sums = vec![0.0; gradients.len() * width];
            vectorised(
                #[inline(always)]
                || {
                    let mut normed = vec![0.0; width];
                    let mut pulled = vec![0.0; width];
                    let rows =
                        dx.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(d.chunks_exact(width));
                    for ((dx, x), d) in rows {
                        let Moments { mean, scale } = Moments::of(x, centred, epsilon as f32);
                        for i in 0..width {
                            normed[i] = (x[i] - mean) * scale;
                            pulled[i] = d[i] * weight[i];
                        }
                        let n = width as f32;
                        let along = dot(&normed, &pulled) / n;
                        let shift = if centred { sum(&pulled, |p| p) / n } else { 0.0 };
                        for i in 0..width {
                            dx[i] = scale * (pulled[i] - shift - normed[i] * along);
                        }
                        let mut sums = sums.chunks_exact_mut(width);
                        if let Some(d_weight) = sums.next() {
                            for i in 0..width {
                                d_weight[i] += d[i] * normed[i];
                            }
                        }
                        if let Some(d_bias) = sums.next() {
                            for i in 0..width {
                                d_bias[i] += d[i];
                            }
                        }
                    }
                },
            );
            sums
        })
        .collect();
    for (i, gradient) in gradients.iter().enumerate() {
        write(gradient, |gradient: &mut [f32]| {
            for part in &sums {
                for (g, s) in gradient.iter_mut().zip(&part[i * width..]) {
                    *g += s;
                }
            }
            Ok(())
        })?;
    }
    shaped_as(dx, x)
}
