//! The operations composed of candle's own: for every device and type, and the oracle of the fused ones.
//!
//! Gradients come from candle's own backward pass through a second forward of the one operation. None of
//! candle's fused operations is used: several of them lose the gradient without a word.

use candle_core::{D, DType, Result, Tensor, Var};
use spo_api::Statistics;
use spo_transformer::{Activation, AdamWStep, Cluster, HeadScores, Heads, Norm, NormKind, Rotation, Span};

/// Logits held at a time.
const LOGITS: usize = 1 << 24;

/// Vector-Jacobian product of `f` at `inputs`.
fn vjp<const N: usize>(
    inputs: [&Tensor; N],
    upstream: &Tensor,
    f: impl Fn([&Tensor; N]) -> Result<Tensor>,
) -> Result<[Tensor; N]> {
    let variables = inputs.map(Var::from_tensor);
    let mut leaves = Vec::with_capacity(N);
    for variable in variables {
        leaves.push(variable?);
    }
    let leaves: [Var; N] = leaves.try_into().expect("one leaf per input");
    let y = f(leaves.each_ref().map(|leaf| leaf.as_tensor()))?;
    let gradients = (y * upstream)?.sum_all()?.backward()?;
    let mut results = Vec::with_capacity(N);
    for leaf in &leaves {
        results.push(match gradients.get(leaf) {
            Some(gradient) => gradient.clone(),
            None => candle_core::bail!("an operation of candle lost its gradient"),
        });
    }
    Ok(results.try_into().expect("one gradient per input"))
}

/// `into <- value`, whatever the types.
pub(crate) fn copy(into: &Tensor, value: &Tensor) -> Result<()> {
    into.slice_set(&value.to_dtype(into.dtype())?.contiguous()?, 0, 0)
}

/// The values of a tensor, a stretch at a time: what is computed of them then needs little memory.
fn stretches(x: &Tensor) -> Result<Vec<Tensor>> {
    const LONGEST: usize = 1 << 24;
    if !x.is_contiguous() {
        candle_core::bail!("a vector operation was given a tensor that is not contiguous");
    }
    let (x, n) = (x.flatten_all()?, x.elem_count());
    (0..n).step_by(LONGEST).map(|start| x.narrow(0, start, LONGEST.min(n - start))).collect()
}

pub(crate) fn scale(into: &Tensor, a: f64) -> Result<()> {
    for into in stretches(into)? {
        copy(&into, &if a == 0.0 { into.zeros_like()? } else { into.affine(a, 0.0)? })?;
    }
    Ok(())
}

pub(crate) fn axpy(into: &Tensor, a: f64, x: &Tensor) -> Result<()> {
    for (into, x) in stretches(into)?.iter().zip(stretches(&x.contiguous()?)?) {
        copy(into, &(into + (x.to_dtype(into.dtype())? * a)?)?)?;
    }
    Ok(())
}

/// Sums of short runs of products in f32, added in f64 by the host: not every device has f64.
pub(crate) fn dot(x: &Tensor, y: &Tensor) -> Result<f64> {
    const RUN: usize = 256;
    let mut total = 0.0;
    for (x, y) in stretches(x)?.iter().zip(stretches(y)?) {
        let products = (x.to_dtype(DType::F32)? * y.to_dtype(DType::F32)?)?;
        let n = products.elem_count();
        let whole = n / RUN * RUN;
        let sums = products.narrow(0, 0, whole)?.reshape((n / RUN, RUN))?.sum(1)?.to_vec1::<f32>()?;
        let rest = products.narrow(0, whole, n - whole)?.to_vec1::<f32>()?;
        total += sums.into_iter().chain(rest).map(f64::from).sum::<f64>();
    }
    Ok(total)
}

pub(crate) fn adamw(
    into: &Tensor,
    gradient: &Tensor,
    [first, second]: [&Tensor; 2],
    step: &AdamWStep,
) -> Result<()> {
    let h = &step.hyper;
    let count = step.count as f64;
    let g = (gradient * h.gradient_scale)?;
    copy(first, &((first * h.beta1)? + (&g * (1.0 - h.beta1))?)?)?;
    copy(second, &((second * h.beta2)? + (g.sqr()? * (1.0 - h.beta2))?)?)?;
    let [c1, c2] = [h.beta1, h.beta2].map(|beta| 1.0 - beta.powf(count));
    let denominator = ((second.sqrt()? / c2.sqrt())? + h.epsilon)?;
    let update = ((first / denominator)? * (h.lr / c1))?;
    copy(into, &((into * (1.0 - h.lr * step.weight_decay))? - update)?)
}

