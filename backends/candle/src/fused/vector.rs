//! Linear algebra of vectors, and sums over rows.

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

use super::slices::{Values, write};
use super::tasks::{GRAIN, rows_per_task, shaped_as, vectorised};

pub(super) fn scale(into: &Tensor, a: f64) -> Result<()> {
    let a = a as f32;
    write(into, |y: &mut [f32]| {
        y.par_chunks_mut(GRAIN).for_each(|y| match a == 0.0 {
            true => y.fill(0.0),
            false => y.iter_mut().for_each(|y| *y *= a),
        });
        Ok(())
    })
}

pub(super) fn axpy(into: &Tensor, a: f64, x: &Tensor) -> Result<()> {
    let a = a as f32;
    let x = Values::of(x)?;
    write(into, |y: &mut [f32]| {
        y.par_chunks_mut(GRAIN).zip(x.par_chunks(GRAIN)).for_each(|(y, x)| {
            for (y, x) in y.iter_mut().zip(x) {
                *y += a * x;
            }
        });
        Ok(())
    })
}

pub(super) fn dot(x: &Tensor, y: &Tensor) -> Result<f64> {
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
pub(super) fn sum_rows_add(into: &Tensor, x: &Tensor) -> Result<()> {
    add_rows(into, &Values::of(x)?)
}

/// The same for rows that are no tensor.
pub(super) fn add_rows(into: &Tensor, x: &[f32]) -> Result<()> {
    write(into, |sums: &mut [f32]| {
        for row in x.chunks_exact(sums.len()) {
            for (s, x) in sums.iter_mut().zip(row) {
                *s += x;
            }
        }
        Ok(())
    })
}

/// `into[j] <- into[j] + sum_i x[i][j] y[i][j]`.
pub(super) fn sum_products_add(into: &Tensor, x: &Tensor, y: &Tensor) -> Result<()> {
    let (x, y) = (Values::of(x)?, Values::of(y)?);
    write(into, |sums: &mut [f32]| {
        let width = sums.len();
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact(width)) {
            for (s, (x, y)) in sums.iter_mut().zip(x.iter().zip(y)) {
                *s += x * y;
            }
        }
        Ok(())
    })
}

/// `into[i][j] <- into[i][j] factors[j] + bias[j]`.
pub(super) fn scale_columns(into: &Tensor, factors: &Tensor, bias: Option<&Tensor>) -> Result<()> {
    let factors = Values::of(factors)?;
    write(into, |x: &mut [f32]| {
        x.par_chunks_mut(factors.len()).with_min_len(16).for_each(|row| {
            for (x, f) in row.iter_mut().zip(factors.iter()) {
                *x *= f;
            }
        });
        bias.map_or(Ok(()), |bias| add_bias(x, bias))
    })
}

/// `x[i][j] factors[i]`.
pub(super) fn scale_rows(x: &Tensor, factors: &Tensor) -> Result<Tensor> {
    let width = x.dim(1)?;
    let (values, factors) = (Values::of(x)?, Values::of(factors)?);
    let mut scaled = values.to_vec();
    scaled
        .par_chunks_mut(width)
        .zip(factors.par_iter())
        .with_min_len(rows_per_task(width))
        .for_each(|(row, &factor)| row.iter_mut().for_each(|y| *y *= factor));
    shaped_as(scaled, x)
}

/// `sum_j x[i][j] y[i][j]`, `[rows, 1]`.
pub(super) fn row_dots(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let (x, y) = (Values::of(x)?, Values::of(y)?);
    let dot = |(x, y): (&[f32], &[f32])| x.iter().zip(y).map(|(x, y)| x * y).sum::<f32>();
    let pairs = x.par_chunks(width).zip(y.par_chunks(width)).with_min_len(rows_per_task(width));
    let dots: Vec<f32> = pairs.map(dot).collect();
    Tensor::from_vec(dots, (rows, 1), &Device::Cpu)
}

/// `into[i][j] <- into[i][j] + bias[j]`.
pub(super) fn add_bias(into: &mut [f32], bias: &Tensor) -> Result<()> {
    let bias = Values::of(bias)?;
    into.par_chunks_mut(bias.len()).with_min_len(16).for_each(|row| {
        for (y, b) in row.iter_mut().zip(bias.iter()) {
            *y += b;
        }
    });
    Ok(())
}

/// `into[ids[i]] <- into[ids[i]] + x[i]`.
pub(super) fn scatter_add(into: &Tensor, ids: &[u32], x: &Tensor) -> Result<()> {
    let width = into.dim(1)?;
    let x = Values::of(x)?;
    write(into, |table: &mut [f32]| {
        for (&id, x) in ids.iter().zip(x.chunks_exact(width)) {
            let start = id as usize * width;
            for (t, x) in table[start..start + width].iter_mut().zip(x) {
                *t += x;
            }
        }
        Ok(())
    })
}
