//! Slices of the memory of CPU tensors.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::{Deref, Range};

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Storage, StorageRef, Tensor, bail};
use half::bf16;
use rayon::prelude::*;

use super::tasks::{GRAIN, vectorised};

/// The values of a contiguous CPU tensor in f32.
pub(super) enum Values<'a> {
    /// Where they lie, locked for reading.
    Lying { storage: StorageRef<'a>, range: Range<usize> },
    /// Brought to f32.
    Widened(Vec<f32>),
}

impl<'a> Values<'a> {
    pub fn of(x: &'a Tensor) -> Result<Self> {
        let (storage, layout) = x.storage_and_layout();
        let range = contiguous(layout)?;
        match &*storage {
            Storage::Cpu(CpuStorage::F32(_)) => Ok(Values::Lying { storage, range }),
            _ => bail!("a fused operation was given a tensor that is not f32 on the CPU"),
        }
    }

    /// As [`of`](Self::of), also of a tensor in bf16.
    pub fn widened(x: &'a Tensor) -> Result<Self> {
        let (storage, layout) = x.storage_and_layout();
        if let Storage::Cpu(CpuStorage::BF16(values)) = &*storage {
            return Ok(Values::Widened(widened(&values[contiguous(layout)?])));
        }
        // It is locked once more.
        drop(storage);
        Self::of(x)
    }
}

/// bf16 is the upper half of f32: nothing is lost. `to_f32` looks for NaN first, and would not be vectorised.
#[inline(always)]
pub(super) fn wide(x: bf16) -> f32 {
    f32::from_bits(u32::from(x.to_bits()) << 16)
}

fn widened(values: &[bf16]) -> Vec<f32> {
    let mut all = vec![0.0; values.len()];
    all.par_chunks_mut(GRAIN).zip(values.par_chunks(GRAIN)).for_each(|(into, values)| {
        vectorised(
            #[inline(always)]
            || {
                for (y, &x) in into.iter_mut().zip(values) {
                    *y = wide(x);
                }
            },
        );
    });
    all
}

impl Deref for Values<'_> {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        match self {
            Values::Widened(values) => values,
            Values::Lying { storage, range } => match &**storage {
                Storage::Cpu(CpuStorage::F32(values)) => &values[range.clone()],
                _ => unreachable!("checked when it was locked"),
            },
        }
    }
}

fn contiguous(layout: &Layout) -> Result<Range<usize>> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(start..end),
        None => bail!("a fused operation was given a tensor that is not contiguous"),
    }
}

/// Runs `write` on the values of a contiguous CPU tensor, in place.
pub(super) fn write<T: Stored>(x: &Tensor, write: impl FnOnce(&mut [T]) -> Result<()>) -> Result<()> {
    x.inplace_op1(&Write(RefCell::new(Some(write)), PhantomData))
}

/// Types of which a tensor's memory can be written.
pub(super) trait Stored: Sized {
    fn of(storage: &mut CpuStorage) -> Option<&mut [Self]>;
}

impl Stored for f32 {
    fn of(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        if let CpuStorage::F32(values) = storage { Some(values) } else { None }
    }
}

impl Stored for u8 {
    fn of(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        if let CpuStorage::U8(values) = storage { Some(values) } else { None }
    }
}

impl Stored for bf16 {
    fn of(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        if let CpuStorage::BF16(values) = storage { Some(values) } else { None }
    }
}

/// candle lets go of mutable memory only inside an in-place operation.
struct Write<F, T>(RefCell<Option<F>>, PhantomData<fn(T)>);

impl<T: Stored, F: FnOnce(&mut [T]) -> Result<()>> InplaceOp1 for Write<F, T> {
    fn name(&self) -> &'static str {
        "write"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let range = contiguous(layout)?;
        match (T::of(storage), self.0.take()) {
            (Some(values), Some(write)) => write(&mut values[range]),
            _ => bail!("an in-place operation was given a tensor of another type than it writes"),
        }
    }
}
