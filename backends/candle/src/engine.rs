use std::ops::Range;

use candle_core::{DType, Device, Tensor};
use spo_api::{Error, Result, Statistics};
use spo_transformer::{
    Activation, AdamWStep, Cluster, Engine, HeadScores, Heads, Mat, NoTape, Norm, Precision, Rotation,
};

use crate::fused::gemm::{Target, Threads, View, multiplied, product};
use crate::memory::{Values, write};
use crate::{composed, fused};

/// candle as the engine of the decoder.
#[derive(Clone, Debug)]
pub struct CandleEngine {
    device: Device,
    dtype: DType,
    /// Whether the kernels of this crate compute the hot operations.
    fused: bool,
}

impl CandleEngine {
    /// The fastest engine for a device and type: kernels of this crate for f32 on the CPU.
    pub fn new(device: Device, dtype: DType) -> Self {
        let fused = device.is_cpu() && dtype == DType::F32;
        CandleEngine { device, dtype, fused }
    }

    /// An engine that uses candle's own operations alone.
    pub fn composed(device: Device, dtype: DType) -> Self {
        CandleEngine { device, dtype, fused: false }
    }

    fn type_of(&self, precision: Precision) -> DType {
        match precision {
            Precision::Full => DType::F32,
            Precision::Half => DType::BF16,
            Precision::Compute => self.dtype,
        }
    }
}

fn failed(e: candle_core::Error) -> Error {
    Error::Engine(format!("candle: {e}"))
}

fn view<'a>(values: &'a Values<'_>, of: Mat<'_, Tensor>) -> candle_core::Result<View<'a>> {
    let (rows, columns) = of.tensor.dims2()?;
    let view = View::new(values, rows, columns);
    Ok(if of.transposed { view.t() } else { view })
}

fn plain(of: Mat<'_, Tensor>) -> candle_core::Result<Tensor> {
    if of.transposed { of.tensor.t() } else { Ok(of.tensor.clone()) }
}

fn fused_matmul(a: Mat<'_, Tensor>, b: Mat<'_, Tensor>) -> candle_core::Result<Tensor> {
    let (a_values, b_values) = (Values::widened(a.tensor)?, Values::widened(b.tensor)?);
    let (a, b) = (view(&a_values, a)?, view(&b_values, b)?);
    Tensor::from_vec(multiplied(a, b), (a.rows, b.columns), &Device::Cpu)
}

