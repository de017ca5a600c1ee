//! The interface that an engine implements: tensor operations, each with its vector-Jacobian product, and
//! optionally a tape.

mod blockwise;
mod operands;

use std::ops::Range;

use spo_api::{Combine, Map, Result, Statistics};

pub use blockwise::{BLOCK, Blockwise, DynamicMap, SIGNED, UNSIGNED};
pub use operands::{
    Activation, AdamWStep, Attention, Blocks, Cluster, Head, HeadScores, Heads, Mat, Norm, NormKind, Pairs,
    Precision, Rotation, Span,
};

/// Arrays on one device.
///
/// A tensor is a handle: clones share memory.
///
/// # Errors
/// Every method fails with [`spo_api::Error::Engine`] when the device reports an error.
pub trait Memory {
    /// A handle to an array on the device.
    type Tensor;

    /// A description of the device.
    fn device(&self) -> String;
    /// The name of [`Precision::Compute`]'s type: `f32`, `bf16`.
    fn dtype(&self) -> &'static str;
    /// Bytes of memory for arrays, where a request for more does not fail but fills the machine; `None` where it fails.
    fn capacity(&self) -> Option<u64>;

    /// Creates a tensor with these values, in row-major order.
    fn upload(&self, values: Vec<f32>, shape: &[usize], precision: Precision) -> Result<Self::Tensor>;
    /// The values of a tensor, in row-major order.
    fn download(&self, x: &Self::Tensor) -> Result<Vec<f32>>;
    /// Creates a tensor in [`Precision::Byte`].
    fn upload_bytes(&self, bytes: Vec<u8>, shape: &[usize]) -> Result<Self::Tensor>;
    /// The values of a tensor in [`Precision::Byte`].
    fn download_bytes(&self, x: &Self::Tensor) -> Result<Vec<u8>>;
    /// A tensor of shape `shape` that shares the memory of `x` from element `start` on.
    fn view(&self, x: &Self::Tensor, start: usize, shape: &[usize]) -> Result<Self::Tensor>;
    /// A tensor of zeros.
    fn zeros(&self, shape: &[usize], precision: Precision) -> Result<Self::Tensor>;

    /// `into <- x`, where `x` is in the precision of `into` or in [`Precision::Full`].
    fn copy(&self, into: &Self::Tensor, x: &Self::Tensor) -> Result<()>;
}

