//! The log-prob head: logits of a few rows at a time.

use candle_core::{D, DType, Result, Tensor};
use spo_api::Statistics;
use spo_transformer::{HeadScores, Mat};

use super::product::{matmul, matmul_add};
use crate::memory::{index, rows};

/// Logits held at a time.
const LOGITS: usize = 1 << 24;

/// Ranges of rows whose logits are held together.
fn chunks(rows: usize, vocabulary: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let at_once = (LOGITS / vocabulary).max(16);
    (0..rows).step_by(at_once).map(move |first| first..rows.min(first + at_once))
}

fn logits(hidden: &Tensor, head: &Tensor) -> Result<Tensor> {
    hidden.matmul(&head.to_dtype(hidden.dtype())?.t()?)?.to_dtype(DType::F32)
}

fn to_f64(x: &Tensor) -> Result<Vec<f64>> {
    Ok(x.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f64::from).collect())
}

pub(super) fn score(
    hidden: &Tensor,
    head: &Tensor,
    targets: &[u32],
    statistics: Statistics,
) -> Result<HeadScores> {
    let mut scores = HeadScores::default();
    for range in chunks(targets.len(), head.dim(0)?) {
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
    head: &Tensor,
    targets: &[u32],
    log_normalizers: &[f64],
    upstream: &[f64],
    head_gradient: Option<&Tensor>,
) -> Result<Tensor> {
    let device = hidden.device();
    let mut d_hidden = Vec::new();
    for range in chunks(targets.len(), head.dim(0)?) {
        let n = range.len();
        let column = |values: &[f64]| {
            let values = values[range.clone()].iter().map(|&v| v as f32).collect();
            Tensor::from_vec(values, (n, 1), device)
        };
        let x = rows(hidden, &range)?;
        let softmax = logits(&x, head)?.broadcast_sub(&column(log_normalizers)?)?.exp()?;
        let weights = column(upstream)?;
        let slopes = softmax.broadcast_mul(&weights.neg()?)?;
        let own = index(&targets[range.clone()], hidden)?.unsqueeze(1)?;
        let slopes = slopes.scatter_add(&own, &weights, 1)?;
        d_hidden.push(matmul(Mat::new(&slopes), Mat::new(head), hidden.dtype())?);
        if let Some(gradient) = head_gradient {
            matmul_add(gradient, 1.0, Mat::t(&slopes), Mat::new(&x), hidden.dtype())?;
        }
    }
    Tensor::cat(&d_hidden, 0)
}
