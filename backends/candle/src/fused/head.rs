//! The log-prob head: logits of a few rows at a time, their softmax and its gradient in place.

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;
use spo_api::Statistics;
use spo_transformer::{Blocks, Head, HeadScores};

use super::blocks::{Rows, decoded};
use super::gemm::{Target, Threads, View, multiplied, product};
use super::math::{cap_all, cap_slope, exp, max, sum};
use super::slices::{Values, write};
use super::tasks::vectorised;
use super::vector::{add_bias, add_rows};

/// Logits held at a time: 64 MB. With fewer rows, the product spends its time arranging the head's weights.
const LOGITS: usize = 1 << 24;
/// Weights of a head in bf16 or in blocks that are held in f32 at a time: 8 MB.
const WIDENED: usize = 1 << 21;
/// Logits whose exponentials are added in f32 before they go into an f64.
const STRETCH: usize = 1 << 12;

/// Rows computed together.
fn rows_at_once(vocabulary: usize) -> usize {
    (LOGITS / vocabulary).clamp(16, 512)
}

/// Some rows of a head.
struct Stretch<'a> {
    rows: Range<usize>,
    weight: Weight<'a>,
}

enum Weight<'a> {
    Tensor(Tensor),
    Blocks(&'a Tensor, Blocks),
}

impl Stretch<'_> {
    /// Runs `f` on the weights in f32.
    fn with<R>(&self, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
        Ok(match &self.weight {
            Weight::Tensor(rows) => f(&Values::widened(rows)?),
            Weight::Blocks(codes, blocks) => f(&decoded(codes, *blocks, &Rows::Range(self.rows.clone()))?),
        })
    }
}

/// The head in stretches of rows: as a whole, or, where it must be brought to f32, a few rows at a time.
fn stretches<'a>(head: Head<&'a Tensor>, width: usize) -> Result<Vec<Stretch<'a>>> {
    let vocabulary = head.weight.dim(0)?;
    let at_once = if head.weight.dtype() == DType::F32 { vocabulary } else { WIDENED.div_ceil(width) };
    let stretch = |first: usize| {
        let rows = first..vocabulary.min(first + at_once);
        let weight = match head.blocks {
            Some(blocks) => Weight::Blocks(head.weight, blocks),
            None => Weight::Tensor(head.weight.narrow(0, first, rows.len())?),
        };
        Ok(Stretch { rows, weight })
    };
    (0..vocabulary).step_by(at_once).map(stretch).collect()
}

/// The matrix that multiplies the last columns of what the head reads.
struct LowRank<'a> {
    b: Values<'a>,
    rank: usize,
}

impl<'a> LowRank<'a> {
    fn of(head: Head<&'a Tensor>) -> Result<Option<Self>> {
        let of = |b: &'a Tensor| Ok(LowRank { b: Values::widened(b)?, rank: b.dim(1)? });
        head.low_rank.map(of).transpose()
    }
}

/// The head as it is computed with.
struct Opened<'a> {
    head: Head<&'a Tensor>,
    vocabulary: usize,
    /// Columns of the weight.
    width: usize,
    weight: Vec<Stretch<'a>>,
    low_rank: Option<LowRank<'a>>,
}

impl<'a> Opened<'a> {
    /// The head that reads rows of this width.
    fn new(head: Head<&'a Tensor>, read: usize) -> Result<Self> {
        let low_rank = LowRank::of(head)?;
        let width = read - low_rank.as_ref().map_or(0, |low_rank| low_rank.rank);
        Ok(Opened { head, vocabulary: head.weight.dim(0)?, width, weight: stretches(head, width)?, low_rank })
    }

    /// What the weight and its low-rank addition read of some rows.
    fn parts<'x>(&self, x: &'x [f32], rows: usize) -> (View<'x>, View<'x>) {
        let read = x.len() / rows;
        let rest = View::strided(&x[self.width.min(x.len())..], rows, read - self.width, read);
        (View::strided(x, rows, self.width, read), rest)
    }
}