/// Tensor operations on one device.
///
/// An engine needs no tape. Every operation of the network has a second method for its vector-Jacobian
/// product, named `..._backward`. It takes the inputs of the forward pass and the gradient of the result.
/// This crate therefore decides in one place the order of the backward pass, and what is kept for it or
/// recomputed. A frozen weight costs nothing because its gradient is never requested, and no operation can
/// silently drop its gradient.
///
/// Methods that write take the output tensor as their first argument, `into`. It never shares memory with
/// another argument, and is not a [view](Memory::view) of the same tensor. Activations are matrices
/// `[rows, features]` of packed tokens without padding, in [`Precision::Compute`]. Gradients of weights are
/// in [`Precision::Full`], and are *added to*. Weights may have any precision: the factors of products, the
/// table of [`gather`](Self::gather) and the head are converted to the precision of the activations when they
/// are used.
///
/// # Errors
/// Every method fails with [`spo_api::Error::Engine`] when the device reports an error.
pub trait Engine: Send + Sized + 'static {
    /// A handle to an array on the device.
    type Tensor: Clone + Send;
    /// The memory of the engine's device.
    type Memory: Memory<Tensor = Self::Tensor>;
    /// What records this engine's operations; [`NoTape`] if the engine has no tape.
    type Recorder: Recorder<Self>;

    /// The memory that holds the engine's tensors.
    fn memory(&self) -> &Self::Memory;

    /// `into <- a into`. With `a = 0` the result is zero even where `into` is not finite.
    fn scale(&self, into: &Self::Tensor, a: f64) -> Result<()>;
    /// `into <- into + a x`.
    fn axpy(&self, into: &Self::Tensor, a: f64, x: &Self::Tensor) -> Result<()>;
    /// `<x, y>`, accumulated in f64.
    fn dot(&self, x: &Self::Tensor, y: &Self::Tensor) -> Result<f64>;
    /// `into <- f(into)`, elementwise.
    fn map(&self, f: Map, into: &Self::Tensor) -> Result<()>;
    /// `into <- into op x`, elementwise.
    fn combine(&self, op: Combine, into: &Self::Tensor, x: &Self::Tensor) -> Result<()>;

    /// One AdamW update of one tensor, given its first and second moment. As in torch, decay comes first, and
    /// epsilon is added outside the square root of the corrected moment. All tensors are in
    /// [`Precision::Full`]; engines that support it also accept moments in [`Precision::Half`]. Those are
    /// rounded stochastically: with rounding to nearest, a second moment that changes by a thousandth per
    /// update would never change. The rounding is
    /// pseudo-random: repeating an update gives the same result.
    fn adamw(
        &self,
        into: &Self::Tensor,
        gradient: &Self::Tensor,
        moments: [&Self::Tensor; 2],
        step: &AdamWStep,
    ) -> Result<()>;
    /// [`adamw`](Self::adamw) with 8-bit moments, using the maps [`SIGNED`] and [`UNSIGNED`]. The parameters
    /// are updated with the moments before these are rounded to the nearest code. All-zero codes and scales
    /// represent moments of 0.
    fn adamw_8bit(
        &self,
        into: &Self::Tensor,
        gradient: &Self::Tensor,
        moments: [Blockwise<&Self::Tensor>; 2],
        step: &AdamWStep,
    ) -> Result<()>;

    /// A matrix in blocks, or the rows `rows` of it, in [`Precision::Compute`]. Unless an engine does it on its device, it is
    /// done on the host.
    fn decode(&self, codes: &Self::Tensor, blocks: Blocks, rows: Option<&[u32]>) -> Result<Self::Tensor> {
        let Blocks { kind, rows: all, width } = blocks;
        let codes = self.memory().download_bytes(codes)?;
        let count = rows.map_or(all, <[u32]>::len);
        let mut values = vec![0.0; count * width];
        match rows {
            None => kind.decode(&codes, &mut values),
            Some(rows) => {
                let bytes = codes.len() / all;
                for (&row, values) in rows.iter().zip(values.chunks_exact_mut(width)) {
                    kind.decode(&codes[row as usize * bytes..][..bytes], values);
                }
            }
        }
        self.memory().upload(values, &[count, width], Precision::Compute)
    }

    /// The rows `ids` of a matrix.
    fn gather(&self, table: &Self::Tensor, ids: &[u32]) -> Result<Self::Tensor>;
    /// `into[ids[i]] <- into[ids[i]] + x[i]` for every row, in order; ids may repeat.
    fn scatter_add(&self, into: &Self::Tensor, ids: &[u32], x: &Self::Tensor) -> Result<()>;
    /// A range of columns of each of `groups` matrices of the same width that stand side by side in `x`.
    fn columns(&self, x: &Self::Tensor, groups: usize, range: Range<usize>) -> Result<Self::Tensor>;
    /// The inverse of [`columns`](Self::columns): within each of `groups` equal parts, the columns of one
    /// matrix after those of another.
    fn join_columns(&self, parts: &[&Self::Tensor], groups: usize) -> Result<Self::Tensor>;

    /// `x w^T + bias` with `w` `[out, in]`.
    fn linear(&self, x: &Self::Tensor, w: &Self::Tensor, bias: Option<&Self::Tensor>)
    -> Result<Self::Tensor>;
    /// `a b`.
    fn matmul(&self, a: Mat<'_, Self::Tensor>, b: Mat<'_, Self::Tensor>) -> Result<Self::Tensor>;
    /// `into <- into + scale a b`.
    fn matmul_add(
        &self,
        into: &Self::Tensor,
        scale: f64,
        a: Mat<'_, Self::Tensor>,
        b: Mat<'_, Self::Tensor>,
    ) -> Result<()>;
    /// `into[j] <- into[j] + sum_i x[i][j]`.
    fn sum_rows_add(&self, into: &Self::Tensor, x: &Self::Tensor) -> Result<()>;
    /// `into[j] <- into[j] + sum_i x[i][j] y[i][j]`.
    fn sum_products_add(&self, into: &Self::Tensor, x: &Self::Tensor, y: &Self::Tensor) -> Result<()>;
    /// `into[i][j] <- into[i][j] factors[j] + bias[j]`.
    fn scale_columns(
        &self,
        into: &Self::Tensor,
        factors: &Self::Tensor,
        bias: Option<&Self::Tensor>,
    ) -> Result<()>;

    /// `x[i][j] factors[i]`, with factors `[rows, 1]`.
    fn scale_rows(&self, x: &Self::Tensor, factors: &Self::Tensor) -> Result<Self::Tensor>;
    /// `sum_j x[i][j] y[i][j]`, `[rows, 1]` in [`Precision::Full`].
    fn row_dots(&self, x: &Self::Tensor, y: &Self::Tensor) -> Result<Self::Tensor>;

    /// A norm over consecutive groups of as many elements as its weight has: rows of `x`, or heads within
    /// rows.
    fn norm(&self, x: &Self::Tensor, norm: Norm<&Self::Tensor>) -> Result<Self::Tensor>;
    /// Gradient of [`norm`](Self::norm) with respect to `x`. The gradients of weight and bias are added to
    /// `gradients` where present.
    fn norm_backward(
        &self,
        x: &Self::Tensor,
        norm: Norm<&Self::Tensor>,
        upstream: &Self::Tensor,
        gradients: [Option<&Self::Tensor>; 2],
    ) -> Result<Self::Tensor>;

    /// Rotates pairs of elements of each head by the angles of the row, or back. Where cosines and sines
    /// carry a factor, so does the result, either way: the vector-Jacobian product of a rotation is the one back.
    fn rope(&self, x: &Self::Tensor, rotation: &Rotation<Self::Tensor>, back: bool) -> Result<Self::Tensor>;

    /// `softmax(cap(scale q k^T)) v` per head, over the visible keys, `[query rows, heads * dim]`.
    fn attention(
        &self,
        q: &Self::Tensor,
        k: &Self::Tensor,
        v: &Self::Tensor,
        how: &Attention,
        clusters: &[Cluster],
    ) -> Result<Self::Tensor>;
    /// Gradients of [`attention`](Self::attention) with respect to q, k, v; `out` is its result.
    fn attention_backward(
        &self,
        qkv: [&Self::Tensor; 3],
        out: &Self::Tensor,
        upstream: &Self::Tensor,
        how: &Attention,
        clusters: &[Cluster],
    ) -> Result<[Self::Tensor; 3]>;

    /// `f(x)`, with activation function `f`.
    fn activate(&self, f: Activation, x: &Self::Tensor) -> Result<Self::Tensor>;
    /// Gradient of [`activate`](Self::activate).
    fn activate_backward(
        &self,
        f: Activation,
        x: &Self::Tensor,
        upstream: &Self::Tensor,
    ) -> Result<Self::Tensor>;

    /// `f(gate) * up`, with activation function `f`: SwiGLU and its variants (Shazeer 2020).
    fn gate(&self, f: Activation, gate: &Self::Tensor, up: &Self::Tensor) -> Result<Self::Tensor>;
    /// Gradients of [`gate`](Self::gate) with respect to `gate` and `up`.
    fn gate_backward(
        &self,
        f: Activation,
        gate: &Self::Tensor,
        up: &Self::Tensor,
        upstream: &Self::Tensor,
    ) -> Result<[Self::Tensor; 2]>;

    /// The log-prob head: applies `head` to each row of `hidden` `[rows, hidden]`.
    /// Never holds the logits of all rows at once. Logits and softmax are computed in f32 or better.
    fn score(
        &self,
        hidden: &Self::Tensor,
        head: Head<&Self::Tensor>,
        targets: &[u32],
        statistics: Statistics,
    ) -> Result<HeadScores>;
    /// Gradient of `sum_i upstream[i] * log_probs[i]` with respect to `hidden`; the gradients of the
    /// head's weight, bias and low-rank addition are added to `gradients` where present.
    fn score_backward(
        &self,
        hidden: &Self::Tensor,
        head: Head<&Self::Tensor>,
        targets: &[u32],
        log_normalizers: &[f64],
        upstream: &[f64],
        gradients: [Option<&Self::Tensor>; 3],
    ) -> Result<Self::Tensor>;

    /// This engine with a tape, if it supports one.
    fn recorder(&self) -> Option<Self::Recorder>;
}

