//! libtorch as the engine of the decoder.

use std::ops::Range;

use spo_api::{Combine, Map, Result, Statistics};
use spo_transformer::{
    Activation, AdamWStep, Attention, Blockwise, Cluster, Engine, Head, HeadScores, Mat, Norm, Pairs,
    Recorder, Rotation,
};
use tch::{Device, Kind, Tensor};

use crate::activation::Slope;
use crate::memory::{Array, Explained, TchMemory};
use crate::tensor::{Outcome, index};
use crate::{activation, attention, elementwise, explicit, head, norm, optimizer, shim};

/// libtorch as the engine of the decoder.
#[derive(Clone, Copy, Debug)]
pub struct TchEngine {
    memory: TchMemory,
    /// Whether operations are recorded: then all must be twice differentiable.
    recording: bool,
}

impl TchEngine {
    /// An engine on a device that is there, computing in `compute`: [`Kind::Float`] or [`Kind::BFloat16`].
    pub fn new(device: Device, compute: Kind) -> Self {
        TchEngine { memory: TchMemory { device, compute }, recording: false }
    }

    fn slope(&self) -> Slope {
        if self.recording { Slope::Recorded } else { Slope::Fused }
    }

    /// Whether attention is spelled out.
    fn explicit(&self, how: &Attention) -> bool {
        self.recording || how.cap.is_some()
    }

    /// A factor of a product, in the type products are computed in.
    fn factor(&self, of: &Mat<'_, Array>) -> Outcome<Tensor> {
        let x = of.tensor.0.f_to_kind(self.memory.compute)?;
        if of.transposed { x.f_tr() } else { Ok(x) }
    }
}

fn tensors(norm: Norm<&Array>) -> Norm<&Tensor> {
    let Norm { kind, epsilon, offset, weight, bias } = norm;
    Norm { kind, epsilon, offset, weight: &weight.0, bias: bias.map(|bias| &bias.0) }
}

fn of_head(head: Head<&Array>) -> Head<&Tensor> {
    let Head { weight, blocks, bias, low_rank, cap } = head;
    Head { weight: &weight.0, blocks, bias: bias.map(|b| &b.0), low_rank: low_rank.map(|b| &b.0), cap }
}

impl Engine for TchEngine {
    type Tensor = Array;
    type Memory = TchMemory;
    type Recorder = TchRecorder;

    fn memory(&self) -> &TchMemory {
        &self.memory
    }

    fn scale(&self, into: &Array, a: f64) -> Result<()> {
        let mut target = into.0.shallow_clone();
        let scaled = if a == 0.0 { target.f_zero_() } else { target.f_mul_scalar_(a) };
        scaled.map(|_| ()).of("scale", &[into])
    }

    fn axpy(&self, into: &Array, a: f64, x: &Array) -> Result<()> {
        shim::axpy(&into.0, a, &x.0).of("axpy", &[into, x])
    }

    fn dot(&self, x: &Array, y: &Array) -> Result<f64> {
        let flat = |x: &Array| x.0.f_reshape(-1);
        flat(x).and_then(|a| shim::dot(&a, &flat(y)?)).of("dot", &[x, y])
    }

    fn map(&self, f: Map, into: &Array) -> Result<()> {
        elementwise::map(f, &into.0).of(&format!("{f:?}"), &[into])
    }

    fn combine(&self, op: Combine, into: &Array, x: &Array) -> Result<()> {
        elementwise::combine(op, &into.0, &x.0).of(&format!("{op:?}"), &[into, x])
    }

    fn adamw(&self, into: &Array, gradient: &Array, moments: [&Array; 2], step: &AdamWStep) -> Result<()> {
        optimizer::adamw(&into.0, &gradient.0, moments.map(|moment| &moment.0), step).of("adamw", &[into])
    }

    fn adamw_8bit(
        &self,
        into: &Array,
        gradient: &Array,
        moments: [Blockwise<&Array>; 2],
        step: &AdamWStep,
    ) -> Result<()> {
        let moments = moments.map(|moment| Blockwise { codes: &moment.codes.0, scales: &moment.scales.0 });
        optimizer::adamw_8bit(&into.0, &gradient.0, moments, step).of("adamw_8bit", &[into])
    }

