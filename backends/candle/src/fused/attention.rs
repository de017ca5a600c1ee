//! Attention over segments, a block of queries at a time: no more than the scores of one block are ever
//! held, and the backward pass computes them again.

use std::ops::Range;

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;
use spo_transformer::{Attention, Cluster, Heads, Span};

use super::gemm::{Target, Threads, View, product};
use super::math::{cap_all, cap_slope, dot, exp, max};
use super::slices::Values;
use super::tasks::vectorised;

/// Queries computed together.
const BLOCK: usize = 64;

/// The queries of one key head in one cluster: what a task computes, free of all others.
#[derive(Clone, Copy)]
struct Task<'a> {
    cluster: &'a Cluster,
    kv_head: usize,
    heads: Heads,
    how: &'a Attention,
}

fn tasks<'a>(clusters: &'a [Cluster], how: &'a Attention) -> Vec<Task<'a>> {
    let heads = how.heads;
    let of = |cluster| (0..heads.kv_heads).map(move |kv_head| Task { cluster, kv_head, heads, how });
    clusters.iter().flat_map(of).collect()
}

/// Columns `head * dim..` of rows `first..first + count` of a matrix of heads.
fn head(values: &[f32], width: usize, dim: usize, head: usize, first: usize, count: usize) -> View<'_> {
    View::strided(&values[first * width + head * dim..], count, dim, width)
}

/// A block of queries of one head: which, and what they see.
struct Block<'a> {
    span: &'a Span,
    how: &'a Attention,
    head: usize,
    /// First row among the span's queries.
    first: usize,
    /// Number of queries.
    count: usize,
    /// Rows of the keys that any of the queries sees: of the prefix, and of the span's own.
    keys: [Range<usize>; 2],
    /// Keys of the span before these.
    skipped: usize,
}

impl<'a> Block<'a> {
    fn new(span: &'a Span, how: &'a Attention, head: usize, first: usize) -> Self {
        let count = BLOCK.min(span.queries.len() - first);
        let skipped = how.visible(span, first).start;
        let end = how.visible(span, first + count - 1).end;
        let shared = span.prefix.len();
        let own = span.own.start + skipped.max(shared) - shared..span.own.start + end - shared;
        let keys = [span.prefix.start + skipped.min(shared)..span.prefix.end, own];
        Block { span, how, head, first, count, keys, skipped }
    }

    /// Width of the scores.
    fn width(&self) -> usize {
        self.keys.iter().map(Range::len).sum()
    }

    /// Keys that query `i` of the block sees.
    fn visible(&self, i: usize) -> Range<usize> {
        let Range { start, end } = self.how.visible(self.span, self.first + i);
        start - self.skipped..end - self.skipped
    }
}