impl<'a, T> Head<&'a T> {
    /// The weight of a head that is kept in blocks, for engines that do not decode it piece by piece.
    ///
    /// # Errors
    /// As [`Engine::decode`].
    pub fn decoded<E: Engine<Tensor = T>>(&self, engine: &E) -> Result<Option<T>> {
        self.blocks.map(|blocks| engine.decode(self.weight, blocks, None)).transpose()
    }

    /// The head with this weight, if there is one, instead of blocks.
    pub fn with(self, weight: Option<&'a T>) -> Self {
        match weight {
            Some(weight) => Head { weight, blocks: None, ..self },
            None => self,
        }
    }
}

/// An engine with a tape. It records how each result depends on the [watched](Self::watch) tensors, including
/// operations that write to a tensor and those of the backward pass. It is slower and keeps all intermediate
/// results.
///
/// # Errors
/// As for an [`Engine`].
pub trait Recorder<E: Engine> {
    /// The engine whose operations are recorded.
    fn engine(&self) -> &E;

    /// [`Engine::score_backward`] with the upstream weights as a tensor `[rows]` in [`Precision::Full`],
    /// which may be watched. The normalizers depend on `hidden` and `head`, so they are recomputed.
    fn score_backward(
        &self,
        hidden: &E::Tensor,
        head: Head<&E::Tensor>,
        targets: &[u32],
        upstream: &E::Tensor,
        gradients: [Option<&E::Tensor>; 3],
    ) -> Result<E::Tensor>;

