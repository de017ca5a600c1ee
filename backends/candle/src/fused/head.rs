//! The log-prob head: logits of a few rows at a time, their softmax and its gradient in place.

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;
use spo_api::Statistics;
use spo_transformer::Scores;

use super::gemm::{Target, Threads, View, multiplied, product};
use super::math::{exp, max, sum};
use super::vectorised;
use crate::memory::{Values, write};

/// Logits held at a time: 64 MB. With fewer rows, the product spends its time arranging the head's weights.
const LOGITS: usize = 1 << 24;
/// Logits whose exponentials are added in f32 before they go into an f64.
const STRETCH: usize = 1 << 12;

/// Rows computed together.
fn rows_at_once(vocabulary: usize) -> usize {
    (LOGITS / vocabulary).clamp(16, 512)
}

/// `sum_v f(logit_v)`.
#[inline(always)]
fn total(logits: &[f32], f: impl Fn(f32) -> f32) -> f64 {
    // A loop, not an iterator's sum: that would not be inlined, and so not vectorised.
    let mut total = 0.0;
    for stretch in logits.chunks(STRETCH) {
        total += f64::from(sum(stretch, &f));
    }
    total
}

#[derive(Default)]
struct Row {
    log_prob: f64,
    log_normalizer: f64,
    entropy: f64,
    collision: f64,
    greedy: f64,
}

impl Row {
    #[inline(always)]
    fn of(logits: &[f32], target: usize, statistics: Statistics) -> Self {
        let top = max(logits);
        let normalizer = total(logits, |l| exp(l - top));
        let log_normalizer = f64::from(top) + normalizer.ln();
        let mut row =
            Row { log_prob: f64::from(logits[target]) - log_normalizer, log_normalizer, ..Row::default() };
        if statistics.entropy {
            row.entropy = normalizer.ln() - total(logits, |l| (l - top) * exp(l - top)) / normalizer;
        }
        if statistics.collision {
            row.collision = total(logits, |l| exp(2.0 * (l - top))).ln() - 2.0 * normalizer.ln();
        }
        if statistics.greedy {
            row.greedy = f64::from(logits.iter().position(|&l| l == top) == Some(target));
        }
        row
    }
}

pub(crate) fn score(
    hidden: &Tensor,
    head: &Tensor,
    targets: &[u32],
    statistics: Statistics,
) -> Result<Scores> {
    let (vocabulary, width) = head.dims2()?;
    let (hidden, head) = (Values::of(hidden)?, Values::of(head)?);
    let head = View::new(&head, vocabulary, width).t();
    let at_once = rows_at_once(vocabulary);
    let mut rows = Vec::with_capacity(targets.len());
    for (x, targets) in hidden.chunks(at_once * width).zip(targets.chunks(at_once)) {
        let logits = multiplied(View::new(x, targets.len(), width), head);
        let row = |(logits, &target): (&[f32], &u32)| {
            vectorised(
                #[inline(always)]
                || Row::of(logits, target as usize, statistics),
            )
        };
        rows.par_extend(logits.par_chunks(vocabulary).zip(targets).map(row));
    }
    let column = |wanted: bool, f: fn(&Row) -> f64| match wanted {
        true => rows.iter().map(f).collect(),
        false => Vec::new(),
    };
    Ok(Scores {
        log_probs: column(true, |r| r.log_prob),
        log_normalizers: column(true, |r| r.log_normalizer),
        entropy: column(statistics.entropy, |r| r.entropy),
        collision: column(statistics.collision, |r| r.collision),
        greedy: column(statistics.greedy, |r| r.greedy),
    })
}

/// The gradient of a log-prob with respect to the logits is `onehot(target) - softmax`.
pub(crate) fn score_backward(
    hidden: &Tensor,
    head: &Tensor,
    targets: &[u32],
    log_normalizers: &[f64],
    upstream: &[f64],
    head_gradient: Option<&Tensor>,
) -> Result<Tensor> {
    let (vocabulary, width) = head.dims2()?;
    let shape = hidden.shape();
    let (hidden, head) = (Values::of(hidden)?, Values::of(head)?);
    let head = View::new(&head, vocabulary, width);
    let at_once = rows_at_once(vocabulary);
    let mut d_hidden = Vec::with_capacity(hidden.len());
    for (chunk, x) in hidden.chunks(at_once * width).enumerate() {
        let first = chunk * at_once;
        let x = View::new(x, x.len() / width, width);
        let mut slopes = multiplied(x, head.t());
        slopes.par_chunks_mut(vocabulary).enumerate().for_each(|(i, row)| {
            let weight = upstream[first + i];
            let target = targets[first + i] as usize;
            // Near 1 the softmax loses digits that 1 - p still has in this form.
            let (normalizer, weight32) = (log_normalizers[first + i] as f32, weight as f32);
            let own = f64::from(row[target]) - log_normalizers[first + i];
            vectorised(
                #[inline(always)]
                || {
                    for l in row.iter_mut() {
                        *l = -weight32 * exp(*l - normalizer);
                    }
                },
            );
            row[target] = (-weight * own.exp_m1()) as f32;
        });
        let slopes = View::new(&slopes, x.rows, vocabulary);
        d_hidden.extend(multiplied(slopes, head));
        if let Some(gradient) = head_gradient {
            write(gradient, |values: &mut [f32]| {
                product(Target { values, stride: width }, 1.0, 1.0, slopes.t(), x, Threads::All);
                Ok(())
            })?;
        }
    }
    Tensor::from_vec(d_hidden, shape, &Device::Cpu)
}
