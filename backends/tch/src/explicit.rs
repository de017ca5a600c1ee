//! Attention spelled out, in f32: second derivatives need it, which the fused kernels do not have. Every
//! operation is out of place, or writes to what no other still needs.

use spo_transformer::{Cluster, Heads, Span};
use tch::{Kind, Tensor};

use crate::attention::{scale, spans, visible};
use crate::tensor::{Outcome, rows};

/// `[rows, heads * dim]` as `[kv_heads, group * rows, dim]`: the queries that share a key side by side.
fn queries(x: &Tensor, heads: Heads) -> Outcome<Tensor> {
    let (kv, group, dim) = (heads.kv_heads as i64, (heads.heads / heads.kv_heads) as i64, heads.dim as i64);
    let x = x.f_to_kind(Kind::Float)?.f_view((-1, kv, group, dim))?;
    x.f_permute([1, 2, 0, 3])?.f_reshape([kv, -1, dim])
}

/// Back again.
fn by_row(x: &Tensor, heads: Heads) -> Outcome<Tensor> {
    let (kv, group, dim) = (heads.kv_heads as i64, (heads.heads / heads.kv_heads) as i64, heads.dim as i64);
    let x = x.f_view((kv, group, -1, dim))?.f_permute([2, 0, 1, 3])?;
    x.f_reshape([-1, kv * group * dim])
}

/// `[rows, kv_heads * dim]` as `[kv_heads, rows, dim]`.
fn keys(x: &Tensor, heads: Heads) -> Outcome<Tensor> {
    let x = x.f_to_kind(Kind::Float)?.f_view((-1, heads.kv_heads as i64, heads.dim as i64))?;
    x.f_transpose(0, 1)
}

/// How much each query attends to each key, `[kv_heads, group * queries, keys]`.
fn weights(q: &Tensor, k: &Tensor, span: &Span, heads: Heads) -> Outcome<Tensor> {
    let scores = q.f_bmm(&k.f_transpose(1, 2)?)?.f_mul_scalar(scale(heads))?;
    if span.queries.len() == 1 {
        return scores.f_softmax(-1, Kind::Float);
    }
    let (n, m) = (span.queries.len() as i64, k.size()[1]);
    let hidden = Tensor::f_ones([n, m], (Kind::Bool, q.device()))?.f_triu(m - n + 1)?;
    let scores = scores.f_view((heads.kv_heads as i64, -1, n, m))?;
    let scores = scores.f_masked_fill(&hidden, f64::NEG_INFINITY)?;
    scores.f_softmax(-1, Kind::Float)?.f_view((heads.kv_heads as i64, -1, m))
}

pub(crate) fn attention([q, k, v]: [&Tensor; 3], heads: Heads, clusters: &[Cluster]) -> Outcome<Tensor> {
    let mut parts = Vec::new();
    for span in spans(clusters) {
        let queries = queries(&rows(q, &span.queries)?, heads)?;
        let (k, v) = (keys(&visible(k, span)?, heads)?, keys(&visible(v, span)?, heads)?);
        parts.push(by_row(&weights(&queries, &k, span, heads)?.f_bmm(&v)?, heads)?);
    }
    Tensor::f_cat(&parts, 0)?.f_to_kind(q.f_kind()?)
}

pub(crate) fn attention_backward(
    [q, k, v]: [&Tensor; 3],
    upstream: &Tensor,
    heads: Heads,
    clusters: &[Cluster],
) -> Outcome<[Tensor; 3]> {
    let [dk, dv] = [k.f_zeros_like()?, v.f_zeros_like()?];
    let mut dq = Vec::new();
    for span in spans(clusters) {
        let of_queries = |x: &Tensor| queries(&rows(x, &span.queries)?, heads);
        let of_keys = |x: &Tensor| keys(&visible(x, span)?, heads);
        let (queries, upstream) = (of_queries(q)?, of_queries(upstream)?);
        let (k, v) = (of_keys(k)?, of_keys(v)?);
        let p = weights(&queries, &k, span, heads)?;
        let dp = upstream.f_bmm(&v.f_transpose(1, 2)?)?;
        let centre = dp.f_mul(&p)?.f_sum_dim_intlist(-1, true, Kind::Float)?;
        let slopes = dp.f_sub(&centre)?.f_mul(&p)?.f_mul_scalar(scale(heads))?;
        dq.push(by_row(&slopes.f_bmm(&k)?, heads)?);
        let shared = span.prefix.len();
        for (into, found) in
            [(&dk, slopes.f_transpose(1, 2)?.f_bmm(&queries)?), (&dv, p.f_transpose(1, 2)?.f_bmm(&upstream)?)]
        {
            let found = found.f_transpose(0, 1)?.f_flatten(1, 2)?.f_to_kind(into.f_kind()?)?;
            let _ = rows(into, &span.prefix)?.f_add_(&rows(&found, &(0..shared))?)?;
            let _ = rows(into, &span.own)?.f_add_(&rows(&found, &(shared..shared + span.own.len()))?)?;
        }
    }
    Ok([Tensor::f_cat(&dq, 0)?.f_to_kind(q.f_kind()?)?, dk, dv])
}