fn index(ids: &[u32], like: &Tensor) -> Result<Tensor> {
    Tensor::new(ids, like.device())
}

pub(crate) fn gather(table: &Tensor, ids: &[u32], dtype: DType) -> Result<Tensor> {
    table.index_select(&index(ids, table)?, 0)?.to_dtype(dtype)
}

pub(crate) fn scatter_add(into: &Tensor, ids: &[u32], x: &Tensor) -> Result<()> {
    let x = x.to_dtype(into.dtype())?;
    copy(into, &into.index_add(&index(ids, into)?, &x, 0)?)
}

/// A product in the type `dtype`, as autocast has it.
pub(crate) fn matmul(a: &Tensor, b: &Tensor, dtype: DType) -> Result<Tensor> {
    a.to_dtype(dtype)?.matmul(&b.to_dtype(dtype)?)
}

pub(crate) fn linear(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, dtype: DType) -> Result<Tensor> {
    let y = matmul(x, &w.t()?, dtype)?;
    match bias {
        Some(bias) => y.broadcast_add(&bias.to_dtype(dtype)?),
        None => Ok(y),
    }
}

pub(crate) fn sum_rows_add(into: &Tensor, x: &Tensor) -> Result<()> {
    axpy(into, 1.0, &x.to_dtype(DType::F32)?.sum(0)?)
}

/// `x` in f32, in rows of `width`.
fn rows(x: &Tensor, width: usize) -> Result<Tensor> {
    x.to_dtype(DType::F32)?.reshape((x.elem_count() / width, width))
}

/// The part of a norm that has no parameters.
fn normalised(x: &Tensor, kind: NormKind, epsilon: f64) -> Result<Tensor> {
    let x = if kind.centred() { x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)? } else { x.clone() };
    x.broadcast_div(&(x.sqr()?.mean_keepdim(D::Minus1)? + epsilon)?.sqrt()?)
}

pub(crate) fn norm(x: &Tensor, norm: Norm<&Tensor>) -> Result<Tensor> {
    let Norm { kind, epsilon, weight, bias } = norm;
    let normed = normalised(&rows(x, weight.dim(0)?)?, kind, epsilon)?;
    let mut y = normed.broadcast_mul(&weight.to_dtype(DType::F32)?)?;
    if let Some(bias) = bias {
        y = y.broadcast_add(&bias.to_dtype(DType::F32)?)?;
    }
    y.to_dtype(x.dtype())?.reshape(x.shape())
}

pub(crate) fn norm_backward(
    x: &Tensor,
    norm: Norm<&Tensor>,
    upstream: &Tensor,
    [d_weight, d_bias]: [Option<&Tensor>; 2],
) -> Result<Tensor> {
    let Norm { kind, epsilon, weight, .. } = norm;
    let width = weight.dim(0)?;
    let (x32, d) = (rows(x, width)?, rows(upstream, width)?);
    if let Some(d_weight) = d_weight {
        sum_rows_add(d_weight, &(&d * normalised(&x32, kind, epsilon)?)?)?;
    }
    if let Some(d_bias) = d_bias {
        sum_rows_add(d_bias, &d)?;
    }
    let pulled = d.broadcast_mul(&weight.to_dtype(DType::F32)?)?;
    let [dx] = vjp([&x32], &pulled, |[x]| normalised(x, kind, epsilon))?;
    dx.to_dtype(x.dtype())?.reshape(x.shape())
}

pub(crate) fn rope(x: &Tensor, rotation: &Rotation<Tensor>, back: bool) -> Result<Tensor> {
    let (n, width) = x.dims2()?;
    let half = rotation.cos.dim(1)?;
    let table = |t: &Tensor| t.to_dtype(x.dtype())?.reshape((n, 1, half));
    let (cos, sin) = (table(&rotation.cos)?, table(&rotation.sin)?);
    let sin = if back { sin.neg()? } else { sin };
    let heads = x.reshape((n, width / (2 * half), 2 * half))?;
    let (x1, x2) = (heads.narrow(2, 0, half)?, heads.narrow(2, half, half)?);
    let y1 = (x1.broadcast_mul(&cos)? - x2.broadcast_mul(&sin)?)?;
    let y2 = (x2.broadcast_mul(&cos)? + x1.broadcast_mul(&sin)?)?;
    Tensor::cat(&[y1, y2], 2)?.reshape((n, width))
}

