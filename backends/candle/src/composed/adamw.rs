//! The optimizer.

use candle_core::{D, DType, Device, Result, Tensor};
use spo_transformer::{AdamWStep, BLOCK, Blockwise, DynamicMap, SIGNED, UNSIGNED};

use crate::memory::copy;

pub(super) fn adamw(
    into: &Tensor,
    gradient: &Tensor,
    [first, second]: [&Tensor; 2],
    step: &AdamWStep,
) -> Result<()> {
    let [m, v] = moved(into, gradient, [first, second], step)?;
    copy(first, &m)?;
    copy(second, &v)
}

pub(super) fn adamw_8bit(
    into: &Tensor,
    gradient: &Tensor,
    [first, second]: [Blockwise<&Tensor>; 2],
    step: &AdamWStep,
) -> Result<()> {
    let (into, gradient) = (into.flatten_all()?, gradient.flatten_all()?);
    let [signed, unsigned] = [&SIGNED, &UNSIGNED].map(|map| Table::new(map, into.device()));
    let (signed, unsigned) = (signed?, unsigned?);
    let moments = [signed.widened(first)?, unsigned.widened(second)?];
    let [m, v] = moved(&into, &gradient, moments.each_ref(), step)?;
    signed.round(&m, first)?;
    unsigned.round(&v, second)
}

/// Moves the parameters, and returns the moments as they are then.
fn moved(
    into: &Tensor,
    gradient: &Tensor,
    [first, second]: [&Tensor; 2],
    step: &AdamWStep,
) -> Result<[Tensor; 2]> {
    let [beta1, beta2] = step.betas;
    let g = (gradient * step.gradient_scale)?;
    let first = ((first * beta1)? + (&g * (1.0 - beta1))?)?;
    let second = ((second * beta2)? + (g.sqr()? * (1.0 - beta2))?)?;
    let [c1, c2] = step.betas.map(|beta| 1.0 - beta.powf(step.count as f64));
    let denominator = ((second.sqrt()? / c2.sqrt())? + step.epsilon)?;
    let update = ((&first / denominator)? * (step.lr / c1))?;
    copy(into, &((into * (1.0 - step.lr * step.weight_decay))? - update)?)?;
    Ok([first, second])
}

/// A map on the device.
struct Table {
    values: Tensor,
    middles: Tensor,
}

impl Table {
    fn new(map: &DynamicMap, device: &Device) -> Result<Self> {
        Ok(Table { values: Tensor::new(&map.values, device)?, middles: Tensor::new(&map.middles, device)? })
    }

    fn widened(&self, Blockwise { codes, scales }: Blockwise<&Tensor>) -> Result<Tensor> {
        let values = self.values.index_select(&codes.to_dtype(DType::U32)?, 0)?;
        let scaled = in_blocks(&values)?.broadcast_mul(&scales.unsqueeze(1)?)?;
        scaled.flatten_all()?.narrow(0, 0, codes.elem_count())
    }

    /// `into <- values`, each rounded to the nearest code.
    fn round(&self, values: &Tensor, into: Blockwise<&Tensor>) -> Result<()> {
        let blocks = in_blocks(values)?;
        let scales = blocks.abs()?.max_keepdim(D::Minus1)?;
        // A block of zeros is divided by something else.
        let divisors = scales.eq(0f32)?.where_cond(&scales.ones_like()?, &scales)?;
        let scaled = blocks.broadcast_mul(&divisors.recip()?)?.flatten_all()?;
        // How many middles lie below each value, by bisection.
        let mut below = scaled.zeros_like()?.to_dtype(DType::U32)?;
        for half in [128u32, 64, 32, 16, 8, 4, 2, 1] {
            let middles = self.middles.index_select(&(&below + f64::from(half - 1))?, 0)?;
            below = (below + (scaled.gt(&middles)?.to_dtype(DType::U32)? * f64::from(half))?)?;
        }
        copy(into.codes, &below.narrow(0, 0, values.elem_count())?)?;
        copy(into.scales, &scales.squeeze(1)?)
    }
}

/// A flat tensor in rows of a block each, the last filled up with zeros.
fn in_blocks(x: &Tensor) -> Result<Tensor> {
    let n = x.elem_count();
    let blocks = n.div_ceil(BLOCK);
    x.pad_with_zeros(0, 0, blocks * BLOCK - n)?.reshape((blocks, BLOCK))
}
