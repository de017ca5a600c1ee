//! The log-prob head, over a few rows at a time: logits in f32, in one buffer that is turned into what is
//! asked for.

use std::ops::Range;

use spo_api::Statistics;
use spo_transformer::{Head, HeadScores};
use tch::{Kind, Tensor};

use crate::norm::sum_rows_add;
use crate::shim;
use crate::tensor::{Outcome, index, rows};

/// Ranges of rows whose logits are held together.
fn chunks(count: usize, head: Head<&Tensor>) -> impl Iterator<Item = Range<usize>> {
    /// Logits at once: 16 MiB on a CPU, 256 MiB on a GPU.
    const LOGITS: [usize; 2] = [1 << 22, 1 << 26];
    let vocabulary = head.weight.size()[0] as usize;
    let at_once = (LOGITS[usize::from(head.weight.device().is_cuda())] / vocabulary).max(16);
    (0..count).step_by(at_once).map(move |first| first..count.min(first + at_once))
}

/// What the weight of the head reads, and what its low-rank addition does.
fn parts(x: &Tensor, head: Head<&Tensor>) -> Outcome<(Tensor, Option<Tensor>)> {
    let width = head.weight.size()[1];
    let rest = head.low_rank.map(|b| x.f_narrow(1, width, b.size()[1])).transpose()?;
    Ok((x.f_narrow(1, 0, width)?, rest))
}

/// `x w^T` in f32.
fn product(x: &Tensor, w: &Tensor) -> Outcome<Tensor> {
    x.f_mm(&w.f_to_kind(x.f_kind()?)?.f_tr()?)?.f_to_kind(Kind::Float)
}

fn logits(x: &Tensor, head: Head<&Tensor>) -> Outcome<Tensor> {
    let (hidden, reduced) = parts(x, head)?;
    let mut logits = product(&hidden, head.weight)?;
    if let (Some(reduced), Some(b)) = (&reduced, head.low_rank) {
        logits = logits.f_add_(&product(reduced, b)?)?;
    }
    if let Some(bias) = head.bias {
        logits = logits.f_add_(&bias.f_to_kind(Kind::Float)?)?;
    }
    match head.cap {
        Some(cap) => logits.f_div_scalar_(cap)?.f_tanh_()?.f_mul_scalar(cap),
        None => Ok(logits),
    }
}

/// The derivatives of capped logits with respect to the logits.
fn cap_slopes(capped: &Tensor, cap: f64) -> Outcome<Tensor> {
    capped.f_div_scalar(cap)?.f_square()?.f_neg()?.f_add_scalar(1.0)
}

fn to_f64(x: &Tensor) -> Outcome<Vec<f64>> {
    let x = x.f_to_kind(Kind::Double)?.f_to_device(tch::Device::Cpu)?.f_contiguous()?;
    let mut values = vec![0.0; x.numel()];
    x.f_copy_data(&mut values, x.numel())?;
    Ok(values)
}

fn sum(x: &Tensor) -> Outcome<Tensor> {
    x.f_sum_dim_intlist(-1, true, Kind::Float)
}

pub(crate) fn score(
    hidden: &Tensor,
    head: Head<&Tensor>,
    targets: &[u32],
    statistics: Statistics,
) -> Outcome<HeadScores> {
    // What goes to the host is no part of a recording.
    let (hidden, weight) = (&hidden.f_detach()?, head.weight.f_detach()?);
    let [bias, low_rank] = [head.bias, head.low_rank].map(|part| part.map(Tensor::f_detach).transpose());
    let (bias, low_rank) = (bias?, low_rank?);
    let head = Head { weight: &weight, bias: bias.as_ref(), low_rank: low_rank.as_ref(), ..head };
    let mut scores = HeadScores::default();
    for range in chunks(targets.len(), head) {
        let targets = &targets[range.clone()];
        let mut logits = logits(&rows(hidden, &range)?, head)?;
        if statistics.greedy {
            let mut best = vec![0i64; targets.len()];
            let found = logits.f_argmax(-1, false)?.f_to_device(tch::Device::Cpu)?;
            found.f_copy_data(&mut best, targets.len())?;
            scores.greedy.extend(best.iter().zip(targets).map(|(&b, &t)| f64::from(b == i64::from(t))));
        }
        let top = logits.f_amax(-1, true)?;
        let shifted = logits.f_sub_(&top)?;
        let own = shifted.f_gather(1, &index(targets, shifted.device())?.f_unsqueeze(1)?, false)?;
        // Entropy wants the logits beside their exponentials; without it one buffer will do.
        let exponentials = if statistics.entropy { shifted.f_exp()? } else { logits.f_exp_()? };
        let normalizer = sum(&exponentials)?;
        let log_normalizer = normalizer.f_log()?;
        scores.log_probs.extend(to_f64(&own.f_sub(&log_normalizer)?)?);
        scores.log_normalizers.extend(to_f64(&log_normalizer.f_add(&top)?)?);
        if statistics.entropy {
            let mean = sum(&logits.f_mul_(&exponentials)?)?.f_div(&normalizer)?;
            scores.entropy.extend(to_f64(&log_normalizer.f_sub(&mean)?)?);
        }
        if statistics.collision {
            let squares = sum(&exponentials.f_square()?)?.f_log()?;
            scores.collision.extend(to_f64(&squares.f_sub(&log_normalizer.f_mul_scalar(2.0)?)?)?);
        }
    }
    Ok(scores)
}

