//! Arrays of libtorch on one device, and failures with the operation and its operands.

use spo_api::{Error, Result};
use spo_transformer::{Memory, Precision};
use tch::{Device, Kind, TchError, Tensor};

use crate::tensor::{Outcome, download, first_line};

/// A handle on a tensor of libtorch.
#[derive(Debug)]
pub struct Array(pub(crate) Tensor);

impl Clone for Array {
    fn clone(&self) -> Self {
        Array(self.0.shallow_clone())
    }
}

/// Arrays of libtorch on one device.
#[derive(Clone, Copy, Debug)]
pub struct TchMemory {
    pub(crate) device: Device,
    /// The type of [`Precision::Compute`].
    pub(crate) compute: Kind,
}

impl TchMemory {
    fn kind_of(&self, precision: Precision) -> Kind {
        match precision {
            Precision::Full => Kind::Float,
            Precision::Half => Kind::BFloat16,
            Precision::Compute => self.compute,
            Precision::Byte => Kind::Uint8,
        }
    }

    fn tensor_of(&self, values: &[f32], shape: &[usize], kind: Kind) -> Outcome<Tensor> {
        let shape: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
        Tensor::f_from_slice(values)?.f_reshape(shape)?.f_to_device(self.device)?.f_to_kind(kind)
    }
}

impl Memory for TchMemory {
    type Tensor = Array;

    fn device(&self) -> String {
        match self.device {
            Device::Cpu => {
                let threads = tch::get_num_threads();
                let slow = self.compute == Kind::BFloat16 && !bf16_instructions();
                let but = if slow { " (no instructions for bf16: f32 is far faster)" } else { "" };
                format!("CPU, {threads} threads, libtorch{but}")
            }
            Device::Cuda(ordinal) => format!("CUDA device {ordinal}, libtorch"),
            other => format!("{other:?}, libtorch"),
        }
    }

    fn dtype(&self) -> &'static str {
        name(self.compute)
    }

    fn capacity(&self) -> Option<u64> {
        (self.device == Device::Cpu).then(spo_api::machine::memory).flatten()
    }

    fn upload(&self, values: Vec<f32>, shape: &[usize], precision: Precision) -> Result<Array> {
        let made = self.tensor_of(&values, shape, self.kind_of(precision));
        made.map(Array).of(&format!("upload of {shape:?}"), &[])
    }

    fn download(&self, x: &Array) -> Result<Vec<f32>> {
        download(&x.0).of("download", &[x])
    }

    fn upload_bytes(&self, bytes: Vec<u8>, shape: &[usize]) -> Result<Array> {
        let shape: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
        let made = || Tensor::f_from_slice(&bytes)?.f_reshape(&shape)?.f_to_device(self.device);
        made().map(Array).of(&format!("upload of {shape:?} bytes"), &[])
    }

    fn download_bytes(&self, x: &Array) -> Result<Vec<u8>> {
        let bytes = || {
            let x = x.0.f_to_device(Device::Cpu)?.f_contiguous()?;
            let mut bytes = vec![0; x.numel()];
            x.f_copy_data(&mut bytes, x.numel())?;
            Ok(bytes)
        };
        bytes().of("download", &[x])
    }

    fn view(&self, x: &Array, start: usize, shape: &[usize]) -> Result<Array> {
        let size: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
        // Detached, because a tape would follow what is written to one view into all the others.
        let part = || {
            x.0.f_view(-1)?.f_narrow(0, start as i64, size.iter().product())?.f_view(&size[..])?.f_detach()
        };
        part().map(Array).of("view", &[x])
    }

    fn zeros(&self, shape: &[usize], precision: Precision) -> Result<Array> {
        let size: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
        let made = Tensor::f_zeros(size, (self.kind_of(precision), self.device));
        made.map(Array).of(&format!("allocation of {shape:?}"), &[])
    }

    fn copy(&self, into: &Array, x: &Array) -> Result<()> {
        into.0.shallow_clone().f_copy_(&x.0).of("copy", &[into, x])
    }
}

/// Whether this processor multiplies in bf16 itself. Without, libtorch takes some thirty times as long as in f32.
fn bf16_instructions() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    true
}

/// A failure with what was attempted, and on what.
fn failed(operation: &str, operands: &[&Array], error: TchError) -> Error {
    let shapes: Vec<String> =
        operands.iter().map(|x| format!("{:?} {}", x.0.size(), name(x.0.kind()))).collect();
    let on = if shapes.is_empty() { String::new() } else { format!(" of {}", shapes.join(", ")) };
    Error::Engine(format!("libtorch: {operation}{on}: {}", first_line(error)))
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Float => "f32",
        Kind::BFloat16 => "bf16",
        Kind::Int64 => "i64",
        Kind::Uint8 => "u8",
        _ => "other",
    }
}

/// Adds to a failure the operation and its operands.
pub(crate) trait Explained<T> {
    fn of(self, operation: &str, operands: &[&Array]) -> Result<T>;
}

impl<T> Explained<T> for Outcome<T> {
    fn of(self, operation: &str, operands: &[&Array]) -> Result<T> {
        self.map_err(|error| failed(operation, operands, error))
    }
}
