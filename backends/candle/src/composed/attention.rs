//! Attention, a cluster at a time, in f32.

use candle_core::{D, DType, Result, Tensor};
use spo_transformer::{Attention, Cluster, Heads, Span};

use super::head::capped;
use super::vjp::vjp;
use crate::memory::rows;

/// 0 where a query of the cluster sees a key, -inf where it does not.
fn mask(how: &Attention, cluster: &Cluster, like: &Tensor) -> Result<Tensor> {
    let (queries, keys) = (cluster.queries.len(), cluster.keys.len());
    let mut mask = vec![f32::NEG_INFINITY; queries * keys];
    for span in &cluster.spans {
        let Span { queries: rows, prefix, own } = span;
        for (i, row) in rows.clone().enumerate() {
            let visible = how.visible(span, i);
            let keys_of_span = prefix.clone().chain(own.clone());
            for key in keys_of_span.skip(visible.start).take(visible.len()) {
                mask[(row - cluster.queries.start) * keys + key - cluster.keys.start] = 0.0;
            }
        }
    }
    Tensor::from_vec(mask, (1, 1, queries, keys), like.device())
}

/// The attention of one cluster, whose rows are all there is of q, k and v.
fn cluster_attention([q, k, v]: [&Tensor; 3], how: &Attention, mask: &Tensor) -> Result<Tensor> {
    let Heads { heads, kv_heads, dim } = how.heads;
    let ((n, _), (m, _), group) = (q.dims2()?, k.dims2()?, heads / kv_heads);
    let q32 = q.to_dtype(DType::F32)?.reshape((n, kv_heads, group, dim))?;
    let q32 = q32.permute((1, 2, 0, 3))?.contiguous()?.reshape((kv_heads, group * n, dim))?;
    let by_head =
        |x: &Tensor| x.to_dtype(DType::F32)?.reshape((m, kv_heads, dim))?.transpose(0, 1)?.contiguous();
    let scores = capped((q32.matmul(&by_head(k)?.t()?)? * how.scale)?, how.cap)?;
    let scores = scores.reshape((kv_heads, group, n, m))?.broadcast_add(mask)?;
    // The maximum is a constant for the gradient: it cancels.
    let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
    let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
    let out = weights.reshape((kv_heads, group * n, m))?.matmul(&by_head(v)?)?;
    let out = out.reshape((kv_heads, group, n, dim))?.permute((2, 0, 1, 3))?.contiguous()?;
    out.reshape((n, heads * dim))?.to_dtype(q.dtype())
}

pub(super) fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    how: &Attention,
    clusters: &[Cluster],
) -> Result<Tensor> {
    let mut parts = Vec::with_capacity(clusters.len());
    for c in clusters {
        let (q, k, v) = (rows(q, &c.queries)?, rows(k, &c.keys)?, rows(v, &c.keys)?);
        parts.push(cluster_attention([&q, &k, &v], how, &mask(how, c, &q)?)?);
    }
    Tensor::cat(&parts, 0)
}

pub(super) fn attention_backward(
    [q, k, v]: [&Tensor; 3],
    upstream: &Tensor,
    how: &Attention,
    clusters: &[Cluster],
) -> Result<[Tensor; 3]> {
    let (mut dq, mut dk, mut dv) = (Vec::new(), Vec::new(), Vec::new());
    for c in clusters {
        let (q, k, v) = (rows(q, &c.queries)?, rows(k, &c.keys)?, rows(v, &c.keys)?);
        let (upstream, mask) = (rows(upstream, &c.queries)?, mask(how, c, &q)?);
        let [q, k, v] = vjp([&q, &k, &v], &upstream, |qkv| cluster_attention(qkv, how, &mask))?;
        dq.push(q);
        dk.push(k);
        dv.push(v);
    }
    Ok([Tensor::cat(&dq, 0)?, Tensor::cat(&dk, 0)?, Tensor::cat(&dv, 0)?])
}