pub(crate) fn score_backward(
    hidden: &Tensor,
    head: Head<&Tensor>,
    targets: &[u32],
    log_normalizers: &[f64],
    upstream: &[f64],
    [d_weight, d_bias, d_low_rank]: [Option<&Tensor>; 3],
) -> Outcome<Tensor> {
    let device = hidden.device();
    let d_hidden = hidden.f_empty_like()?;
    for range in chunks(targets.len(), head) {
        let column = |values: &[f64]| {
            let values = Tensor::f_from_slice(&values[range.clone()])?.f_to_kind(Kind::Float)?;
            values.f_to_device(device)?.f_unsqueeze(1)
        };
        let x = rows(hidden, &range)?;
        let (own, weights) = (index(&targets[range.clone()], device)?.f_unsqueeze(1)?, column(upstream)?);
        let mut logits = logits(&x, head)?;
        let cap_slopes = head.cap.map(|cap| cap_slopes(&logits, cap)).transpose()?;
        let mut softmax = logits.f_sub_(&column(log_normalizers)?)?.f_exp_()?;
        let mut slopes = softmax.f_mul_(&weights.f_neg()?)?.f_scatter_add_(1, &own, &weights)?;
        if let Some(cap_slopes) = cap_slopes {
            slopes = slopes.f_mul_(&cap_slopes)?;
        }
        if let Some(gradient) = d_bias {
            sum_rows_add(gradient, &slopes)?;
        }
        let slopes = slopes.f_to_kind(hidden.f_kind()?)?;
        rows(&d_hidden, &range)?.f_copy_(&pulled_back(&slopes, head)?)?;
        let (of_weight, of_low_rank) = parts(&x, head)?;
        for (gradient, x) in [(d_weight, Some(of_weight)), (d_low_rank, of_low_rank)] {
            let (Some(gradient), Some(x)) = (gradient, x) else { continue };
            let slopes = slopes.f_tr()?;
            match gradient.f_kind()? == x.f_kind()? {
                true => shim::add_product(gradient, 1.0, &slopes, &x)?,
                false => shim::axpy(gradient, 1.0, &slopes.f_mm(&x)?)?,
            }
        }
    }
    Ok(d_hidden)
}

/// The gradient of what the head reads.
fn pulled_back(slopes: &Tensor, head: Head<&Tensor>) -> Outcome<Tensor> {
    let kind = slopes.f_kind()?;
    let d_hidden = slopes.f_mm(&head.weight.f_to_kind(kind)?)?;
    match head.low_rank {
        Some(b) => Tensor::f_cat(&[d_hidden, slopes.f_mm(&b.f_to_kind(kind)?)?], 1),
        None => Ok(d_hidden),
    }
}

/// The same, for a recording: all rows at once, and the normalizers are part of what depends on the parameters.
pub(crate) fn recorded_score_backward(
    hidden: &Tensor,
    head: Head<&Tensor>,
    targets: &[u32],
    upstream: &Tensor,
    [d_weight, d_bias, d_low_rank]: [Option<&Tensor>; 3],
) -> Outcome<Tensor> {
    let (kind, device) = (hidden.f_kind()?, hidden.device());
    let weights = upstream.f_unsqueeze(1)?;
    let logits = logits(hidden, head)?;
    let softmax = logits.f_softmax(-1, Kind::Float)?.f_mul(&weights.f_neg()?)?;
    let own = index(targets, device)?.f_unsqueeze(1)?;
    let mut slopes = softmax.f_scatter_add(1, &own, &weights)?;
    if let Some(cap) = head.cap {
        slopes = slopes.f_mul(&cap_slopes(&logits, cap)?)?;
    }
    if let Some(gradient) = d_bias {
        sum_rows_add(gradient, &slopes)?;
    }
    let slopes = slopes.f_to_kind(kind)?;
    let (of_weight, of_low_rank) = parts(hidden, head)?;
    for (gradient, x) in [(d_weight, Some(of_weight)), (d_low_rank, of_low_rank)] {
        if let (Some(gradient), Some(x)) = (gradient, x) {
            shim::axpy(gradient, 1.0, &slopes.f_tr()?.f_mm(&x)?)?;
        }
    }
    pulled_back(&slopes, head)
}
