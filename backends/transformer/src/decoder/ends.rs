//! The adapters of the embedding table and the head.

use spo_api::{Combine, Result};

use super::dropout::masked;
use super::linear::LowRank;
use crate::engine::{Engine, Mat};
use crate::parameters::Parameters;

/// The embedding of a token with A and B of its adapter is `e + scale a B`, with `a` the row of A that belongs to the token. That
/// of the head is an addition of low rank to its logits ([`Head::low_rank`](crate::engine::Head::low_rank)): its matrix is
/// never made.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ends {
    pub table: Option<LowRank>,
    pub head: Option<LowRank>,
}

impl Ends {
    pub fn add_to_embeddings<E: Engine>(
        &self,
        e: &E,
        p: &Parameters<E>,
        ids: &[u32],
        x: &E::Tensor,
    ) -> Result<()> {
        let Some(LowRank { a, b, scale, .. }) = self.table else { return Ok(()) };
        let own = e.gather(p.value(b), ids)?;
        e.matmul_add(x, scale, Mat::new(&own), Mat::new(p.value(a)))
    }

    /// Adds the gradients of the table's adapter, given that of the embeddings of these tokens.
    pub fn table_backward<E: Engine>(
        &self,
        e: &E,
        p: &Parameters<E>,
        ids: &[u32],
        upstream: &E::Tensor,
    ) -> Result<()> {
        let Some(LowRank { a, b, scale, .. }) = self.table else { return Ok(()) };
        if let Some(gradient) = p.gradient(a) {
            let own = e.gather(p.value(b), ids)?;
            e.matmul_add(gradient, scale, Mat::t(&own), Mat::new(upstream))?;
        }
        if let Some(gradient) = p.gradient(b) {
            let d_own = e.matmul(Mat::new(upstream), Mat::t(p.value(a)))?;
            e.scale(&d_own, scale)?;
            e.scatter_add(gradient, ids, &d_own)?;
        }
        Ok(())
    }

    /// The rows that the head reads, and, if it has an adapter, their product with A beside them.
    pub fn reduced<E: Engine>(
        &self,
        e: &E,
        p: &Parameters<E>,
        x: E::Tensor,
        scored: &[u32],
    ) -> Result<E::Tensor> {
        let Some(LowRank { a, scale, dropout, .. }) = self.head else { return Ok(x) };
        let reduced = match p.mask(e, dropout, Some(scored))? {
            Some((mask, shape)) => e.linear(&masked(e, &x, &mask, shape)?, p.value(a), None)?,
            None => e.linear(&x, p.value(a), None)?,
        };
        e.scale(&reduced, scale)?;
        e.join_columns(&[&x, &reduced], 1)
    }

    /// The gradient of the rows, given that of what [`reduced`](Self::reduced) made of them. Adds the gradient of A; that of B
    /// belongs to the head.
    pub fn reduced_backward<E: Engine>(
        &self,
        e: &E,
        p: &Parameters<E>,
        read: &E::Tensor,
        scored: &[u32],
        upstream: E::Tensor,
    ) -> Result<E::Tensor> {
        let Some(LowRank { a, rank, scale, dropout, width, .. }) = self.head else { return Ok(upstream) };
        let dx = e.columns(&upstream, 1, 0..width)?;
        let d_reduced = e.columns(&upstream, 1, width..width + rank)?;
        let mask = p.mask(e, dropout, Some(scored))?;
        if let Some(gradient) = p.gradient(a) {
            let mut x = e.columns(read, 1, 0..width)?;
            if let Some((mask, shape)) = &mask {
                x = masked(e, &x, mask, *shape)?;
            }
            e.matmul_add(gradient, scale, Mat::t(&d_reduced), Mat::new(&x))?;
        }
        let Some((mask, _)) = mask else {
            e.matmul_add(&dx, scale, Mat::new(&d_reduced), Mat::new(p.value(a)))?;
            return Ok(dx);
        };
        let dropped = e.matmul(Mat::new(&d_reduced), Mat::new(p.value(a)))?;
        e.combine(Combine::Multiply, &dropped, &mask)?;
        e.axpy(&dx, scale, &dropped)?;
        Ok(dx)
    }
}