    /// Starts or stops tracking what is computed from these tensors. A tensor that was written to in the
    /// meantime is detached from its history.
    fn watch(&self, tensors: &[&E::Tensor], watched: bool) -> Result<()>;

    /// The gradient of `sum_i <outputs[i], seeds[i]>` with respect to each of the watched `inputs`.
    fn pull_back(
        &self,
        outputs: &[&E::Tensor],
        seeds: &[&E::Tensor],
        inputs: &[&E::Tensor],
    ) -> Result<Vec<E::Tensor>>;
}

/// The recorder of engines without a tape; it has no values.
#[derive(Clone, Copy, Debug)]
pub enum NoTape {}

impl<E: Engine> Recorder<E> for NoTape {
    fn engine(&self) -> &E {
        match *self {}
    }

    fn score_backward(
        &self,
        _: &E::Tensor,
        _: Head<&E::Tensor>,
        _: &[u32],
        _: &E::Tensor,
        _: [Option<&E::Tensor>; 3],
    ) -> Result<E::Tensor> {
        match *self {}
    }

    fn watch(&self, _: &[&E::Tensor], _: bool) -> Result<()> {
        match *self {}
    }

    fn pull_back(&self, _: &[&E::Tensor], _: &[&E::Tensor], _: &[&E::Tensor]) -> Result<Vec<E::Tensor>> {
        match *self {}
    }
}
