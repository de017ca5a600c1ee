//! One block of the decoder: attention and MLP, each with norms before or after it, and added to the residual
//! stream.

use spo_api::Result;

use super::feed_forward::{FeedForward, FeedForwardTrace};
use super::linear::Linear;
use super::routing::Routing;
use super::wiring::BlockWiring;
use crate::engine::{Engine, Heads, Memory, Norm, Precision};
use crate::parameters::{Id, Parameters};

#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub attention_norm: Option<Norm<Id>>,
    pub projections: Projections,
    /// Norms of q and k, applied before the rotation.
    pub head_norms: Option<[Norm<Id>; 2]>,
    pub output: Linear,
    pub attention_post_norm: Option<Norm<Id>>,
    pub mlp_norm: Option<Norm<Id>>,
    pub mlp: FeedForward,
    pub mlp_post_norm: Option<Norm<Id>>,
    /// Whether the MLP reads the input of the block, and not the result of the attention.
    pub parallel: bool,
    /// Factor of what attention and MLP add to the residual stream.
    pub residual_scale: f64,
    /// Width of the residual stream.
    pub hidden: usize,
}

#[derive(Clone, Debug)]
pub(crate) enum Projections {
    /// q, k and v each have their own matrix.
    Separate(Box<[Linear; 3]>),
    /// One matrix gives q, k and v. The columns of its result are `groups` times those of a part of the heads:
    /// of its q, its k and its v.
    Joint { linear: Linear, groups: usize },
}

/// Keys and values from earlier passes.
pub(crate) struct KvCache<T> {
    pub keys: T,
    pub values: T,
}

/// What the backward pass of a block needs. Norms, rotations and activations are recomputed from these: they
/// are cheap, and would take as much memory as everything else together.
pub(crate) struct Trace<T> {
    x: T,
    /// q, k, v after the projection.
    qkv: [T; 3],
    attended: T,
    /// The result of the attention, if a norm follows it.
    attention: Option<T>,
    /// The input of the MLP and its norm.
    middle: T,
    mlp: FeedForwardTrace<T>,
    /// The result of the MLP, if a norm follows it.
    mlp_result: Option<T>,
}

