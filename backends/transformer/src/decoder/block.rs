//! One block of the decoder: attention and MLP, each preceded by a norm and added to the residual stream.

use spo_api::Result;

use super::linear::Linear;
use super::mlp::{Mlp, MlpTrace};
use super::wiring::BlockWiring;
use crate::engine::{Engine, Heads, Norm};
use crate::parameters::{Id, Parameters};

#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub attention_norm: Norm<Id>,
    pub projections: Projections,
    /// Norms of q and k per head, applied before the rotation (Qwen3).
    pub head_norms: Option<[Norm<Id>; 2]>,
    pub output: Linear,
    pub mlp_norm: Norm<Id>,
    pub mlp: Mlp,
}

#[derive(Clone, Debug)]
pub(crate) enum Projections {
    /// q, k and v each have their own matrix.
    Separate(Box<[Linear; 3]>),
    /// One matrix gives q, k and v, side by side in the columns of the result.
    Joint(Linear),
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
    middle: T,
    mlp: MlpTrace<T>,
}

impl Block {
    pub fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let mut linears: Vec<&mut Linear> = match &mut self.projections {
            Projections::Separate(qkv) => qkv.iter_mut().collect(),
            Projections::Joint(joint) => vec![joint],
        };
        linears.push(&mut self.output);
        linears.extend(self.mlp.linears_mut());
        linears
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
        let normed = self.attention_norm.forward(e, p, &x)?;
        let qkv = self.projections.forward(e, p, &normed, wiring.heads)?;
        let [q, k] = self.placed(e, p, &qkv, wiring)?;
        let attended = match cache {
            None => e.attention(&q, &k, &qkv[2], wiring.heads, wiring.clusters)?,
            Some((KvCache { keys, values }, rows)) => {
                // The cache starts as zeros and no row is written twice, so adding is the same as writing.
                e.scatter_add(keys, rows, &k)?;
                e.scatter_add(values, rows, &qkv[2])?;
                e.attention(&q, keys, values, wiring.heads, wiring.clusters)?
            }
        };
        let middle = self.output.forward(e, p, &attended)?;
        e.axpy(&middle, 1.0, &x)?;

        let normed = self.mlp_norm.forward(e, p, &middle)?;
        let (y, mlp) = self.mlp.forward(e, p, &normed)?;
        e.axpy(&y, 1.0, &middle)?;
        Ok((y, Trace { x, qkv, attended, middle, mlp }))
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
        let Trace { x, qkv, attended, middle, mlp } = trace;
        let normed = self.mlp_norm.forward(e, p, &middle)?;
        let d_normed = self.mlp.backward(e, p, &normed, mlp, &upstream)?;
        let d_middle = self.mlp_norm.backward(e, p, &middle, &d_normed)?;
        e.axpy(&d_middle, 1.0, &upstream)?;

        let d_attended = self.output.backward(e, p, &attended, &d_middle, None)?;
        let [q, k] = self.placed(e, p, &qkv, wiring)?;
        let [dq, dk, dv] =
            e.attention_backward([&q, &k, &qkv[2]], &attended, &d_attended, wiring.heads, wiring.clusters)?;
        let [dq, dk] = self.placed_backward(e, p, &qkv, [dq, dk], wiring)?;
        let normed = self.attention_norm.forward(e, p, &x)?;
        let d_normed = self.projections.backward(e, p, &normed, [dq, dk, dv])?;
        let dx = self.attention_norm.backward(e, p, &x, &d_normed)?;
        e.axpy(&dx, 1.0, &d_middle)?;
        Ok(dx)
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
            Projections::Joint(joint) => {
                let all = joint.forward(e, p, x)?;
                let (q, kv) = (heads.heads * heads.dim, heads.kv_heads * heads.dim);
                Ok([
                    e.columns(&all, 0..q)?,
                    e.columns(&all, q..q + kv)?,
                    e.columns(&all, q + kv..q + 2 * kv)?,
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
            Projections::Joint(joint) => joint.backward(e, p, x, &e.join_columns(&[dq, dk, dv])?, None),
        }
    }
}