fn fused_linear(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> candle_core::Result<Tensor> {
    let (x_values, w_values) = (Values::of(x)?, Values::widened(w)?);
    let (x, w) = (view(&x_values, Mat::new(x))?, view(&w_values, Mat::t(w))?);
    let mut y = multiplied(x, w);
    if let Some(bias) = bias {
        fused::vector::add_bias(&mut y, bias)?;
    }
    Tensor::from_vec(y, (x.rows, w.columns), &Device::Cpu)
}

fn fused_matmul_add(
    into: &Tensor,
    scale: f64,
    a: Mat<'_, Tensor>,
    b: Mat<'_, Tensor>,
) -> candle_core::Result<()> {
    let (a_values, b_values) = (Values::widened(a.tensor)?, Values::widened(b.tensor)?);
    let (a, b) = (view(&a_values, a)?, view(&b_values, b)?);
    let (rows, stride) = into.dims2()?;
    if (rows, stride) != (a.rows, b.columns) {
        candle_core::bail!("a product {}x{} does not fit {rows}x{stride}", a.rows, b.columns);
    }
    write(into, |values: &mut [f32]| {
        product(Target { values, stride }, 1.0, scale as f32, a, b, Threads::All);
        Ok(())
    })
}

impl Engine for CandleEngine {
    type Tensor = Tensor;
    type Recorder = NoTape;

    fn device(&self) -> String {
        match self.device.location() {
            candle_core::DeviceLocation::Cpu => format!("CPU, {} threads", rayon::current_num_threads()),
            candle_core::DeviceLocation::Cuda { gpu_id } => format!("CUDA device {gpu_id}"),
            candle_core::DeviceLocation::Metal { gpu_id } => format!("Metal device {gpu_id}"),
        }
    }

    fn dtype(&self) -> &'static str {
        self.dtype.as_str()
    }

    fn upload(&self, values: Vec<f32>, shape: &[usize], precision: Precision) -> Result<Tensor> {
        let tensor = Tensor::from_vec(values, shape, &self.device).map_err(failed)?;
        tensor.to_dtype(self.type_of(precision)).map_err(failed)
    }

    fn download(&self, x: &Tensor) -> Result<Vec<f32>> {
        x.to_dtype(DType::F32).and_then(|x| x.flatten_all()?.to_vec1()).map_err(failed)
    }

    fn view(&self, x: &Tensor, start: usize, shape: &[usize]) -> Result<Tensor> {
        let part = x.flatten_all().and_then(|x| x.narrow(0, start, shape.iter().product()));
        part.and_then(|part| part.reshape(shape)).map_err(failed)
    }

    fn zeros(&self, shape: &[usize], precision: Precision) -> Result<Tensor> {
        Tensor::zeros(shape, self.type_of(precision), &self.device).map_err(failed)
    }

    fn scale(&self, into: &Tensor, a: f64) -> Result<()> {
        if self.fused { fused::vector::scale(into, a) } else { composed::scale(into, a) }.map_err(failed)
    }

    fn copy(&self, into: &Tensor, x: &Tensor) -> Result<()> {
        match self.fused && into.dtype() == DType::F32 {
            true => fused::vector::copy(into, x),
            false => composed::copy(into, x),
        }
        .map_err(failed)
    }

    fn axpy(&self, into: &Tensor, a: f64, x: &Tensor) -> Result<()> {
        if self.fused { fused::vector::axpy(into, a, x) } else { composed::axpy(into, a, x) }.map_err(failed)
    }

    fn dot(&self, x: &Tensor, y: &Tensor) -> Result<f64> {
        if self.fused { fused::vector::dot(x, y) } else { composed::dot(x, y) }.map_err(failed)
    }

    fn adamw(&self, into: &Tensor, gradient: &Tensor, moments: [&Tensor; 2], step: &AdamWStep) -> Result<()> {
        match self.fused {
            true => fused::adamw::adamw(into, gradient, moments, step),
            false => composed::adamw(into, gradient, moments, step),
        }
        .map_err(failed)
    }

    fn gather(&self, table: &Tensor, ids: &[u32]) -> Result<Tensor> {
        composed::gather(table, ids, self.dtype).map_err(failed)
    }

    fn scatter_add(&self, into: &Tensor, ids: &[u32], x: &Tensor) -> Result<()> {
        match self.fused {
            true => fused::vector::scatter_add(into, ids, x),
            false => composed::scatter_add(into, ids, x),
        }
        .map_err(failed)
    }

    fn columns(&self, x: &Tensor, range: Range<usize>) -> Result<Tensor> {
        x.narrow(1, range.start, range.len()).and_then(|x| x.contiguous()).map_err(failed)
    }

    fn join_columns(&self, parts: &[&Tensor]) -> Result<Tensor> {
        Tensor::cat(parts, 1).and_then(|x| x.contiguous()).map_err(failed)
    }

    fn linear(&self, x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        match self.fused {
            true => fused_linear(x, w, bias),
            false => composed::linear(x, w, bias, self.dtype),
        }
        .map_err(failed)
    }

    fn matmul(&self, a: Mat<'_, Tensor>, b: Mat<'_, Tensor>) -> Result<Tensor> {
        match self.fused {
            true => fused_matmul(a, b),
            false => plain(a).and_then(|a| composed::matmul(&a, &plain(b)?, self.dtype)),
        }
        .map_err(failed)
    }

    fn matmul_add(&self, into: &Tensor, scale: f64, a: Mat<'_, Tensor>, b: Mat<'_, Tensor>) -> Result<()> {
        match self.fused {
            true => fused_matmul_add(into, scale, a, b),
            false => plain(a)
                .and_then(|a| composed::axpy(into, scale, &composed::matmul(&a, &plain(b)?, self.dtype)?)),
        }
        .map_err(failed)
    }

    fn sum_rows_add(&self, into: &Tensor, x: &Tensor) -> Result<()> {
        match self.fused {
            true => fused::vector::sum_rows_add(into, x),
            false => composed::sum_rows_add(into, x),
        }
        .map_err(failed)
    }

    fn norm(&self, x: &Tensor, norm: Norm<&Tensor>) -> Result<Tensor> {
        if self.fused { fused::norm::norm(x, norm) } else { composed::norm(x, norm) }.map_err(failed)
    }

    fn norm_backward(
        &self,
        x: &Tensor,
        norm: Norm<&Tensor>,
        upstream: &Tensor,
        gradients: [Option<&Tensor>; 2],
    ) -> Result<Tensor> {
        match self.fused {
            true => fused::norm::norm_backward(x, norm, upstream, gradients),
            false => composed::norm_backward(x, norm, upstream, gradients),
        }
        .map_err(failed)
    }

    fn rope(&self, x: &Tensor, rotation: &Rotation<Tensor>, back: bool) -> Result<Tensor> {
        match self.fused {
            true => fused::rope::rope(x, &rotation.cos, &rotation.sin, back),
            false => composed::rope(x, rotation, back),
        }
        .map_err(failed)
    }

    fn attention(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        heads: Heads,
        clusters: &[Cluster],
    ) -> Result<Tensor> {
        match self.fused {
            true => fused::attention::attention(q, k, v, heads, clusters),
            false => composed::attention(q, k, v, heads, clusters),
        }
        .map_err(failed)
    }

    fn attention_backward(
        &self,
        qkv: [&Tensor; 3],
        out: &Tensor,
        upstream: &Tensor,
        heads: Heads,
        clusters: &[Cluster],
    ) -> Result<[Tensor; 3]> {
        match self.fused {
            true => fused::attention::attention_backward(qkv, out, upstream, heads, clusters),
            false => composed::attention_backward(qkv, upstream, heads, clusters),
        }
        .map_err(failed)
    }

    fn activate(&self, f: Activation, x: &Tensor) -> Result<Tensor> {
        if self.fused { fused::activation::activate(f, x) } else { composed::activate(f, x) }.map_err(failed)
    }

    fn activate_backward(&self, f: Activation, x: &Tensor, upstream: &Tensor) -> Result<Tensor> {
        match self.fused {
            true => fused::activation::activate_backward(f, x, upstream),
            false => composed::activate_backward(f, x, upstream),
        }
        .map_err(failed)
    }

    fn gate(&self, f: Activation, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        match self.fused {
            true => fused::activation::gate(f, gate, up),
            false => composed::gate(f, gate, up),
        }
        .map_err(failed)
    }

    fn gate_backward(
        &self,
        f: Activation,
        gate: &Tensor,
        up: &Tensor,
        upstream: &Tensor,
    ) -> Result<[Tensor; 2]> {
        match self.fused {
            true => fused::activation::gate_backward(f, gate, up, upstream),
            false => composed::gate_backward(f, [gate, up], upstream),
        }
        .map_err(failed)
    }

    fn score(
        &self,
        hidden: &Tensor,
        head: &Tensor,
        targets: &[u32],
        statistics: Statistics,
    ) -> Result<HeadScores> {
        match self.fused {
            true => fused::head::score(hidden, head, targets, statistics),
            false => composed::score(hidden, head, targets, statistics),
        }
        .map_err(failed)
    }

    fn score_backward(
        &self,
        hidden: &Tensor,
        head: &Tensor,
        targets: &[u32],
        log_normalizers: &[f64],
        upstream: &[f64],
        head_gradient: Option<&Tensor>,
    ) -> Result<Tensor> {
        match self.fused {
            true => {
                fused::head::score_backward(hidden, head, targets, log_normalizers, upstream, head_gradient)
            }
            false => {
                composed::score_backward(hidden, head, targets, log_normalizers, upstream, head_gradient)
            }
        }
        .map_err(failed)
    }

    fn recorder(&self) -> Option<NoTape> {
        None
    }
}
