//! What an engine must be able to do: tensor operations, each beside its vector-Jacobian product; and what one that
//! has a tape lends of it.

mod blockwise;
mod operands;

use std::ops::Range;

use spo_api::{Combine, Map, Result, Statistics};

pub use blockwise::{BLOCK, Blockwise, DynamicMap, SIGNED, UNSIGNED};
pub use operands::{
    Activation, AdamWStep, Cluster, HeadScores, Heads, Mat, Norm, NormKind, Precision, Rotation, Span,
};

/// Arrays on one device.
///
/// A tensor is a handle: a clone shares its memory.
///
/// # Errors
/// Every method fails with [`spo_api::Error::Engine`] when the device does.
pub trait Memory {
    /// A handle on an array on the device.
    type Tensor;

    /// The device in words.
    fn device(&self) -> String;
    /// The name of [`Precision::Compute`]'s type: `f32`, `bf16`.
    fn dtype(&self) -> &'static str;

    /// A tensor with these values, row-major.
    fn upload(&self, values: Vec<f32>, shape: &[usize], precision: Precision) -> Result<Self::Tensor>;
    /// The values, row-major.
    fn download(&self, x: &Self::Tensor) -> Result<Vec<f32>>;
    /// The values from `start` on of a tensor as a tensor `shape` of their own, in the same memory.
    fn view(&self, x: &Self::Tensor, start: usize, shape: &[usize]) -> Result<Self::Tensor>;
    /// A tensor of zeros.
    fn zeros(&self, shape: &[usize], precision: Precision) -> Result<Self::Tensor>;

    /// `into <- x`, which is in the precision of `into` or in [`Precision::Full`].
    fn copy(&self, into: &Self::Tensor, x: &Self::Tensor) -> Result<()>;
}

/// Tensor operations on one device.
///
/// An engine needs no tape. Every operation of the network has its vector-Jacobian product as a second
/// method, named `..._backward`, which is handed what the forward pass was given and the gradient of its
/// result. So the order of the backward pass, what is kept for it and what is recomputed are decided
/// once, in this crate; a frozen weight costs nothing because nobody asks for its gradient; and an
/// operation cannot lose its gradient in silence.
///
/// Methods that write take the tensor they write to as their first argument, `into`, which never shares memory with
/// another argument, nor is a [view](Memory::view) of the same tensor. Activations are matrices `[rows, features]` of
/// packed tokens without padding, in [`Precision::Compute`]; gradients of weights are in [`Precision::Full`], and are
/// *added to*. Weights may come in any precision: the factors of products, the table of [`gather`](Self::gather) and
/// the head are brought to that of the activations where they are used.
///
/// # Errors
/// Every method fails with [`spo_api::Error::Engine`] when the device does.
pub trait Engine: Send + Sized + 'static {
    /// A handle on an array on the device.
    type Tensor: Clone + Send;
    /// The arrays of its device.
    type Memory: Memory<Tensor = Self::Tensor>;
    /// What records this engine's operations; [`NoTape`] where nothing can.
    type Recorder: Recorder<Self>;

    /// Where its tensors lie.
    fn memory(&self) -> &Self::Memory;

    /// `into <- a into`, where `a = 0` clears even what is not finite.
    fn scale(&self, into: &Self::Tensor, a: f64) -> Result<()>;
    /// `into <- into + a x`.
    fn axpy(&self, into: &Self::Tensor, a: f64, x: &Self::Tensor) -> Result<()>;
    /// `<x, y>`, accumulated in f64.
    fn dot(&self, x: &Self::Tensor, y: &Self::Tensor) -> Result<f64>;
    /// `into <- f(into)`, element by element.
    fn map(&self, f: Map, into: &Self::Tensor) -> Result<()>;
    /// `into <- into op x`, element by element.
    fn combine(&self, op: Combine, into: &Self::Tensor, x: &Self::Tensor) -> Result<()>;

    /// AdamW on one tensor, with its first and second moment: decay first, epsilon outside the root of the corrected
    /// moment, as torch has it. All are in [`Precision::Full`]; or the moments in [`Precision::Half`], on engines that
    /// can, rounded up or down at random in proportion to what is lost: to the nearest, a second moment that changes by
    /// a thousandth an update would not change at all. The same update rounds the same way again.
    fn adamw(
        &self,
        into: &Self::Tensor,
        gradient: &Self::Tensor,
        moments: [&Self::Tensor; 2],
        step: &AdamWStep,
    ) -> Result<()>;
    /// [`adamw`](Self::adamw) with moments in 8 bits, by the map of [`SIGNED`] and of [`UNSIGNED`] values. The
    /// parameters move by the moments as they are before they are rounded to the nearest code again. Moments of zeros,
    /// codes and scales alike, are moments of 0.
    fn adamw_8bit(
        &self,
        into: &Self::Tensor,
        gradient: &Self::Tensor,
        moments: [Blockwise<&Self::Tensor>; 2],
        step: &AdamWStep,
    ) -> Result<()>;

    /// Rows `ids` of a matrix.
    fn gather(&self, table: &Self::Tensor, ids: &[u32]) -> Result<Self::Tensor>;
    /// `into[ids[i]] <- into[ids[i]] + x[i]` for every row, in order; ids may repeat.
    fn scatter_add(&self, into: &Self::Tensor, ids: &[u32], x: &Self::Tensor) -> Result<()>;
    /// A range of columns of a matrix.
    fn columns(&self, x: &Self::Tensor, range: Range<usize>) -> Result<Self::Tensor>;
    /// Matrices side by side.
    fn join_columns(&self, parts: &[&Self::Tensor]) -> Result<Self::Tensor>;

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

    /// A norm over consecutive stretches of its weight's length: rows of `x`, or heads within them.
    fn norm(&self, x: &Self::Tensor, norm: Norm<&Self::Tensor>) -> Result<Self::Tensor>;
    /// Gradient of [`norm`](Self::norm) with respect to `x`; those of weight and bias are added to `gradients`,
    /// where they are wanted.
    fn norm_backward(
        &self,
        x: &Self::Tensor,
        norm: Norm<&Self::Tensor>,
        upstream: &Self::Tensor,
        gradients: [Option<&Self::Tensor>; 2],
    ) -> Result<Self::Tensor>;

    /// Rotates each head's first half against its second half by the row's angles, or back. A rotation's
    /// vector-Jacobian product is the rotation back.
    fn rope(&self, x: &Self::Tensor, rotation: &Rotation<Self::Tensor>, back: bool) -> Result<Self::Tensor>;

    /// `softmax(q k^T / sqrt(dim)) v` per head, `[query rows, heads * dim]`.
    fn attention(
        &self,
        q: &Self::Tensor,
        k: &Self::Tensor,
        v: &Self::Tensor,
        heads: Heads,
        clusters: &[Cluster],
    ) -> Result<Self::Tensor>;
    /// Gradients of [`attention`](Self::attention), whose result was `out`, with respect to q, k, v.
    fn attention_backward(
        &self,
        qkv: [&Self::Tensor; 3],
        out: &Self::Tensor,
        upstream: &Self::Tensor,
        heads: Heads,
        clusters: &[Cluster],
    ) -> Result<[Self::Tensor; 3]>;

    /// `f(x)`, with `f` the activation.
    fn activate(&self, f: Activation, x: &Self::Tensor) -> Result<Self::Tensor>;
    /// Gradient of [`activate`](Self::activate).
    fn activate_backward(
        &self,
        f: Activation,
        x: &Self::Tensor,
        upstream: &Self::Tensor,
    ) -> Result<Self::Tensor>;

    /// `f(gate) * up`, with `f` the activation: SwiGLU and its relatives (Shazeer 2020).
    fn gate(&self, f: Activation, gate: &Self::Tensor, up: &Self::Tensor) -> Result<Self::Tensor>;
    /// Gradients of [`gate`](Self::gate) with respect to gate and up.
    fn gate_backward(
        &self,
        f: Activation,
        gate: &Self::Tensor,
        up: &Self::Tensor,
        upstream: &Self::Tensor,
    ) -> Result<[Self::Tensor; 2]>;

    /// The log-prob head: row `i` of `hidden` `[rows, hidden]` against `head` `[vocabulary, hidden]`.
    /// Never holds the logits of all rows at once; they and their softmax are in f32 or better.
    fn score(
        &self,
        hidden: &Self::Tensor,
        head: &Self::Tensor,
        targets: &[u32],
        statistics: Statistics,
    ) -> Result<HeadScores>;
    /// Gradient of `sum_i upstream[i] * log_probs[i]` with respect to `hidden`; that of the head is added
    /// to `head_gradient`.
    fn score_backward(
        &self,
        hidden: &Self::Tensor,
        head: &Self::Tensor,
        targets: &[u32],
        log_normalizers: &[f64],
        upstream: &[f64],
        head_gradient: Option<&Self::Tensor>,
    ) -> Result<Self::Tensor>;

    /// This engine with a tape, if it has one.
    fn recorder(&self) -> Option<Self::Recorder>;
}

