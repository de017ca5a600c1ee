//! The log-prob head, over a few rows at a time: logits in f32, in one buffer that is turned into what is
//! asked for.

use std::ops::Range;

use spo_api::Statistics;
use spo_transformer::HeadScores;
use tch::{Kind, Tensor};

use crate::shim;
use crate::tensor::{Outcome, index, rows};

/// Ranges of rows whose logits are held together.
fn chunks(count: usize, head: &Tensor) -> impl Iterator<Item = Range<usize>> {
    /// Logits at once: 16 MiB on a CPU, 256 MiB on a GPU.
    const LOGITS: [usize; 2] = [1 << 22, 1 << 26];
    let vocabulary = head.size()[0] as usize;
    let at_once = (LOGITS[usize::from(head.device().is_cuda())] / vocabulary).max(16);
    (0..count).step_by(at_once).map(move |first| first..count.min(first + at_once))
}

fn logits(hidden: &Tensor, head: &Tensor) -> Outcome<Tensor> {
    hidden.f_mm(&head.f_to_kind(hidden.f_kind()?)?.f_tr()?)?.f_to_kind(Kind::Float)
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
    head: &Tensor,
    targets: &[u32],
    statistics: Statistics,
) -> Outcome<HeadScores> {
    // What goes to the host is no part of a recording.
    let (hidden, head) = (&hidden.f_detach()?, &head.f_detach()?);
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
    head: &Tensor,
    targets: &[u32],
    log_normalizers: &[f64],
    upstream: &[f64],
    head_gradient: Option<&Tensor>,
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
        let softmax = logits(&x, head)?.f_sub_(&column(log_normalizers)?)?.f_exp_()?;
        let slopes = softmax.shallow_clone().f_mul_(&weights.f_neg()?)?.f_scatter_add_(1, &own, &weights)?;
        let slopes = slopes.f_to_kind(hidden.f_kind()?)?;
        rows(&d_hidden, &range)?.f_copy_(&slopes.f_mm(&head.f_to_kind(hidden.f_kind()?)?)?)?;
        if let Some(gradient) = head_gradient {
            let slopes = slopes.f_tr()?;
            match gradient.f_kind()? == x.f_kind()? {
                true => shim::add_product(gradient, 1.0, &slopes, &x)?,
                false => shim::axpy(gradient, 1.0, &slopes.f_mm(&x)?)?,
            }
        }
    }
    Ok(d_hidden)
}

/// The same, for a recording: all rows at once, and the normalizers are part of what depends on the parameters.
pub(crate) fn recorded_score_backward(
    hidden: &Tensor,
    head: &Tensor,
    targets: &[u32],
    upstream: &Tensor,
    head_gradient: Option<&Tensor>,
) -> Outcome<Tensor> {
    let (kind, device) = (hidden.f_kind()?, hidden.device());
    let weights = upstream.f_unsqueeze(1)?;
    let softmax = logits(hidden, head)?.f_softmax(-1, Kind::Float)?.f_mul(&weights.f_neg()?)?;
    let own = index(targets, device)?.f_unsqueeze(1)?;
    let slopes = softmax.f_scatter_add(1, &own, &weights)?.f_to_kind(kind)?;
    if let Some(gradient) = head_gradient {
        shim::axpy(gradient, 1.0, &slopes.f_tr()?.f_mm(hidden)?)?;
    }
    slopes.f_mm(&head.f_to_kind(kind)?)
}