impl Block {
    pub fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let mut linears: Vec<&mut Linear> = match &mut self.projections {
            Projections::Separate(qkv) => qkv.iter_mut().collect(),
            Projections::Joint { linear, .. } => vec![linear],
        };
        linears.push(&mut self.output);
        linears.extend(self.mlp.linears_mut());
        linears
    }

    /// Tensors of the residual stream's width that the backward pass needs.
    pub fn residuals(&self) -> usize {
        let post_norms = [self.attention_post_norm, self.mlp_post_norm].iter().flatten().count();
        post_norms + if self.parallel { 1 } else { 2 }
    }

    /// With a cache, `cached` gives the cache row for the keys and values of each row.
    pub fn forward<E: Engine>(
        &self,
        e: &E,
        p: &Parameters<E>,
        x: E::Tensor,
        wiring: &BlockWiring<'_, E::Tensor>,
        cache: Option<(&KvCache<E::Tensor>, &[u32])>,
    ) -> Result<(E::Tensor, Trace<E::Tensor>)> {
        let normed = before(self.attention_norm, e, p, &x)?;
        let qkv = self.projections.forward(e, p, &normed, wiring.attention.heads)?;
        let [q, k] = self.placed(e, p, &qkv, wiring)?;
        let attended = match cache {
            None => e.attention(&q, &k, &qkv[2], wiring.attention, wiring.clusters)?,
            Some((KvCache { keys, values }, rows)) => {
                // The cache starts as zeros and no row is written twice, so adding is the same as writing.
                e.scatter_add(keys, rows, &k)?;
                e.scatter_add(values, rows, &qkv[2])?;
                e.attention(&q, keys, values, wiring.attention, wiring.clusters)?
            }
        };
        // With the input added, this is what the MLP's result is added to.
        let (sum, attention) =
            self.after(self.attention_post_norm, e, p, self.output.forward(e, p, &attended)?)?;
        e.axpy(&sum, 1.0, &x)?;
        let middle = if self.parallel { x.clone() } else { sum.clone() };

        let normed = before(self.mlp_norm, e, p, &middle)?;
        let (y, mlp) = self.mlp.forward(e, p, &normed)?;
        let (y, mlp_result) = self.after(self.mlp_post_norm, e, p, y)?;
        e.axpy(&y, 1.0, &sum)?;
        Ok((y, Trace { x, qkv, attended, attention, middle, mlp, mlp_result }))
    }

    /// Adds the gradients of the block's weights and returns the gradient of its input.
    pub fn backward<E: Engine>(
        &self,
        e: &E,
        p: &Parameters<E>,
        trace: Trace<E::Tensor>,
        upstream: E::Tensor,
        wiring: &BlockWiring<'_, E::Tensor>,
    ) -> Result<E::Tensor> {
        let Trace { x, qkv, attended, attention, middle, mlp, mlp_result } = trace;
        let d_y =
            self.after_backward(self.mlp_post_norm, e, p, mlp_result.as_ref(), &upstream, wiring.rows)?;
        let normed = before(self.mlp_norm, e, p, &middle)?;
        let d_normed = self.mlp.backward(e, p, &normed, mlp, &d_y, wiring.of_loss)?;
        // The gradient of what the MLP read, and of what its result was added to.
        let d_middle = before_backward(self.mlp_norm, e, p, &middle, d_normed)?;
        e.axpy(&d_middle, 1.0, &upstream)?;

        let d_sum = if self.parallel { &upstream } else { &d_middle };
        let d_added =
            self.after_backward(self.attention_post_norm, e, p, attention.as_ref(), d_sum, wiring.rows)?;
        let d_attended = self.output.backward(e, p, &attended, &d_added, None)?;
        let [q, k] = self.placed(e, p, &qkv, wiring)?;
        let [dq, dk, dv] = e.attention_backward(
            [&q, &k, &qkv[2]],
            &attended,
            &d_attended,
            wiring.attention,
            wiring.clusters,
        )?;
        let [dq, dk] = self.placed_backward(e, p, &qkv, [dq, dk], wiring)?;
        let normed = before(self.attention_norm, e, p, &x)?;
        let d_normed = self.projections.backward(e, p, &normed, [dq, dk, dv])?;
        let dx = before_backward(self.attention_norm, e, p, &x, d_normed)?;
        e.axpy(&dx, 1.0, &d_middle)?;
        Ok(dx)
    }

    /// What a layer adds to the residual stream, in a tensor that may be written to; and the layer's result as
    /// it was, if the backward pass needs it.
    fn after<E: Engine>(
        &self,
        norm: Option<Norm<Id>>,
        e: &E,
        p: &Parameters<E>,
        result: E::Tensor,
    ) -> Result<(E::Tensor, Option<E::Tensor>)> {
        let (added, kept) = match norm {
            Some(norm) => (norm.forward(e, p, &result)?, Some(result)),
            None => (result, None),
        };
        if self.residual_scale != 1.0 {
            e.scale(&added, self.residual_scale)?;
        }
        Ok((added, kept))
    }

    /// The gradient of a layer's result.
    fn after_backward<E: Engine>(
        &self,
        norm: Option<Norm<Id>>,
        e: &E,
        p: &Parameters<E>,
        result: Option<&E::Tensor>,
        upstream: &E::Tensor,
        rows: usize,
    ) -> Result<E::Tensor> {
        let mut d = upstream.clone();
        if self.residual_scale != 1.0 {
            // A copy, because the residual stream needs it as it is.
            d = e.memory().zeros(&[rows, self.hidden], Precision::Compute)?;
            e.axpy(&d, self.residual_scale, upstream)?;
        }
        match norm.zip(result) {
            Some((norm, result)) => norm.backward(e, p, result, &d),
            None => Ok(d),
        }
    }

    /// q and k as attention uses them: normalised, and rotated by position.
    fn placed<E: Engine>(
        &self,
        e: &E,
        p: &Parameters<E>,
        qkv: &[E::Tensor; 3],
        wiring: &BlockWiring<'_, E::Tensor>,
    ) -> Result<[E::Tensor; 2]> {
        let place = |i: usize| {
            let normed = match &self.head_norms {
                Some(norms) => norms[i].forward(e, p, &qkv[i])?,
                None => qkv[i].clone(),
            };
            match wiring.rotation {
                Some(rotation) => e.rope(&normed, rotation, false),
                None => Ok(normed),
            }
        };
        Ok([place(0)?, place(1)?])
    }

    fn placed_backward<E: Engine>(
        &self,
        e: &E,
        p: &Parameters<E>,
        qkv: &[E::Tensor; 3],
        upstream: [E::Tensor; 2],
        wiring: &BlockWiring<'_, E::Tensor>,
    ) -> Result<[E::Tensor; 2]> {
        let place = |i: usize| {
            let d_normed = match wiring.rotation {
                Some(rotation) => e.rope(&upstream[i], rotation, true)?,
                None => upstream[i].clone(),
            };
            match &self.head_norms {
                Some(norms) => norms[i].backward(e, p, &qkv[i], &d_normed),
                None => Ok(d_normed),
            }
        };
        Ok([place(0)?, place(1)?])
    }
}