impl Task<'_> {
    /// Query heads that read the task's key head.
    fn group(&self) -> usize {
        self.heads.heads / self.heads.kv_heads
    }

    fn blocks(&self) -> impl Iterator<Item = Block<'_>> {
        let heads = self.kv_head * self.group()..(self.kv_head + 1) * self.group();
        self.cluster.spans.iter().flat_map(move |span| {
            heads.clone().flat_map(move |head| {
                let firsts = (0..span.queries.len()).step_by(BLOCK);
                firsts.map(move |first| Block::new(span, self.how, head, first))
            })
        })
    }

    fn queries<'v>(&self, values: &'v [f32], block: &Block<'_>) -> View<'v> {
        let Heads { heads, dim, .. } = self.heads;
        head(values, heads * dim, dim, block.head, block.span.queries.start + block.first, block.count)
    }

    /// Keys (or values) of the block: those of the prefix, and its own.
    fn keys<'v>(&self, values: &'v [f32], block: &Block<'_>) -> [View<'v>; 2] {
        let Heads { kv_heads, dim, .. } = self.heads;
        block.keys.each_ref().map(|rows| match rows.len() {
            0 => View::new(&[], 0, dim),
            count => head(values, kv_heads * dim, dim, self.kv_head, rows.start, count),
        })
    }

    /// `scores <- scale * left [keys]^T`, prefix and own side by side.
    fn against(
        &self,
        scores: &mut [f32],
        block: &Block<'_>,
        scale: f32,
        left: View<'_>,
        keys: [View<'_>; 2],
    ) {
        let stride = block.width();
        let [prefix, own] = keys;
        let (skip, threads) = (prefix.rows, Threads::One);
        if skip > 0 {
            product(Target { values: scores, stride }, 0.0, scale, left, prefix.t(), threads);
        }
        product(Target { values: &mut scores[skip..], stride }, 0.0, scale, left, own.t(), threads);
    }

    /// The block's attention weights, into `weights`. If scores are capped, the derivatives of the caps go
    /// into `cap_slopes`, where they are wanted.
    fn weights(
        &self,
        weights: &mut Vec<f32>,
        cap_slopes: Option<&mut Vec<f32>>,
        block: &Block<'_>,
        [q, k]: [&[f32]; 2],
    ) {
        let width = block.width();
        weights.resize(block.count * width, 0.0);
        let scale = self.how.scale as f32;
        self.against(weights, block, scale, self.queries(q, block), self.keys(k, block));
        if let Some(cap) = self.how.cap.map(|cap| cap as f32) {
            cap_all(weights, cap);
            if let Some(slopes) = cap_slopes {
                slopes.clear();
                slopes.extend(weights.iter().map(|score| cap_slope(*score, cap)));
            }
        }
        vectorised(
            #[inline(always)]
            || {
                for (i, row) in weights.chunks_exact_mut(width).enumerate() {
                    let Range { start, end } = block.visible(i);
                    let (row, later) = row.split_at_mut(end);
                    let (earlier, seen) = row.split_at_mut(start);
                    let top = max(seen);
                    seen.iter_mut().for_each(|s| *s = exp(*s - top));
                    let total = super::math::sum(seen, |e| e);
                    seen.iter_mut().for_each(|s| *s /= total);
                    earlier.fill(0.0);
                    later.fill(0.0);
                }
            },
        );
    }

    /// Rows of the block within the task's own output, `[cluster queries, group * dim]`.
    fn target<'v>(&self, out: &'v mut [f32], block: &Block<'_>) -> Target<'v> {
        let stride = self.group() * self.heads.dim;
        let row = block.span.queries.start - self.cluster.queries.start + block.first;
        let column = (block.head - self.kv_head * self.group()) * self.heads.dim;
        Target { values: &mut out[row * stride + column..], stride }
    }

    fn forward(&self, q: &[f32], k: &[f32], v: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; self.cluster.queries.len() * self.group() * self.heads.dim];
        let mut weights = Vec::new();
        for block in self.blocks() {
            self.weights(&mut weights, None, &block, [q, k]);
            self.spread(self.target(&mut out, &block), &weights, &block, 0.0, self.keys(v, &block));
        }
        out
    }

    /// `into <- keep * into + weights [values]`, prefix and own side by side.
    fn spread(&self, into: Target<'_>, weights: &[f32], block: &Block<'_>, keep: f32, values: [View<'_>; 2]) {
        let width = block.width();
        let [prefix, own] = values;
        let Target { values: target, stride } = into;
        let mut keep = keep;
        if prefix.rows > 0 {
            let left = View::strided(weights, block.count, prefix.rows, width);
            product(Target { values: target, stride }, keep, 1.0, left, prefix, Threads::One);
            keep = 1.0;
        }
        let left = View::strided(&weights[prefix.rows..], block.count, own.rows, width);
        product(Target { values: target, stride }, keep, 1.0, left, own, Threads::One);
    }

    /// `into <- into + weights^T rows`, for the keys of prefix and own, `into` being `[cluster keys, dim]`.
    fn gather(&self, into: &mut [f32], weights: &[f32], block: &Block<'_>, rows: View<'_>) {
        let (width, dim) = (block.width(), self.heads.dim);
        for (keys, skip) in block.keys.iter().zip([0, block.keys[0].len()]) {
            if !keys.is_empty() {
                let left = View::strided(&weights[skip..], block.count, keys.len(), width).t();
                let target = &mut into[(keys.start - self.cluster.keys.start) * dim..];
                product(Target { values: target, stride: dim }, 1.0, 1.0, left, rows, Threads::One);
            }
        }
    }

    /// Gradients of the task's queries, keys and values.
    fn backward(&self, [q, k, v]: [&[f32]; 3], out: &[f32], upstream: &[f32]) -> [Vec<f32>; 3] {
        let dim = self.heads.dim;
        let scale = self.how.scale as f32;
        let mut dq = vec![0.0; self.cluster.queries.len() * self.group() * dim];
        let mut dk = vec![0.0; self.cluster.keys.len() * dim];
        let mut dv = dk.clone();
        let (mut weights, mut cap_slopes, mut slopes) = (Vec::new(), Vec::new(), Vec::new());
        for block in self.blocks() {
            self.weights(&mut weights, Some(&mut cap_slopes), &block, [q, k]);
            let d_out = self.queries(upstream, &block);
            self.gather(&mut dv, &weights, &block, d_out);

            let width = block.width();
            slopes.resize(block.count * width, 0.0);
            self.against(&mut slopes, &block, 1.0, d_out, self.keys(v, &block));
            let result = self.queries(out, &block);
            vectorised(
                #[inline(always)]
                || {
                    let rows = slopes.chunks_exact_mut(width).zip(weights.chunks_exact(width));
                    for (i, (slopes, weights)) in rows.enumerate() {
                        let start = i * d_out.row_stride;
                        // sum_k weight_k * slope_k, by way of the result: dim products instead of keys.
                        let mean = dot(&d_out.values[start..start + dim], &result.values[start..start + dim]);
                        for (s, w) in slopes.iter_mut().zip(weights) {
                            *s = w * (*s - mean) * scale;
                        }
                    }
                },
            );
            if self.how.cap.is_some() {
                slopes.iter_mut().zip(&cap_slopes).for_each(|(s, c)| *s *= c);
            }
            self.spread(self.target(&mut dq, &block), &slopes, &block, 0.0, self.keys(k, &block));
            self.gather(&mut dk, &slopes, &block, self.queries(q, &block));
        }
        [dq, dk, dv]
    }
}

