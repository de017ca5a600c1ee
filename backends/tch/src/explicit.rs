//! Attention spelled out, in f32: for second derivatives and capped scores, which the fused kernels do not
//! have. Every operation is out of place, or writes to what no other still needs.

use spo_transformer::{Attention, Cluster, Heads, Span};
use tch::{Kind, Tensor};

use crate::attention::{add_to_keys, of_keys, seen, spans, visible};
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

/// How much each query attends to each key, `[kv_heads, group * queries, keys]`, and the derivatives of the
/// caps of the scores.
fn weights(q: &Tensor, k: &Tensor, span: &Span, how: &Attention) -> Outcome<(Tensor, Option<Tensor>)> {
    let mut scores = q.f_bmm(&k.f_transpose(1, 2)?)?.f_mul_scalar(how.scale)?;
    let mut cap_slopes = None;
    if let Some(cap) = how.cap {
        let tanh = scores.f_div_scalar(cap)?.f_tanh()?;
        cap_slopes = Some(tanh.f_square()?.f_neg()?.f_add_scalar(1.0)?);
        scores = tanh.f_mul_scalar(cap)?;
    }
    if span.queries.len() == 1 {
        return Ok((scores.f_softmax(-1, Kind::Float)?, cap_slopes));
    }
    let (n, m) = (span.queries.len() as i64, k.size()[1]);
    let hidden = seen(how, span, q.device())?.f_logical_not()?;
    let scores = scores.f_view((how.heads.kv_heads as i64, -1, n, m))?;
    let scores = scores.f_masked_fill(&hidden, f64::NEG_INFINITY)?;
    let weights = scores.f_softmax(-1, Kind::Float)?.f_view((how.heads.kv_heads as i64, -1, m))?;
    Ok((weights, cap_slopes))
}

pub(crate) fn attention([q, k, v]: [&Tensor; 3], how: &Attention, clusters: &[Cluster]) -> Outcome<Tensor> {
    let mut parts = Vec::new();
    for span in spans(clusters) {
        let visible = visible(how, span);
        let queries = queries(&rows(q, &span.queries)?, how.heads)?;
        let (k, v) = (keys(&of_keys(k, &visible)?, how.heads)?, keys(&of_keys(v, &visible)?, how.heads)?);
        let (weights, _) = weights(&queries, &k, span, how)?;
        parts.push(by_row(&weights.f_bmm(&v)?, how.heads)?);
    }
    Tensor::f_cat(&parts, 0)?.f_to_kind(q.f_kind()?)
}

pub(crate) fn attention_backward(
    [q, k, v]: [&Tensor; 3],
    upstream: &Tensor,
    how: &Attention,
    clusters: &[Cluster],
) -> Outcome<[Tensor; 3]> {
    let heads = how.heads;
    let [dk, dv] = [k.f_zeros_like()?, v.f_zeros_like()?];
    let mut dq = Vec::new();
    for span in spans(clusters) {
        let visible = visible(how, span);
        let of_queries = |x: &Tensor| queries(&rows(x, &span.queries)?, heads);
        let of_keys = |x: &Tensor| keys(&of_keys(x, &visible)?, heads);
        let (queries, upstream) = (of_queries(q)?, of_queries(upstream)?);
        let (k, v) = (of_keys(k)?, of_keys(v)?);
        let (p, cap_slopes) = weights(&queries, &k, span, how)?;
        let dp = upstream.f_bmm(&v.f_transpose(1, 2)?)?;
        let centre = dp.f_mul(&p)?.f_sum_dim_intlist(-1, true, Kind::Float)?;
        let mut slopes = dp.f_sub(&centre)?.f_mul(&p)?.f_mul_scalar(how.scale)?;
        if let Some(cap_slopes) = cap_slopes {
            slopes = slopes.f_mul(&cap_slopes)?;
        }
        dq.push(by_row(&slopes.f_bmm(&k)?, heads)?);
        for (into, found) in
            [(&dk, slopes.f_transpose(1, 2)?.f_bmm(&queries)?), (&dv, p.f_transpose(1, 2)?.f_bmm(&upstream)?)]
        {
            let found = found.f_transpose(0, 1)?.f_flatten(1, 2)?.f_to_kind(into.f_kind()?)?;
            add_to_keys(into, &visible, &found)?;
        }
    }
    Ok([Tensor::f_cat(&dq, 0)?.f_to_kind(q.f_kind()?)?, dk, dv])
}
