//! What both engines do alike: arrays on a device, and values moved without being changed.

use std::ops::Range;

use candle_core::{DType, Device, DeviceLocation, Tensor};
use spo_api::{Error, Result};
use spo_transformer::{Memory, Precision};

/// Arrays of candle on one device.
#[derive(Clone, Debug)]
pub struct CandleMemory {
    device: Device,
    /// The type of [`Precision::Compute`].
    pub(crate) dtype: DType,
}

impl CandleMemory {
    pub(crate) fn new(device: Device, dtype: DType) -> Self {
        CandleMemory { device, dtype }
    }

    fn type_of(&self, precision: Precision) -> DType {
        match precision {
            Precision::Full => DType::F32,
            Precision::Half => DType::BF16,
            Precision::Compute => self.dtype,
            Precision::Byte => DType::U8,
        }
    }
}

impl Memory for CandleMemory {
    type Tensor = Tensor;

    fn device(&self) -> String {
        match self.device.location() {
            DeviceLocation::Cpu => format!("CPU, {} threads", rayon::current_num_threads()),
            DeviceLocation::Cuda { gpu_id } => format!("CUDA device {gpu_id}"),
            DeviceLocation::Metal { gpu_id } => format!("Metal device {gpu_id}"),
        }
    }

    fn dtype(&self) -> &'static str {
        self.dtype.as_str()
    }

    fn capacity(&self) -> Option<u64> {
        self.device.is_cpu().then(spo_api::machine::memory).flatten()
    }

    fn upload(&self, values: Vec<f32>, shape: &[usize], precision: Precision) -> Result<Tensor> {
        let tensor = Tensor::from_vec(values, shape, &self.device).map_err(failed)?;
        tensor.to_dtype(self.type_of(precision)).map_err(failed)
    }

    fn download(&self, x: &Tensor) -> Result<Vec<f32>> {
        x.to_dtype(DType::F32).and_then(|x| x.flatten_all()?.to_vec1()).map_err(failed)
    }

    fn upload_bytes(&self, bytes: Vec<u8>, shape: &[usize]) -> Result<Tensor> {
        Tensor::from_vec(bytes, shape, &self.device).map_err(failed)
    }

    fn download_bytes(&self, x: &Tensor) -> Result<Vec<u8>> {
        x.flatten_all().and_then(|x| x.to_vec1()).map_err(failed)
    }

    fn view(&self, x: &Tensor, start: usize, shape: &[usize]) -> Result<Tensor> {
        let part = x.flatten_all().and_then(|x| x.narrow(0, start, shape.iter().product()));
        part.and_then(|part| part.reshape(shape)).map_err(failed)
    }

    fn zeros(&self, shape: &[usize], precision: Precision) -> Result<Tensor> {
        Tensor::zeros(shape, self.type_of(precision), &self.device).map_err(failed)
    }

    fn copy(&self, into: &Tensor, x: &Tensor) -> Result<()> {
        copy(into, x).map_err(failed)
    }
}

pub(crate) fn failed(e: candle_core::Error) -> Error {
    Error::Engine(format!("candle: {e}"))
}

/// `into <- x`, whatever the types.
pub(crate) fn copy(into: &Tensor, x: &Tensor) -> candle_core::Result<()> {
    into.slice_set(&x.to_dtype(into.dtype())?.contiguous()?, 0, 0)
}

/// Some rows of a matrix, in place.
pub(crate) fn rows(x: &Tensor, rows: &Range<usize>) -> candle_core::Result<Tensor> {
    x.narrow(0, rows.start, rows.len())
}

/// Token ids as candle wants an index, on the device of another tensor.
pub(crate) fn index(ids: &[u32], like: &Tensor) -> candle_core::Result<Tensor> {
    Tensor::new(ids, like.device())
}

/// Rows `ids` of a matrix, in a type.
pub(crate) fn gather(table: &Tensor, ids: &[u32], dtype: DType) -> candle_core::Result<Tensor> {
    table.index_select(&index(ids, table)?, 0)?.to_dtype(dtype)
}

/// A range of columns of each of several matrices that stand side by side.
pub(crate) fn columns(x: &Tensor, groups: usize, range: Range<usize>) -> candle_core::Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let part = x.reshape((rows * groups, width / groups))?.narrow(1, range.start, range.len())?;
    part.contiguous()?.reshape((rows, groups * range.len()))
}

/// The inverse of [`columns`].
pub(crate) fn join_columns(parts: &[&Tensor], groups: usize) -> candle_core::Result<Tensor> {
    let Some(first) = parts.first() else { candle_core::bail!("no columns to join") };
    let rows = first.dim(0)?;
    let grouped = |part: &&Tensor| part.reshape((rows * groups, part.dim(1)? / groups));
    let grouped = parts.iter().map(grouped).collect::<candle_core::Result<Vec<_>>>()?;
    Tensor::cat(&grouped, 1)?.contiguous()?.reshape((rows, ()))
}