/// Puts the tasks' columns, `[rows of the task, width]` each, where they belong.
fn assemble<'a>(
    rows: usize,
    columns: usize,
    parts: impl Iterator<Item = (usize, usize, &'a [f32], usize)>,
) -> Result<Tensor> {
    let mut out = vec![0.0; rows * columns];
    for (first_row, first_column, part, width) in parts {
        let targets = out[first_row * columns..].chunks_exact_mut(columns);
        for (target, row) in targets.zip(part.chunks_exact(width)) {
            target[first_column..first_column + width].copy_from_slice(row);
        }
    }
    Tensor::from_vec(out, (rows, columns), &Device::Cpu)
}

fn assemble_queries(rows: usize, tasks: &[Task<'_>], heads: Heads, parts: &[Vec<f32>]) -> Result<Tensor> {
    let placed = tasks.iter().zip(parts).map(|(task, part)| {
        let width = task.group() * heads.dim;
        (task.cluster.queries.start, task.kv_head * width, &part[..], width)
    });
    assemble(rows, heads.heads * heads.dim, placed)
}

fn assemble_keys(rows: usize, tasks: &[Task<'_>], heads: Heads, parts: &[Vec<f32>]) -> Result<Tensor> {
    let placed = tasks
        .iter()
        .zip(parts)
        .map(|(task, part)| (task.cluster.keys.start, task.kv_head * heads.dim, &part[..], heads.dim));
    assemble(rows, heads.kv_heads * heads.dim, placed)
}

pub(super) fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    how: &Attention,
    clusters: &[Cluster],
) -> Result<Tensor> {
    let rows = q.dim(0)?;
    let (q, k, v) = (Values::of(q)?, Values::of(k)?, Values::of(v)?);
    let (q, k, v): (&[f32], &[f32], &[f32]) = (&q, &k, &v);
    let tasks = tasks(clusters, how);
    let parts: Vec<_> = tasks.par_iter().map(|task| task.forward(q, k, v)).collect();
    assemble_queries(rows, &tasks, how.heads, &parts)
}

pub(super) fn attention_backward(
    [q, k, v]: [&Tensor; 3],
    out: &Tensor,
    upstream: &Tensor,
    how: &Attention,
    clusters: &[Cluster],
) -> Result<[Tensor; 3]> {
    let (query_rows, key_rows) = (q.dim(0)?, k.dim(0)?);
    let (q, k, v) = (Values::of(q)?, Values::of(k)?, Values::of(v)?);
    let (out, upstream) = (Values::of(out)?, Values::of(upstream)?);
    let (q, k, v): (&[f32], &[f32], &[f32]) = (&q, &k, &v);
    let (out, upstream): (&[f32], &[f32]) = (&out, &upstream);
    let tasks = tasks(clusters, how);
    let parts: Vec<_> = tasks.par_iter().map(|task| task.backward([q, k, v], out, upstream)).collect();
    let (mut dq, mut dk, mut dv) = (Vec::new(), Vec::new(), Vec::new());
    for [q, k, v] in parts {
        dq.push(q);
        dk.push(k);
        dv.push(v);
    }
    Ok([
        assemble_queries(query_rows, &tasks, how.heads, &dq)?,
        assemble_keys(key_rows, &tasks, how.heads, &dk)?,
        assemble_keys(key_rows, &tasks, how.heads, &dv)?,
    ])
}
