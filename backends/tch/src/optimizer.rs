//! The optimizer, by libtorch's fused kernel.

use spo_transformer::{AdamWStep, BLOCK, Blockwise, DynamicMap, SIGNED, UNSIGNED};
use tch::{Device, Kind, Tensor};

use crate::shim;
use crate::tensor::Outcome;

pub(crate) fn adamw(
    into: &Tensor,
    gradient: &Tensor,
    [first, second]: [&Tensor; 2],
    step: &AdamWStep,
) -> Outcome<()> {
    let flat = |x: &Tensor| x.f_view(-1);
    shim::adamw(&flat(into)?, &flat(gradient)?, [&flat(first)?, &flat(second)?], step)
}

/// With the moments in f32 for the time of the update.
pub(crate) fn adamw_8bit(
    into: &Tensor,
    gradient: &Tensor,
    [first, second]: [Blockwise<&Tensor>; 2],
    step: &AdamWStep,
) -> Outcome<()> {
    let device = into.device();
    let (signed, unsigned) = (Table::new(&SIGNED, device)?, Table::new(&UNSIGNED, device)?);
    let (m, v) = (signed.widened(first)?, unsigned.widened(second)?);
    adamw(into, gradient, [&m, &v], step)?;
    signed.round(&m, first)?;
    unsigned.round(&v, second)
}

/// A map on the device.
struct Table {
    values: Tensor,
    middles: Tensor,
}

impl Table {
    fn new(map: &DynamicMap, device: Device) -> Outcome<Self> {
        let on_device = |values: &[f32]| Tensor::f_from_slice(values)?.f_to_device(device);
        Ok(Table { values: on_device(&map.values)?, middles: on_device(&map.middles)? })
    }

    fn widened(&self, Blockwise { codes, scales }: Blockwise<&Tensor>) -> Outcome<Tensor> {
        let values = self.values.f_index_select(0, &codes.f_to_kind(Kind::Int64)?)?;
        let scaled = in_blocks(&values)?.f_mul(&scales.f_unsqueeze(1)?)?;
        scaled.f_view(-1)?.f_narrow(0, 0, codes.numel() as i64)?.f_contiguous()
    }

    /// `into <- values`, each rounded to the nearest code.
    fn round(&self, values: &Tensor, into: Blockwise<&Tensor>) -> Outcome<()> {
        let blocks = in_blocks(values)?;
        let scales = blocks.f_abs()?.f_amax(1, true)?;
        // A block of zeros is divided by something else.
        let divisors = scales.f_masked_fill(&scales.f_eq(0.0)?, 1.0)?;
        let scaled = blocks.f_mul(&divisors.f_reciprocal()?)?.f_view(-1)?;
        let codes = scaled.f_bucketize(&self.middles, true, false)?;
        into.codes.shallow_clone().f_copy_(&codes.f_narrow(0, 0, values.numel() as i64)?)?;
        into.scales.shallow_clone().f_copy_(&scales.f_squeeze_dim(1)?)
    }
}

/// A flat tensor in rows of a block each, the last filled up with zeros.
fn in_blocks(x: &Tensor) -> Outcome<Tensor> {
    let (n, block) = (x.numel() as i64, BLOCK as i64);
    let missing = (block - n % block) % block;
    x.f_constant_pad_nd([0, missing])?.f_view((-1, block))
}