/// The logits of some rows.
fn logits(x: &[f32], rows: usize, opened: &Opened<'_>) -> Result<Vec<f32>> {
    let &Opened { head, vocabulary, ref weight, ref low_rank, .. } = opened;
    let (hidden, reduced) = opened.parts(x, rows);
    let mut logits = product_of(hidden, weight, vocabulary)?;
    if let Some(LowRank { b, rank }) = low_rank {
        let into = Target { values: &mut logits, stride: vocabulary };
        product(into, 1.0, 1.0, reduced, View::new(b, vocabulary, *rank).t(), Threads::All);
    }
    if let Some(bias) = head.bias {
        add_bias(&mut logits, bias)?;
    }
    if let Some(cap) = head.cap {
        logits.par_chunks_mut(vocabulary).for_each(|row| cap_all(row, cap as f32));
    }
    Ok(logits)
}

/// `x head^T`.
fn product_of(x: View<'_>, head: &[Stretch<'_>], vocabulary: usize) -> Result<Vec<f32>> {
    if let [whole] = head {
        // Into memory that is not zeroed first.
        return whole.with(|weights| multiplied(x, View::new(weights, vocabulary, x.columns).t()));
    }
    let mut logits = vec![0.0; x.rows * vocabulary];
    for stretch in head {
        stretch.with(|weights| {
            let weights = View::new(weights, stretch.rows.len(), x.columns);
            let into = Target { values: &mut logits[stretch.rows.start..], stride: vocabulary };
            product(into, 0.0, 1.0, x, weights.t(), Threads::All);
        })?;
    }
    Ok(logits)
}