/// An engine that records: every operation leaves behind how its result depends on tensors that are
/// [watched](Self::watch), also those that write to a tensor, and those of the backward pass. Slower, and it keeps
/// everything.
///
/// # Errors
/// As for an [`Engine`].
pub trait Recorder<E: Engine> {
    /// The engine whose operations are recorded.
    fn engine(&self) -> &E;

    /// [`Engine::score_backward`] with the upstream weights as a tensor `[rows]` in [`Precision::Full`], which may be watched. The normalizers depend on `hidden` and `head` and
    /// are computed anew.
    fn score_backward(
        &self,
        hidden: &E::Tensor,
        head: &E::Tensor,
        targets: &[u32],
        upstream: &E::Tensor,
        head_gradient: Option<&E::Tensor>,
    ) -> Result<E::Tensor>;

    /// Begins or ends to follow what is made of these tensors. One that was written to meanwhile forgets what from.
    fn watch(&self, tensors: &[&E::Tensor], watched: bool) -> Result<()>;

    /// The gradient of `sum_i <outputs[i], seeds[i]>` with respect to each of the watched `inputs`.
    fn pull_back(
        &self,
        outputs: &[&E::Tensor],
        seeds: &[&E::Tensor],
        inputs: &[&E::Tensor],
    ) -> Result<Vec<E::Tensor>>;
}

/// The recorder of engines that have no tape: there is none.
#[derive(Clone, Copy, Debug)]
pub enum NoTape {}

impl<E: Engine> Recorder<E> for NoTape {
    fn engine(&self) -> &E {
        match *self {}
    }

    fn score_backward(
        &self,
        _: &E::Tensor,
        _: &E::Tensor,
        _: &[u32],
        _: &E::Tensor,
        _: Option<&E::Tensor>,
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