    fn gather(&self, table: &Array, ids: &[u32]) -> Result<Array> {
        let gathered =
            || table.0.f_index_select(0, &index(ids, self.memory.device)?)?.f_to_kind(self.memory.compute);
        gathered().map(Array).of(&format!("gather of {} rows", ids.len()), &[table])
    }

    fn scatter_add(&self, into: &Array, ids: &[u32], x: &Array) -> Result<()> {
        let mut target = into.0.shallow_clone();
        let mut add =
            || target.f_index_add_(0, &index(ids, self.memory.device)?, &x.0.f_to_kind(into.0.f_kind()?)?);
        add().map(|_| ()).of("scatter_add", &[into, x])
    }

    fn columns(&self, x: &Array, groups: usize, range: Range<usize>) -> Result<Array> {
        let part = || {
            let (rows, groups) = (x.0.size2()?.0, groups as i64);
            let part =
                x.0.f_view((rows * groups, -1))?.f_narrow(1, range.start as i64, range.len() as i64)?;
            part.f_reshape([rows, groups * range.len() as i64])?.f_contiguous()
        };
        part().map(Array).of("columns", &[x])
    }

    fn join_columns(&self, parts: &[&Array], groups: usize) -> Result<Array> {
        let joined = || {
            let grouped = |x: &&Array| x.0.f_view((x.0.size()[0] * groups as i64, -1));
            let tensors = parts.iter().map(grouped).collect::<Outcome<Vec<_>>>()?;
            let rows = parts.first().map_or(0, |x| x.0.size()[0]);
            Tensor::f_cat(&tensors, 1)?.f_view((rows, -1))
        };
        joined().map(Array).of("join_columns", parts)
    }

    fn linear(&self, x: &Array, w: &Array, bias: Option<&Array>) -> Result<Array> {
        let product = || {
            let (x, w) = (self.factor(&Mat::new(x))?, self.factor(&Mat::t(w))?);
            match bias {
                Some(bias) => bias.0.f_to_kind(self.memory.compute)?.f_addmm(&x, &w),
                None => x.f_mm(&w),
            }
        };
        product().map(Array).of("linear", &[x, w])
    }

    fn matmul(&self, a: Mat<'_, Array>, b: Mat<'_, Array>) -> Result<Array> {
        let product = || self.factor(&a)?.f_mm(&self.factor(&b)?);
        product().map(Array).of("matmul", &[a.tensor, b.tensor])
    }

    fn matmul_add(&self, into: &Array, scale: f64, a: Mat<'_, Array>, b: Mat<'_, Array>) -> Result<()> {
        let add = || {
            let (a, b) = (self.factor(&a)?, self.factor(&b)?);
            match into.0.f_kind()? == self.memory.compute {
                true => shim::add_product(&into.0, scale, &a, &b),
                false => shim::axpy(&into.0, scale, &a.f_mm(&b)?),
            }
        };
        add().of("matmul_add", &[into, a.tensor, b.tensor])
    }

    fn sum_rows_add(&self, into: &Array, x: &Array) -> Result<()> {
        norm::sum_rows_add(&into.0, &x.0).of("sum_rows_add", &[into, x])
    }

    fn sum_products_add(&self, into: &Array, x: &Array, y: &Array) -> Result<()> {
        let products = || x.0.f_to_kind(Kind::Float)?.f_mul(&y.0.f_to_kind(Kind::Float)?);
        products()
            .and_then(|products| norm::sum_rows_add(&into.0, &products))
            .of("sum_products_add", &[into, x, y])
    }

    fn scale_columns(&self, into: &Array, factors: &Array, bias: Option<&Array>) -> Result<()> {
        let mut target = into.0.shallow_clone();
        let mut scale = || {
            let mut scaled = target.f_mul_(&factors.0.f_to_kind(into.0.kind())?)?;
            bias.map_or(Ok(()), |bias| scaled.f_add_(&bias.0.f_to_kind(into.0.kind())?).map(|_| ()))
        };
        scale().of("scale_columns", &[into, factors])
    }

