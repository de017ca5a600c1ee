//! The engine whose operations are composed of candle's own: for every device and type, and the oracle of the fused
//! ones.
//!
//! Gradients come from candle's own backward pass through a second forward of the one operation. None of
//! candle's fused operations is used: several of them lose the gradient without a word.

mod activation;
mod adamw;
mod attention;
mod elementwise;
mod head;
mod norm;
mod product;
mod rope;
mod vector;
mod vjp;

use std::ops::Range;

use candle_core::{DType, Device, Tensor};
use spo_api::{Combine, Map, Result, Statistics};
use spo_transformer::{
    Activation, AdamWStep, Attention, Blockwise, Cluster, Engine, Head, HeadScores, Mat, NoTape, Norm,
    Rotation,
};

use crate::memory::{self, CandleMemory, failed};

/// candle's own operations, on any device, computing in f32 or bf16.
#[derive(Clone, Debug)]
pub struct ComposedEngine(CandleMemory);

impl ComposedEngine {
    /// An engine on a device that is there.
    pub fn new(device: Device, dtype: DType) -> Self {
        ComposedEngine(CandleMemory::new(device, dtype))
    }
}

impl Engine for ComposedEngine {
    type Tensor = Tensor;
    type Memory = CandleMemory;
    type Recorder = NoTape;

    fn memory(&self) -> &CandleMemory {
        &self.0
    }

    fn scale(&self, into: &Tensor, a: f64) -> Result<()> {
        vector::scale(into, a).map_err(failed)
    }

    fn axpy(&self, into: &Tensor, a: f64, x: &Tensor) -> Result<()> {
        vector::axpy(into, a, x).map_err(failed)
    }

    fn dot(&self, x: &Tensor, y: &Tensor) -> Result<f64> {
        vector::dot(x, y).map_err(failed)
    }

    fn map(&self, f: Map, into: &Tensor) -> Result<()> {
        elementwise::map(f, into).map_err(failed)
    }

    fn combine(&self, op: Combine, into: &Tensor, x: &Tensor) -> Result<()> {
        elementwise::combine(op, into, x).map_err(failed)
    }

    fn adamw(&self, into: &Tensor, gradient: &Tensor, moments: [&Tensor; 2], step: &AdamWStep) -> Result<()> {
        adamw::adamw(into, gradient, moments, step).map_err(failed)
    }

    fn adamw_8bit(
        &self,
        into: &Tensor,
        gradient: &Tensor,
        moments: [Blockwise<&Tensor>; 2],
        step: &AdamWStep,
    ) -> Result<()> {
        adamw::adamw_8bit(into, gradient, moments, step).map_err(failed)
    }

    fn gather(&self, table: &Tensor, ids: &[u32]) -> Result<Tensor> {
        memory::gather(table, ids, self.0.dtype).map_err(failed)
    }

    fn scatter_add(&self, into: &Tensor, ids: &[u32], x: &Tensor) -> Result<()> {
        vector::scatter_add(into, ids, x).map_err(failed)
    }

    fn columns(&self, x: &Tensor, groups: usize, range: Range<usize>) -> Result<Tensor> {
        memory::columns(x, groups, range).map_err(failed)
    }

    fn join_columns(&self, parts: &[&Tensor], groups: usize) -> Result<Tensor> {
        memory::join_columns(parts, groups).map_err(failed)
    }

    fn linear(&self, x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        product::linear(x, w, bias, self.0.dtype).map_err(failed)
    }

    fn matmul(&self, a: Mat<'_, Tensor>, b: Mat<'_, Tensor>) -> Result<Tensor> {
        product::matmul(a, b, self.0.dtype).map_err(failed)
    }

    fn matmul_add(&self, into: &Tensor, scale: f64, a: Mat<'_, Tensor>, b: Mat<'_, Tensor>) -> Result<()> {
        product::matmul_add(into, scale, a, b, self.0.dtype).map_err(failed)
    }

    fn sum_rows_add(&self, into: &Tensor, x: &Tensor) -> Result<()> {
        vector::sum_rows_add(into, x).map_err(failed)
    }

    fn sum_products_add(&self, into: &Tensor, x: &Tensor, y: &Tensor) -> Result<()> {
        vector::sum_products_add(into, x, y).map_err(failed)
    }

    fn scale_columns(&self, into: &Tensor, factors: &Tensor, bias: Option<&Tensor>) -> Result<()> {
        vector::scale_columns(into, factors, bias).map_err(failed)
    }

    fn scale_rows(&self, x: &Tensor, factors: &Tensor) -> Result<Tensor> {
        vector::scale_rows(x, factors).map_err(failed)
    }

    fn row_dots(&self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        vector::row_dots(x, y).map_err(failed)
    }

    fn norm(&self, x: &Tensor, norm: Norm<&Tensor>) -> Result<Tensor> {
        norm::norm(x, norm).map_err(failed)
    }

    fn norm_backward(
        &self,
        x: &Tensor,
        norm: Norm<&Tensor>,
        upstream: &Tensor,
        gradients: [Option<&Tensor>; 2],
    ) -> Result<Tensor> {
        norm::norm_backward(x, norm, upstream, gradients).map_err(failed)
    }

    fn rope(&self, x: &Tensor, rotation: &Rotation<Tensor>, back: bool) -> Result<Tensor> {
        rope::rope(x, rotation, back).map_err(failed)
    }

    fn attention(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        how: &Attention,
        clusters: &[Cluster],
    ) -> Result<Tensor> {
        attention::attention(q, k, v, how, clusters).map_err(failed)
    }

    fn attention_backward(
        &self,
        qkv: [&Tensor; 3],
        _out: &Tensor,
        upstream: &Tensor,
        how: &Attention,
        clusters: &[Cluster],
    ) -> Result<[Tensor; 3]> {
        attention::attention_backward(qkv, upstream, how, clusters).map_err(failed)
    }

    fn activate(&self, f: Activation, x: &Tensor) -> Result<Tensor> {
        activation::activate(f, x).map_err(failed)
    }

    fn activate_backward(&self, f: Activation, x: &Tensor, upstream: &Tensor) -> Result<Tensor> {
        activation::activate_backward(f, x, upstream).map_err(failed)
    }

    fn gate(&self, f: Activation, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        activation::gate(f, gate, up).map_err(failed)
    }

    fn gate_backward(
        &self,
        f: Activation,
        gate: &Tensor,
        up: &Tensor,
        upstream: &Tensor,
    ) -> Result<[Tensor; 2]> {
        activation::gate_backward(f, [gate, up], upstream).map_err(failed)
    }

    fn score(
        &self,
        hidden: &Tensor,
        head: Head<&Tensor>,
        targets: &[u32],
        statistics: Statistics,
    ) -> Result<HeadScores> {
        let weight = head.decoded(self)?;
        head::score(hidden, head.with(weight.as_ref()), targets, statistics).map_err(failed)
    }

    fn score_backward(
        &self,
        hidden: &Tensor,
        head: Head<&Tensor>,
        targets: &[u32],
        log_normalizers: &[f64],
        upstream: &[f64],
        gradients: [Option<&Tensor>; 3],
    ) -> Result<Tensor> {
        let weight = head.decoded(self)?;
        let head = head.with(weight.as_ref());
        head::score_backward(hidden, head, targets, log_normalizers, upstream, gradients).map_err(failed)
    }

    fn recorder(&self) -> Option<NoTape> {
        None
    }
}