impl<T> Trace<T> {
    /// What the router chose, if there is one.
    pub fn routing(&self) -> Option<&Routing> {
        match &self.mlp {
            FeedForwardTrace::Sparse(trace) => Some(&trace.routing),
            FeedForwardTrace::Dense(_) => None,
        }
    }
}

#[cfg(feature = "conformance")]
impl Block {
    /// Lets the experts of later passes be those of a pass over the same rows.
    pub fn hold_choices<T>(&mut self, trace: &Trace<T>) {
        if let (FeedForward::Sparse(experts), FeedForwardTrace::Sparse(trace)) = (&mut self.mlp, &trace.mlp) {
            experts.held = Some(trace.choices());
        }
    }
}

/// What a layer reads: its input, normalised if a norm stands before it.
fn before<E: Engine>(norm: Option<Norm<Id>>, e: &E, p: &Parameters<E>, x: &E::Tensor) -> Result<E::Tensor> {
    norm.map_or_else(|| Ok(x.clone()), |norm| norm.forward(e, p, x))
}

fn before_backward<E: Engine>(
    norm: Option<Norm<Id>>,
    e: &E,
    p: &Parameters<E>,
    x: &E::Tensor,
    upstream: E::Tensor,
) -> Result<E::Tensor> {
    match norm {
        Some(norm) => norm.backward(e, p, x, &upstream),
        None => Ok(upstream),
    }
}

impl Projections {
    fn forward<E: Engine>(
        &self,
        e: &E,
        p: &Parameters<E>,
        x: &E::Tensor,
        heads: Heads,
    ) -> Result<[E::Tensor; 3]> {
        match self {
            Projections::Separate(qkv) => {
                let [q, k, v] = &**qkv;
                Ok([q.forward(e, p, x)?, k.forward(e, p, x)?, v.forward(e, p, x)?])
            }
            Projections::Joint { linear, groups } => {
                let all = linear.forward(e, p, x)?;
                let (q, kv) = (heads.heads * heads.dim / groups, heads.kv_heads * heads.dim / groups);
                Ok([
                    e.columns(&all, *groups, 0..q)?,
                    e.columns(&all, *groups, q..q + kv)?,
                    e.columns(&all, *groups, q + kv..q + 2 * kv)?,
                ])
            }
        }
    }

    fn backward<E: Engine>(
        &self,
        e: &E,
        p: &Parameters<E>,
        x: &E::Tensor,
        upstream: [E::Tensor; 3],
    ) -> Result<E::Tensor> {
        let [dq, dk, dv] = &upstream;
        match self {
            Projections::Separate(qkv) => {
                let [q, k, v] = &**qkv;
                let dx = q.backward(e, p, x, dq, None)?;
                let dx = k.backward(e, p, x, dk, Some(dx))?;
                v.backward(e, p, x, dv, Some(dx))
            }
            Projections::Joint { linear, groups } => {
                linear.backward(e, p, x, &e.join_columns(&[dq, dk, dv], *groups)?, None)
            }
        }
    }
}