    fn scale_rows(&self, x: &Array, factors: &Array) -> Result<Array> {
        let scaled = || x.0.f_mul(&factors.0.f_to_kind(x.0.f_kind()?)?);
        scaled().map(Array).of("scale_rows", &[x, factors])
    }

    fn row_dots(&self, x: &Array, y: &Array) -> Result<Array> {
        let dots = || {
            let products = x.0.f_to_kind(Kind::Float)?.f_mul(&y.0.f_to_kind(Kind::Float)?)?;
            products.f_sum_dim_intlist(1, true, Kind::Float)
        };
        dots().map(Array).of("row_dots", &[x, y])
    }

    fn norm(&self, x: &Array, norm: Norm<&Array>) -> Result<Array> {
        norm::norm(&x.0, tensors(norm)).map(Array).of("norm", &[x, norm.weight])
    }

    fn norm_backward(
        &self,
        x: &Array,
        norm: Norm<&Array>,
        upstream: &Array,
        gradients: [Option<&Array>; 2],
    ) -> Result<Array> {
        let gradients = gradients.map(|gradient| gradient.map(|x| &x.0));
        norm::norm_backward(&x.0, tensors(norm), &upstream.0, gradients)
            .map(Array)
            .of("norm_backward", &[x, norm.weight, upstream])
    }

    fn rope(&self, x: &Array, rotation: &Rotation<Array>, back: bool) -> Result<Array> {
        rope(&x.0, rotation, back).map(Array).of("rope", &[x, &rotation.cos])
    }

    fn attention(
        &self,
        q: &Array,
        k: &Array,
        v: &Array,
        how: &Attention,
        clusters: &[Cluster],
    ) -> Result<Array> {
        let qkv = [&q.0, &k.0, &v.0];
        match self.explicit(how) {
            true => explicit::attention(qkv, how, clusters),
            false => attention::attention(qkv, how, clusters),
        }
        .map(Array)
        .of("attention", &[q, k, v])
    }

    fn attention_backward(
        &self,
        qkv: [&Array; 3],
        _out: &Array,
        upstream: &Array,
        how: &Attention,
        clusters: &[Cluster],
    ) -> Result<[Array; 3]> {
        let tensors = qkv.map(|x| &x.0);
        match self.explicit(how) {
            true => explicit::attention_backward(tensors, &upstream.0, how, clusters),
            false => attention::attention_backward(tensors, &upstream.0, how, clusters),
        }
        .map(|gradients| gradients.map(Array))
        .of("attention_backward", &qkv)
    }

    fn activate(&self, f: Activation, x: &Array) -> Result<Array> {
        activation::activate(f, &x.0).map(Array).of("activate", &[x])
    }

    fn activate_backward(&self, f: Activation, x: &Array, upstream: &Array) -> Result<Array> {
        activation::activate_backward(f, &x.0, &upstream.0, self.slope())
            .map(Array)
            .of("activate_backward", &[x, upstream])
    }

    fn gate(&self, f: Activation, gate: &Array, up: &Array) -> Result<Array> {
        activation::gate(f, &gate.0, &up.0).map(Array).of("gate", &[gate, up])
    }

    fn gate_backward(&self, f: Activation, gate: &Array, up: &Array, upstream: &Array) -> Result<[Array; 2]> {
        activation::gate_backward(f, [&gate.0, &up.0], &upstream.0, self.slope())
            .map(|gradients| gradients.map(Array))
            .of("gate_backward", &[gate, up, upstream])
    }

    fn score(
        &self,
        hidden: &Array,
        head: Head<&Array>,
        targets: &[u32],
        statistics: Statistics,
    ) -> Result<HeadScores> {
        let weight = head.decoded(self)?;
        let head = head.with(weight.as_ref());
        head::score(&hidden.0, of_head(head), targets, statistics).of("score", &[hidden, head.weight])
    }

