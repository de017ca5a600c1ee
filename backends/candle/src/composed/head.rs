//! The log-prob head: logits of a few rows at a time.

use candle_core::{D, DType, Result, Tensor};
use spo_api::Statistics;
use spo_transformer::{Head, HeadScores, Mat};

use super::product::{matmul, matmul_add};
use super::vector::sum_rows_add;
use crate::memory::{index, rows};

/// Logits held at a time.
const LOGITS: usize = 1 << 24;

/// Ranges of rows whose logits are held together.
fn chunks(rows: usize, vocabulary: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let at_once = (LOGITS / vocabulary).max(16);
    (0..rows).step_by(at_once).map(move |first| first..rows.min(first + at_once))
}

/// `cap tanh(x / cap)`, if there is a cap.
pub(super) fn capped(x: Tensor, cap: Option<f64>) -> Result<Tensor> {
    match cap {
        Some(cap) => (x / cap)?.tanh()? * cap,
        None => Ok(x),
    }
}

/// What the weight of the head reads, and what its low-rank addition does.
fn parts(x: &Tensor, head: Head<&Tensor>) -> Result<(Tensor, Option<Tensor>)> {
    let width = head.weight.dim(1)?;
    let rest = head.low_rank.map(|b| x.narrow(1, width, b.dim(1)?)?.contiguous()).transpose()?;
    Ok((x.narrow(1, 0, width)?.contiguous()?, rest))
}

fn logits(x: &Tensor, head: Head<&Tensor>) -> Result<Tensor> {
    let (hidden, reduced) = parts(x, head)?;
    let product = |x: &Tensor, w: &Tensor| x.matmul(&w.to_dtype(x.dtype())?.t()?)?.to_dtype(DType::F32);
    let mut logits = product(&hidden, head.weight)?;
    if let (Some(reduced), Some(b)) = (&reduced, head.low_rank) {
        logits = (logits + product(reduced, b)?)?;
    }
    if let Some(bias) = head.bias {
        logits = logits.broadcast_add(&bias.to_dtype(DType::F32)?)?;
    }
    capped(logits, head.cap)
}

fn to_f64(x: &Tensor) -> Result<Vec<f64>> {
    Ok(x.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f64::from).collect())
}

pub(super) fn score(
    hidden: &Tensor,
    head: Head<&Tensor>,
    targets: &[u32],
    statistics: Statistics,
) -> Result<HeadScores> {
    let mut scores = HeadScores::default();
    for range in chunks(targets.len(), head.weight.dim(0)?) {
        let targets = &targets[range.clone()];
        let logits = logits(&rows(hidden, &range)?, head)?;
        let top = logits.max_keepdim(D::Minus1)?;
        let shifted = logits.broadcast_sub(&top)?;
        let exponentials = shifted.exp()?;
        let normalizer = exponentials.sum_keepdim(D::Minus1)?;
        let log_normalizer = normalizer.log()?;
        let own = shifted.gather(&index(targets, &logits)?.unsqueeze(1)?, 1)?;
        scores.log_probs.extend(to_f64(&(own - &log_normalizer)?)?);
        scores.log_normalizers.extend(to_f64(&(&log_normalizer + top)?)?);
        if statistics.entropy {
            let mean = ((&exponentials * shifted)?.sum_keepdim(D::Minus1)? / &normalizer)?;
            scores.entropy.extend(to_f64(&(&log_normalizer - mean)?)?);
        }
        if statistics.collision {
            let squares = exponentials.sqr()?.sum_keepdim(D::Minus1)?.log()?;
            scores.collision.extend(to_f64(&(squares - (log_normalizer * 2.0)?)?)?);
        }
        if statistics.greedy {
            let best = logits.argmax(D::Minus1)?.to_vec1::<u32>()?;
            scores.greedy.extend(best.iter().zip(targets).map(|(b, t)| f64::from(b == t)));
        }
    }
    Ok(scores)
}

pub(super) fn score_backward(
    hidden: &Tensor,
    head: Head<&Tensor>,
    targets: &[u32],
    log_normalizers: &[f64],
    upstream: &[f64],
    [d_weight, d_bias, d_low_rank]: [Option<&Tensor>; 3],
) -> Result<Tensor> {
    let device = hidden.device();
    let mut d_hidden = Vec::new();
    for range in chunks(targets.len(), head.weight.dim(0)?) {
        let n = range.len();
        let column = |values: &[f64]| {
            let values = values[range.clone()].iter().map(|&v| v as f32).collect();
            Tensor::from_vec(values, (n, 1), device)
        };
        let x = rows(hidden, &range)?;
        let logits = logits(&x, head)?;
        let softmax = logits.broadcast_sub(&column(log_normalizers)?)?.exp()?;
        let weights = column(upstream)?;
        let slopes = softmax.broadcast_mul(&weights.neg()?)?;
        let own = index(&targets[range.clone()], hidden)?.unsqueeze(1)?;
        let mut slopes = slopes.scatter_add(&own, &weights, 1)?;
        if let Some(cap) = head.cap {
            slopes = (slopes * ((logits / cap)?.sqr()?.neg()? + 1.0)?)?;
        }
        let mut d_x = matmul(Mat::new(&slopes), Mat::new(head.weight), hidden.dtype())?;
        let (of_weight, of_low_rank) = parts(&x, head)?;
        if let Some(gradient) = d_weight {
            matmul_add(gradient, 1.0, Mat::t(&slopes), Mat::new(&of_weight), hidden.dtype())?;
        }
        if let (Some(reduced), Some(b)) = (&of_low_rank, head.low_rank) {
            d_x = Tensor::cat(&[d_x, matmul(Mat::new(&slopes), Mat::new(b), hidden.dtype())?], 1)?;
            if let Some(gradient) = d_low_rank {
                matmul_add(gradient, 1.0, Mat::t(&slopes), Mat::new(reduced), hidden.dtype())?;
            }
        }
        d_hidden.push(d_x);
        if let Some(gradient) = d_bias {
            sum_rows_add(gradient, &slopes)?;
        }
    }
    Tensor::cat(&d_hidden, 0)
}