/// 0 where a query of the cluster sees a key, -inf where it does not.
fn mask(cluster: &Cluster, like: &Tensor) -> Result<Tensor> {
    let (queries, keys) = (cluster.queries.len(), cluster.keys.len());
    let mut mask = vec![f32::NEG_INFINITY; queries * keys];
    for Span { queries: rows, prefix, own } in &cluster.spans {
        for (i, row) in rows.clone().enumerate() {
            let visible = own.start..own.end + i + 1 - rows.len();
            for key in prefix.clone().chain(visible) {
                mask[(row - cluster.queries.start) * keys + key - cluster.keys.start] = 0.0;
            }
        }
    }
    Tensor::from_vec(mask, (1, 1, queries, keys), like.device())
}

/// The attention of one cluster, whose rows are all there is of q, k and v.
fn cluster_attention([q, k, v]: [&Tensor; 3], heads: Heads, mask: &Tensor) -> Result<Tensor> {
    let Heads { heads, kv_heads, dim } = heads;
    let ((n, _), (m, _), group) = (q.dims2()?, k.dims2()?, heads / kv_heads);
    let q32 = q.to_dtype(DType::F32)?.reshape((n, kv_heads, group, dim))?;
    let q32 = q32.permute((1, 2, 0, 3))?.contiguous()?.reshape((kv_heads, group * n, dim))?;
    let by_head =
        |x: &Tensor| x.to_dtype(DType::F32)?.reshape((m, kv_heads, dim))?.transpose(0, 1)?.contiguous();
    let scores = (q32.matmul(&by_head(k)?.t()?)? * (1.0 / (dim as f64).sqrt()))?;
    let scores = scores.reshape((kv_heads, group, n, m))?.broadcast_add(mask)?;
    // The maximum is a constant for the gradient: it cancels.
    let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
    let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
    let out = weights.reshape((kv_heads, group * n, m))?.matmul(&by_head(v)?)?;
    let out = out.reshape((kv_heads, group, n, dim))?.permute((2, 0, 1, 3))?.contiguous()?;
    out.reshape((n, heads * dim))?.to_dtype(q.dtype())
}

fn of_cluster(x: &Tensor, rows: &std::ops::Range<usize>) -> Result<Tensor> {
    x.narrow(0, rows.start, rows.len())
}

pub(crate) fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: Heads,
    clusters: &[Cluster],
) -> Result<Tensor> {
    let mut parts = Vec::with_capacity(clusters.len());
    for c in clusters {
        let (q, k, v) = (of_cluster(q, &c.queries)?, of_cluster(k, &c.keys)?, of_cluster(v, &c.keys)?);
        parts.push(cluster_attention([&q, &k, &v], heads, &mask(c, &q)?)?);
    }
    Tensor::cat(&parts, 0)
}

pub(crate) fn attention_backward(
    [q, k, v]: [&Tensor; 3],
    upstream: &Tensor,
    heads: Heads,
    clusters: &[Cluster],
) -> Result<[Tensor; 3]> {
    let (mut dq, mut dk, mut dv) = (Vec::new(), Vec::new(), Vec::new());
    for c in clusters {
        let (q, k, v) = (of_cluster(q, &c.queries)?, of_cluster(k, &c.keys)?, of_cluster(v, &c.keys)?);
        let (upstream, mask) = (of_cluster(upstream, &c.queries)?, mask(c, &q)?);
        let [q, k, v] = vjp([&q, &k, &v], &upstream, |qkv| cluster_attention(qkv, heads, &mask))?;
        dq.push(q);
        dk.push(k);
        dv.push(v);
    }
    Ok([Tensor::cat(&dq, 0)?, Tensor::cat(&dk, 0)?, Tensor::cat(&dv, 0)?])
}

fn sigmoid(x: &Tensor) -> Result<Tensor> {
    (x.neg()?.exp()? + 1.0)?.recip()
}

/// An activation of values in f32.
fn activated(f: Activation, x: &Tensor) -> Result<Tensor> {
    match f {
        Activation::Silu => x * sigmoid(x)?,
        // candle's own has its constants to six digits in the backward pass.
        Activation::GeluTanh => {
            let cubic = ((x.sqr()? * x)? * 0.044715)?;
            let tanh = ((x + cubic)? * (2.0 / std::f64::consts::PI).sqrt())?.tanh()?;
            (x * 0.5)? * (tanh + 1.0)?
        }
    }
}