    fn score_backward(
        &self,
        hidden: &Array,
        head: Head<&Array>,
        targets: &[u32],
        log_normalizers: &[f64],
        upstream: &[f64],
        gradients: [Option<&Array>; 3],
    ) -> Result<Array> {
        let gradients = gradients.map(|gradient| gradient.map(|x| &x.0));
        let weight = head.decoded(self)?;
        let head = head.with(weight.as_ref());
        head::score_backward(&hidden.0, of_head(head), targets, log_normalizers, upstream, gradients)
            .map(Array)
            .of("score_backward", &[hidden, head.weight])
    }

    fn recorder(&self) -> Option<TchRecorder> {
        Some(TchRecorder(TchEngine { recording: true, ..*self }))
    }
}

/// libtorch's own tape.
#[derive(Clone, Copy, Debug)]
pub struct TchRecorder(TchEngine);

impl Recorder<TchEngine> for TchRecorder {
    fn engine(&self) -> &TchEngine {
        &self.0
    }

    fn score_backward(
        &self,
        hidden: &Array,
        head: Head<&Array>,
        targets: &[u32],
        upstream: &Array,
        gradients: [Option<&Array>; 3],
    ) -> Result<Array> {
        let gradients = gradients.map(|gradient| gradient.map(|x| &x.0));
        let weight = head.decoded(&self.0)?;
        let head = head.with(weight.as_ref());
        head::recorded_score_backward(&hidden.0, of_head(head), targets, &upstream.0, gradients)
            .map(Array)
            .of("score_backward", &[hidden, head.weight])
    }

    fn watch(&self, tensors: &[&Array], watched: bool) -> Result<()> {
        tensors.iter().try_for_each(|x| shim::watch(&x.0, watched).of("watch", &[x]))
    }

    fn pull_back(&self, outputs: &[&Array], seeds: &[&Array], inputs: &[&Array]) -> Result<Vec<Array>> {
        let tensors = |arrays: &[&Array]| arrays.iter().map(|x| x.0.shallow_clone()).collect::<Vec<_>>();
        let found = shim::pull_back(&tensors(outputs), &tensors(seeds), &tensors(inputs));
        Ok(found.of("pull_back", &[])?.into_iter().map(Array).collect())
    }
}

fn rope(x: &Tensor, rotation: &Rotation<Array>, back: bool) -> Outcome<Tensor> {
    let (n, width) = x.size2()?;
    let (half, dim) = (rotation.cos.0.size2()?.1, rotation.dim as i64);
    let heads = width / dim;
    // The axis of a pair's two elements, in [rows, heads, ...].
    let (axis, shape, table) = match rotation.pairs {
        Pairs::Halves => (2, [n, heads, 2, half], [n, 1, 1, half]),
        Pairs::Neighbours => (3, [n, heads, half, 2], [n, 1, half, 1]),
    };
    let table = |t: &Array| t.0.f_to_kind(x.f_kind()?)?.f_view(table);
    let (cos, sin) = (table(&rotation.cos)?, table(&rotation.sin)?);
    let sin = if back { sin.f_neg()? } else { sin };
    let x = x.f_view((n, heads, dim))?;
    let rotated = x.f_narrow(2, 0, 2 * half)?.f_reshape(shape)?;
    let (x1, x2) = (rotated.f_narrow(axis, 0, 1)?, rotated.f_narrow(axis, 1, 1)?);
    let y1 = x1.f_mul(&cos)?.f_sub_(&x2.f_mul(&sin)?)?;
    let y2 = x2.f_mul(&cos)?.f_add_(&x1.f_mul(&sin)?)?;
    let turned = Tensor::f_cat(&[y1, y2], axis)?.f_view((n, heads, 2 * half))?;
    let all = match 2 * half == dim {
        true => turned,
        false => Tensor::f_cat(&[turned, x.f_narrow(2, 2 * half, dim - 2 * half)?], 2)?,
    };
    all.f_view((n, width))
}