/// Adds `slopes head` to `d_hidden`.
fn pull_back(slopes: &[f32], opened: &Opened<'_>, d_hidden: &mut [f32]) -> Result<()> {
    let &Opened { vocabulary, width, ref weight, ref low_rank, .. } = opened;
    let count = slopes.len() / vocabulary;
    let stride = d_hidden.len() / count;
    for stretch in weight {
        let rows = stretch.rows.len();
        let slopes = View::strided(&slopes[stretch.rows.start..], count, rows, vocabulary);
        stretch.with(|weights| {
            let into = Target { values: &mut *d_hidden, stride };
            product(into, 1.0, 1.0, slopes, View::new(weights, rows, width), Threads::All);
        })?;
    }
    if let Some(LowRank { b, rank }) = low_rank {
        let into = Target { values: &mut d_hidden[width..], stride };
        let slopes = View::new(slopes, count, vocabulary);
        product(into, 1.0, 1.0, slopes, View::new(b, vocabulary, *rank), Threads::All);
    }
    Ok(())
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

pub(super) fn score(
    hidden: &Tensor,
    head: Head<&Tensor>,
    targets: &[u32],
    statistics: Statistics,
) -> Result<HeadScores> {
    let read = hidden.dim(1)?;
    let (hidden, opened) = (Values::of(hidden)?, Opened::new(head, read)?);
    let vocabulary = opened.vocabulary;
    let at_once = rows_at_once(vocabulary);
    let mut rows = Vec::with_capacity(targets.len());
    for (x, targets) in hidden.chunks(at_once * read).zip(targets.chunks(at_once)) {
        let logits = logits(x, targets.len(), &opened)?;
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
    Ok(HeadScores {
        log_probs: column(true, |r| r.log_prob),
        log_normalizers: column(true, |r| r.log_normalizer),
        entropy: column(statistics.entropy, |r| r.entropy),
        collision: column(statistics.collision, |r| r.collision),
        greedy: column(statistics.greedy, |r| r.greedy),
    })
}

/// The gradient of a log-prob with respect to the logits is `onehot(target) - softmax`.
pub(super) fn score_backward(
    hidden: &Tensor,
    head: Head<&Tensor>,
    targets: &[u32],
    log_normalizers: &[f64],
    upstream: &[f64],
    [d_weight, d_bias, d_low_rank]: [Option<&Tensor>; 3],
) -> Result<Tensor> {
    let (shape, read) = (hidden.shape(), hidden.dim(1)?);
    let (hidden, opened) = (Values::of(hidden)?, Opened::new(head, read)?);
    let vocabulary = opened.vocabulary;
    let at_once = rows_at_once(vocabulary);
    let mut d_hidden = vec![0.0; hidden.len()];
    let parts = hidden.chunks(at_once * read).zip(d_hidden.chunks_mut(at_once * read));
    for (chunk, (x, d_x)) in parts.enumerate() {
        let first = chunk * at_once;
        let rows = x.len() / read;
        let mut slopes = logits(x, rows, &opened)?;
        slopes.par_chunks_mut(vocabulary).enumerate().for_each(|(i, row)| {
            let weight = upstream[first + i];
            let target = targets[first + i] as usize;
            // Near 1 the softmax loses digits that 1 - p still has in this form.
            let (normalizer, weight32) = (log_normalizers[first + i] as f32, weight as f32);
            let logit = row[target];
            let own = f64::from(logit) - log_normalizers[first + i];
            vectorised(
                #[inline(always)]
                || match head.cap {
                    None => row.iter_mut().for_each(|l| *l = -weight32 * exp(*l - normalizer)),
                    Some(cap) => {
                        for l in row.iter_mut() {
                            *l = -weight32 * exp(*l - normalizer) * cap_slope(*l, cap as f32);
                        }
                    }
                },
            );
            let cap_slope = head.cap.map_or(1.0, |cap| cap_slope(logit, cap as f32));
            row[target] = (-weight * own.exp_m1()) as f32 * cap_slope;
        });
        pull_back(&slopes, &opened, d_x)?;
        let slopes = View::new(&slopes, rows, vocabulary);
        let (of_weight, of_low_rank) = opened.parts(x, rows);
        for (gradient, x) in [(d_weight, of_weight), (d_low_rank, of_low_rank)] {
            let Some(gradient) = gradient else { continue };
            write(gradient, |values: &mut [f32]| {
                product(Target { values, stride: x.columns }, 1.0, 1.0, slopes.t(), x, Threads::All);
                Ok(())
            })?;
        }
        if let Some(gradient) = d_bias {
            add_rows(gradient, slopes.values)?;
        }
    }
    Tensor::from_vec(d_hidden, shape, &Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A head that is brought to f32 in several stretches gives what it gives as a whole.
    #[test]
    fn a_head_in_bf16_is_the_head() {
        let (width, rows) = (96, 5);
        let vocabulary = 2 * WIDENED / width + 100;
        let wave = |n: usize, m: usize| -> Tensor {
            let values = (0..n * m).map(|i| (i as f32 * 0.7).sin()).collect();
            Tensor::from_vec(values, (n, m), &Device::Cpu).unwrap()
        };
        let hidden = wave(rows, width);
        let half = wave(vocabulary, width).to_dtype(DType::BF16).unwrap();
        let full = half.to_dtype(DType::F32).unwrap();
        let targets: Vec<u32> = (0..rows as u32).map(|i| i * (vocabulary as u32 / 5)).collect();
        let [of_half, of_full] = [&half, &full].map(|head| {
            let head = Head { weight: head, blocks: None, bias: None, low_rank: None, cap: None };
            let scores = score(&hidden, head, &targets, Statistics::default()).unwrap();
            let upstream = [1.0, -2.0, 0.5, 3.0, -1.0];
            let d = score_backward(&hidden, head, &targets, &scores.log_normalizers, &upstream, [None; 3])
                .unwrap();
            (scores, d.flatten_all().unwrap().to_vec1::<f32>().unwrap())
        });
        assert_eq!(of_half.0, of_full.0);
        let worst = of_half.1.iter().zip(&of_full.1).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-5, "{worst}");
    }
}
