//! Weight-decomposed adapters (DoRA, Liu et al. 2024): every row of `W + scale B A` is given a trained norm, its
//! magnitude.
//!
//! As in section 4.3 of the paper, and in PEFT, the norms that the rows have are constants in the backward pass. So the
//! gradient is not that of a function, and there are no Hessian-vector products.

use spo_api::{Combine, Map, Result};

use super::linear::LowRank;
use crate::engine::{Engine, Mat, Memory, Precision};
use crate::parameters::{Id, Parameters};

/// Norms of the rows of a matrix with an adapter, `[out]` each.
pub(crate) struct RowNorms<T> {
    rows: usize,
    /// Squares of the norms of the frozen matrix.
    frozen: T,
    /// The norms with the adapter.
    norms: T,
    /// Magnitudes over norms: factors of the layer's results.
    pub factors: T,
}

impl<T: Clone> RowNorms<T> {
    /// Those of a frozen matrix of this shape and these values. They are not up to date before [`update`](Self::update).
    pub fn new<E: Engine<Tensor = T>>(e: &E, [rows, width]: [usize; 2], values: &[f32]) -> Result<Self> {
        let square = |row: &[f32]| row.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>() as f32;
        let frozen =
            e.memory().upload(values.chunks_exact(width).map(square).collect(), &[rows], Precision::Full)?;
        let zeros = || e.memory().zeros(&[rows], Precision::Full);
        Ok(RowNorms { rows, frozen, norms: zeros()?, factors: zeros()? })
    }

    /// Lets a magnitude begin as the norms of the frozen matrix, so that the adapter changes nothing.
    pub fn begin<E: Engine<Tensor = T>>(&self, e: &E, magnitude: &T) -> Result<()> {
        e.memory().copy(magnitude, &self.frozen)?;
        e.map(Map::SquareRoot, magnitude)
    }

    /// Computes norms and factors for the parameters as they are.
    ///
    /// With `w` a row of the matrix and `b` one of `B`, the square of the norm is
    /// `|w|^2 + 2 scale w A^T b + scale^2 b A A^T b`: the matrix is read once, and its sum with the adapter never made.
    pub fn update<E: Engine<Tensor = T>>(
        &self,
        e: &E,
        p: &Parameters<E>,
        weight: Id,
        LowRank { a, b, scale, magnitude, rank, .. }: LowRank,
    ) -> Result<()> {
        let (a, b) = (p.value(a), p.value(b));
        let square = e.matmul(Mat::new(a), Mat::t(a))?;
        let rows = e.matmul(Mat::new(a), Mat::t(&p.matrix(e, weight)?))?;
        e.scale(&rows, 2.0 * scale)?;
        e.matmul_add(&rows, scale * scale, Mat::new(&square), Mat::t(b))?;
        e.memory().copy(&self.norms, &self.frozen)?;
        e.sum_products_add(&self.norms, &rows, &transposed(e, b, rank)?)?;
        e.map(Map::SquareRoot, &self.norms)?;
        if let Some(magnitude) = magnitude {
            e.memory().copy(&self.factors, p.value(magnitude))?;
            e.combine(Combine::Divide, &self.factors, &self.norms)?;
        }
        Ok(())
    }

    /// Adds the gradient of the magnitude, given the layer's result before it was scaled.
    pub fn backward<E: Engine<Tensor = T>>(
        &self,
        e: &E,
        gradient: &T,
        before: &T,
        upstream: &T,
    ) -> Result<()> {
        let sums = e.memory().zeros(&[self.rows], Precision::Full)?;
        e.sum_products_add(&sums, upstream, before)?;
        e.combine(Combine::Divide, &sums, &self.norms)?;
        e.axpy(gradient, 1.0, &sums)
    }
}

/// A matrix with `width` columns, transposed.
fn transposed<E: Engine>(e: &E, x: &E::Tensor, width: usize) -> Result<E::Tensor> {
    let mut identity = vec![0.0; width * width];
    identity.iter_mut().step_by(width + 1).for_each(|value| *value = 1.0);
    let identity = e.memory().upload(identity, &[width, width], Precision::Full)?;
    e.matmul(Mat::new(&identity), Mat::t(x))
}
