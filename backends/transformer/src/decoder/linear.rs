//! A linear layer, with its low-rank adapter if it has one.

use spo_api::{Combine, Result};

use super::dropout::{Dropout, masked};
use super::row_norms::RowNorms;
use crate::engine::{Engine, Mat, Memory};
use crate::parameters::{Id, Parameters, Role, Spec};

/// `x W^T + bias + scale (x A^T) B^T`; with magnitudes, everything but the bias is multiplied by factors, one per output.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    /// Its name in the model, without `.weight`.
    pub name: String,
    pub weight: Id,
    pub bias: Option<Id>,
    pub adapter: Option<LowRank>,
}

/// The adapter of a linear layer (Hu et al. 2021), or of the embedding table: `scale B A` is added to the matrix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LowRank {
    /// `[rank, in]`.
    pub a: Id,
    /// `[out, rank]`.
    pub b: Id,
    pub rank: usize,
    /// Width of the input.
    pub width: usize,
    pub scale: f64,
    /// What is dropped of its input in training.
    pub dropout: Option<Dropout>,
    /// The norms that the rows of the adapted matrix are given, `[out]`.
    pub magnitude: Option<Id>,
}

/// An adapter to be made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Scaled {
    pub rank: usize,
    pub scale: f64,
    pub magnitude: bool,
    /// The share of its input that is dropped in training.
    pub dropout: f64,
}

impl LowRank {
    /// A new one for the matrix of a linear layer.
    pub fn of_linear(specs: &mut Vec<Spec>, weight: Id, layer: &str, scaled: Scaled) -> Self {
        let [output, width] = specs[weight].shape[..] else { unreachable!("a weight is a matrix") };
        let Scaled { rank, scale, magnitude, dropout } = scaled;
        let mut add = |part: &str, shape: Vec<usize>, role: Role| {
            let name = format!("{layer}.lora_{part}");
            specs.push(Spec { name, shape, transposed: false, role, trained: true });
            specs.len() - 1
        };
        LowRank {
            a: add("A.weight", vec![rank, width], Role::AdapterA),
            b: add("B.weight", vec![output, rank], Role::AdapterB),
            rank,
            width,
            scale,
            dropout: (dropout > 0.0).then(|| Dropout::new(dropout, layer, width)),
            magnitude: magnitude.then(|| add("magnitude_vector", vec![output], Role::Magnitude)),
        }
    }

    /// A new one for an embedding table. PEFT calls its factors the other way round, and keeps their transposes: what
    /// multiplies the rows from the left is `lora_embedding_A`. It drops nothing there.
    pub fn of_embedding(specs: &mut Vec<Spec>, table: Id, module: &str, scaled: Scaled) -> Self {
        let [tokens, width] = specs[table].shape[..] else { unreachable!("a table is a matrix") };
        let Scaled { rank, scale, .. } = scaled;
        let mut add = |part: &str, shape: Vec<usize>, role: Role| {
            let name = format!("{module}.lora_embedding_{part}");
            specs.push(Spec { name, shape, transposed: true, role, trained: true });
            specs.len() - 1
        };
        LowRank {
            b: add("A", vec![tokens, rank], Role::EmbeddingA),
            a: add("B", vec![rank, width], Role::EmbeddingB),
            rank,
            width,
            scale,
            dropout: None,
            magnitude: None,
        }
    }
}

impl Linear {
    pub fn forward<E: Engine>(&self, e: &E, p: &Parameters<E>, x: &E::Tensor) -> Result<E::Tensor> {
        let bias = self.bias.map(|b| p.value(b));
        let Some(RowNorms { factors, .. }) = p.row_norms.get(&self.weight) else {
            return self.unscaled(e, p, x, bias);
        };
        let y = self.unscaled(e, p, x, None)?;
        e.scale_columns(&y, factors, bias)?;
        Ok(y)
    }

    /// The result before it is scaled by magnitudes.
    fn unscaled<E: Engine>(
        &self,
        e: &E,
        p: &Parameters<E>,
        x: &E::Tensor,
        bias: Option<&E::Tensor>,
    ) -> Result<E::Tensor> {
        let y = e.linear(x, &p.matrix(e, self.weight)?, bias)?;
        if let Some(LowRank { a, b, scale, dropout, .. }) = self.adapter {
            let reduced = match p.mask(e, dropout, None)? {
                Some((mask, shape)) => e.linear(&masked(e, x, &mask, shape)?, p.value(a), None)?,
                None => e.linear(x, p.value(a), None)?,
            };
            e.matmul_add(&y, scale, Mat::new(&reduced), Mat::t(p.value(b)))?;
        }
        Ok(y)
    }

    /// Adds the gradients of the weights that have one. Returns the gradient of `x`, or adds it to `into`.
    pub fn backward<E: Engine>(
        &self,
        e: &E,
        p: &Parameters<E>,
        x: &E::Tensor,
        upstream: &E::Tensor,
        into: Option<E::Tensor>,
    ) -> Result<E::Tensor> {
        if let Some(gradient) = p.gradient(self.weight) {
            e.matmul_add(gradient, 1.0, Mat::t(upstream), Mat::new(x))?;
        }
        if let Some(gradient) = self.bias.and_then(|b| p.gradient(b)) {
            e.sum_rows_add(gradient, upstream)?;
        }
        let mut scaled = upstream.clone();
        if let (Some(rows), Some(LowRank { magnitude: Some(magnitude), .. })) =
            (p.row_norms.get(&self.weight), self.adapter)
        {
            let before = self.unscaled(e, p, x, None)?;
            if let Some(gradient) = p.gradient(magnitude) {
                rows.backward(e, gradient, &before, upstream)?;
            }
            // What was computed again has the shape of the gradient, and is needed no more.
            e.memory().copy(&before, upstream)?;
            e.scale_columns(&before, &rows.factors, None)?;
            scaled = before;
        }
        let upstream = &scaled;
        let weight = p.matrix(e, self.weight)?;
        let weight = Mat::new(&weight);
        let dx = match into {
            None => e.matmul(Mat::new(upstream), weight)?,
            Some(dx) => {
                e.matmul_add(&dx, 1.0, Mat::new(upstream), weight)?;
                dx
            }
        };
        if let Some(LowRank { a, b, scale, dropout, .. }) = self.adapter {
            let mask = p.mask(e, dropout, None)?;
            let dropped = mask.as_ref().map(|(mask, shape)| masked(e, x, mask, *shape)).transpose()?;
            let x = dropped.as_ref().unwrap_or(x);
            // The reduced input is only as wide as the rank, so recomputing it is cheaper than keeping it.
            let reduced = e.linear(x, p.value(a), None)?;
            let d_reduced = e.matmul(Mat::new(upstream), Mat::new(p.value(b)))?;
            if let Some(gradient) = p.gradient(b) {
                e.matmul_add(gradient, scale, Mat::t(upstream), Mat::new(&reduced))?;
            }
            if let Some(gradient) = p.gradient(a) {
                e.matmul_add(gradient, scale, Mat::t(&d_reduced), Mat::new(x))?;
            }
            match mask {
                None => e.matmul_add(&dx, scale, Mat::new(&d_reduced), Mat::new(p.value(a)))?,
                Some((mask, _)) => {
                    let d_dropped = e.matmul(Mat::new(&d_reduced), Mat::new(p.value(a)))?;
                    e.combine(Combine::Multiply, &d_dropped, &mask)?;
                    e.axpy(&dx, scale, &d_dropped)?;
                }
            }
        }
        Ok(dx)
    }
}
