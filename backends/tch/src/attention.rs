//! Attention, a span of queries at a time, by libtorch's scaled dot-product attention.

use std::ops::Range;

use spo_transformer::{Attention, Cluster, Span};
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

/// The keys of a span that any of its queries sees: of the prefix, and of its own.
pub(crate) fn visible(how: &Attention, span: &Span) -> [Range<usize>; 2] {
    let (first, shared) = (how.visible(span, 0).start, span.prefix.len());
    let own = span.own.start + first.max(shared) - shared..span.own.end;
    [span.prefix.start + first.min(shared)..span.prefix.end, own]
}

/// Rows of keys or values, those of the prefix before a span's own.
pub(crate) fn of_keys(x: &Tensor, [prefix, own]: &[Range<usize>; 2]) -> Outcome<Tensor> {
    if prefix.is_empty() {
        return rows(x, own);
    }
    if prefix.end == own.start {
        return rows(x, &(prefix.start..own.end));
    }
    Tensor::f_cat(&[rows(x, prefix)?, rows(x, own)?], 0)
}

/// Adds gradients of these rows.
pub(crate) fn add_to_keys(into: &Tensor, [prefix, own]: &[Range<usize>; 2], found: &Tensor) -> Outcome<()> {
    let shared = prefix.len();
    let _ = rows(into, prefix)?.f_add_(&rows(found, &(0..shared))?)?;
    let _ = rows(into, own)?.f_add_(&rows(found, &(shared..shared + own.len()))?)?;
    Ok(())
}

/// Which of its visible keys each query of a span sees, if a mask must say so.
fn mask(how: &Attention, span: &Span, device: Device) -> Outcome<Option<Tensor>> {
    let queries = span.queries.len();
    let keys: usize = visible(how, span).iter().map(Range::len).sum();
    let slides = how.window.is_some_and(|window| window < keys);
    if queries == 1 || (queries == keys && !slides) {
        return Ok(None);
    }
    seen(how, span, device).map(Some)
}

/// The same as a matrix of truth values.
pub(crate) fn seen(how: &Attention, span: &Span, device: Device) -> Outcome<Tensor> {
    let (queries, end) = (span.queries.len() as i64, how.visible(span, span.queries.len() - 1).end as i64);
    let keys = end - how.visible(span, 0).start as i64;
    let seen = Tensor::f_ones([queries, keys], (Kind::Bool, device))?.f_tril(keys - queries)?;
    match how.window {
        Some(window) => seen.f_triu(keys - queries + 1 - window.min(end as usize) as i64),
        None => Ok(seen),
    }
}

fn sight<'a>(span: &Span, mask: Option<&'a Tensor>) -> Sight<'a> {
    match mask {
        Some(mask) => Sight::Masked(mask),
        None if span.queries.len() == 1 => Sight::Full,
        None => Sight::Causal,
    }
}

pub(crate) fn spans(clusters: &[Cluster]) -> impl Iterator<Item = &Span> {
    clusters.iter().flat_map(|cluster| &cluster.spans)
}

pub(crate) fn attention([q, k, v]: [&Tensor; 3], how: &Attention, clusters: &[Cluster]) -> Outcome<Tensor> {
    let (out, heads) = (q.f_empty_like()?, how.heads);
    for span in spans(clusters) {
        let (mask, visible) = (mask(how, span, q.device())?, visible(how, span));
        let queries = by_head(&rows(q, &span.queries)?, heads.heads, heads.dim)?;
        let [keys, values] = [
            by_head(&of_keys(k, &visible)?, heads.kv_heads, heads.dim)?,
            by_head(&of_keys(v, &visible)?, heads.kv_heads, heads.dim)?,
        ];
        let attended = shim::attention([&queries, &keys, &values], &sight(span, mask.as_ref()), how.scale)?;
        rows(&out, &span.queries)?.f_copy_(&by_row(&attended)?)?;
    }
    Ok(out)
}

pub(crate) fn attention_backward(
    [q, k, v]: [&Tensor; 3],
    upstream: &Tensor,
    how: &Attention,
    clusters: &[Cluster],
) -> Outcome<[Tensor; 3]> {
    let heads = how.heads;
    let [dq, dk, dv] = [q.f_empty_like()?, k.f_zeros_like()?, v.f_zeros_like()?];
    for span in spans(clusters) {
        let (mask, visible) = (mask(how, span, q.device())?, visible(how, span));
        let of_queries = |x: &Tensor| by_head(&rows(x, &span.queries)?, heads.heads, heads.dim);
        let of_keys = |x: &Tensor| by_head(&of_keys(x, &visible)?, heads.kv_heads, heads.dim);
        let [d_queries, d_keys, d_values] = shim::attention_backward(
            [&of_queries(q)?, &of_keys(k)?, &of_keys(v)?],
            &sight(span, mask.as_ref()),
            how.scale,
            &of_queries(upstream)?,
        )?;
        rows(&dq, &span.queries)?.f_copy_(&by_row(&d_queries)?)?;
        add_to_keys(&dk, &visible, &by_row(&d_keys)?)?;
        add_to_keys(&dv, &visible, &by_row(&d_values)?)?;
    }
    Ok([dq, dk, dv])
}
