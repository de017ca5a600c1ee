//! Attention, a span of queries at a time, by libtorch's scaled dot-product attention.

use spo_transformer::{Cluster, Heads, Span};
use tch::{Device, Kind, Tensor};

use crate::shim::{self, Sight};
use crate::tensor::{Outcome, rows};

/// `[rows, heads * dim]` as `[1, heads, rows, dim]`.
fn by_head(x: &Tensor, heads: usize, dim: usize) -> Outcome<Tensor> {
    x.f_view((1, -1, heads as i64, dim as i64))?.f_transpose(1, 2)
}

/// Back again.
fn by_row(x: &Tensor) -> Outcome<Tensor> {
    x.f_squeeze_dim(0)?.f_transpose(0, 1)?.f_flatten(1, 2)
}

/// The keys or values of a span: those of the prefix, then its own.
pub(crate) fn visible(x: &Tensor, span: &Span) -> Outcome<Tensor> {
    let own = rows(x, &span.own)?;
    if span.prefix.is_empty() {
        return Ok(own);
    }
    if span.prefix.end == span.own.start {
        return rows(x, &(span.prefix.start..span.own.end));
    }
    Tensor::f_cat(&[rows(x, &span.prefix)?, own], 0)
}

/// Which of the visible keys each query of a span sees, if a mask must say so.
fn mask(span: &Span, device: Device) -> Outcome<Option<Tensor>> {
    let (queries, keys) = (span.queries.len() as i64, (span.prefix.len() + span.own.len()) as i64);
    if queries == 1 || queries == keys {
        return Ok(None);
    }
    Tensor::f_ones([queries, keys], (Kind::Bool, device))?.f_tril(keys - queries).map(Some)
}

fn sight<'a>(span: &Span, mask: Option<&'a Tensor>) -> Sight<'a> {
    match mask {
        Some(mask) => Sight::Masked(mask),
        None if span.queries.len() == 1 => Sight::Full,
        None => Sight::Causal,
    }
}

pub(crate) fn scale(heads: Heads) -> f64 {
    1.0 / (heads.dim as f64).sqrt()
}

pub(crate) fn spans(clusters: &[Cluster]) -> impl Iterator<Item = &Span> {
    clusters.iter().flat_map(|cluster| &cluster.spans)
}

pub(crate) fn attention([q, k, v]: [&Tensor; 3], heads: Heads, clusters: &[Cluster]) -> Outcome<Tensor> {
    let out = q.f_empty_like()?;
    for span in spans(clusters) {
        let mask = mask(span, q.device())?;
        let queries = by_head(&rows(q, &span.queries)?, heads.heads, heads.dim)?;
        let [keys, values] = [
            by_head(&visible(k, span)?, heads.kv_heads, heads.dim)?,
            by_head(&visible(v, span)?, heads.kv_heads, heads.dim)?,
        ];
        let attended =
            shim::attention([&queries, &keys, &values], &sight(span, mask.as_ref()), scale(heads))?;
        rows(&out, &span.queries)?.f_copy_(&by_row(&attended)?)?;
    }
    Ok(out)
}

pub(crate) fn attention_backward(
    [q, k, v]: [&Tensor; 3],
    upstream: &Tensor,
    heads: Heads,
    clusters: &[Cluster],
) -> Outcome<[Tensor; 3]> {
    let [dq, dk, dv] = [q.f_empty_like()?, k.f_zeros_like()?, v.f_zeros_like()?];
    for span in spans(clusters) {
        let mask = mask(span, q.device())?;
        let of_queries = |x: &Tensor| by_head(&rows(x, &span.queries)?, heads.heads, heads.dim);
        let of_keys = |x: &Tensor| by_head(&visible(x, span)?, heads.kv_heads, heads.dim);
        let [d_queries, d_keys, d_values] = shim::attention_backward(
            [&of_queries(q)?, &of_keys(k)?, &of_keys(v)?],
            &sight(span, mask.as_ref()),
            scale(heads),
            &of_queries(upstream)?,
        )?;
        rows(&dq, &span.queries)?.f_copy_(&by_row(&d_queries)?)?;
        let shared = span.prefix.len();
        for (into, found) in [(&dk, by_row(&d_keys)?), (&dv, by_row(&d_values)?)] {
            let _ = rows(into, &span.prefix)?.f_add_(&rows(&found, &(0..shared))?)?;
            let _ = rows(into, &span.own)?.f_add_(&rows(&found, &(shared..shared + span.own.len()))?)?;
        }
    }
    Ok([dq, dk, dv])
}