pub(crate) fn activate(f: Activation, x: &Tensor) -> Result<Tensor> {
    activated(f, &x.to_dtype(DType::F32)?)?.to_dtype(x.dtype())
}

pub(crate) fn activate_backward(f: Activation, x: &Tensor, upstream: &Tensor) -> Result<Tensor> {
    let [dx] = vjp([x], upstream, |[x]| activate(f, x))?;
    Ok(dx)
}

pub(crate) fn gate(f: Activation, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    (activated(f, &gate.to_dtype(DType::F32)?)? * up.to_dtype(DType::F32)?)?.to_dtype(gate.dtype())
}

pub(crate) fn gate_backward(f: Activation, of: [&Tensor; 2], upstream: &Tensor) -> Result<[Tensor; 2]> {
    vjp(of, upstream, |[x, up]| gate(f, x, up))
}

/// Ranges of rows whose logits are held together.
fn chunks(rows: usize, vocabulary: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let at_once = (LOGITS / vocabulary).max(16);
    (0..rows).step_by(at_once).map(move |first| first..rows.min(first + at_once))
}

fn logits(hidden: &Tensor, head: &Tensor) -> Result<Tensor> {
    hidden.matmul(&head.to_dtype(hidden.dtype())?.t()?)?.to_dtype(DType::F32)
}

fn to_f64(x: &Tensor) -> Result<Vec<f64>> {
    Ok(x.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f64::from).collect())
}

pub(crate) fn score(
    hidden: &Tensor,
    head: &Tensor,
    targets: &[u32],
    statistics: Statistics,
) -> Result<HeadScores> {
    let mut scores = HeadScores::default();
    for rows in chunks(targets.len(), head.dim(0)?) {
        let targets = &targets[rows.clone()];
        let logits = logits(&of_cluster(hidden, &rows)?, head)?;
        let top = logits.max_keepdim(D::Minus1)?;
        let shifted = logits.broadcast_sub(&top)?;
        let exponentials = shifted.exp()?;
        let normalizer = exponentials.sum_keepdim(D::Minus1)?;
        let log_normalizer = normalizer.log()?;
        let own = shifted.gather(&index(targets, &logits)?.unsqueeze(1)?, 1)?;
        scores.log_probs.extend(to_f64(&(own - &log_normalizer)?)?);
        scores.log_normalizers.extend(to_f64(&(&log_normalizer + top)?)?);
        if statistics.entropy {
            let mean = ((&exponentials * shifted)?.sum_keepdim(D::Minus1)? / &normalizer)?;
            scores.entropy.extend(to_f64(&(&log_normalizer - mean)?)?);
        }
        if statistics.collision {
            let squares = exponentials.sqr()?.sum_keepdim(D::Minus1)?.log()?;
            scores.collision.extend(to_f64(&(squares - (log_normalizer * 2.0)?)?)?);
        }
        if statistics.greedy {
            let best = logits.argmax(D::Minus1)?.to_vec1::<u32>()?;
            scores.greedy.extend(best.iter().zip(targets).map(|(b, t)| f64::from(b == t)));
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
) -> Result<Tensor> {
    let device = hidden.device();
    let mut d_hidden = Vec::new();
    for rows in chunks(targets.len(), head.dim(0)?) {
        let n = rows.len();
        let column = |values: &[f64]| {
            let values = values[rows.clone()].iter().map(|&v| v as f32).collect();
            Tensor::from_vec(values, (n, 1), device)
        };
        let x = of_cluster(hidden, &rows)?;
        let softmax = logits(&x, head)?.broadcast_sub(&column(log_normalizers)?)?.exp()?;
        let weights = column(upstream)?;
        let slopes = softmax.broadcast_mul(&weights.neg()?)?;
        let own = index(&targets[rows.clone()], hidden)?.unsqueeze(1)?;
        let slopes = slopes.scatter_add(&own, &weights, 1)?;
        d_hidden.push(matmul(&slopes, head, hidden.dtype())?);
        if let Some(gradient) = head_gradient {
            axpy(gradient, 1.0, &matmul(&slopes.t()?, &x, hidden.dtype())?)?;
        }
    }
    Tensor::cat(&d_hidden, 0)
}
