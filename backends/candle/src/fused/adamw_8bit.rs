//! The optimizer with moments in 8 bits: one pass over parameters and gradient, a block at a time.

use candle_core::{Result, Tensor};
use rayon::prelude::*;
use spo_transformer::{AdamWStep, BLOCK, Blockwise};

use super::adamw::Factors;
use super::codes::{Codes, SIGNED_CODES, UNSIGNED_CODES};
use super::math::max;
use super::slices::{Values, write};
use super::tasks::{GRAIN, vectorised};

pub(super) fn adamw_8bit(
    into: &Tensor,
    gradient: &Tensor,
    [first, second]: [Blockwise<&Tensor>; 2],
    step: &AdamWStep,
) -> Result<()> {
    let factors = Factors::of(step);
    let g = Values::of(gradient)?;
    write(into, |p: &mut [f32]| {
        in_blocks(first, |first| {
            in_blocks(second, |second| {
                let moments = tasks(first).zip(tasks(second));
                let all = p.par_chunks_mut(GRAIN).zip(g.par_chunks(GRAIN)).zip(moments);
                all.for_each(|((p, g), (first, second))| {
                    vectorised(
                        #[inline(always)]
                        || update(p, g, first, second, factors),
                    );
                });
                Ok(())
            })
        })
    })
}

/// Codes and scales of some blocks.
type Blocks<'a> = (&'a mut [u8], &'a mut [f32]);

fn in_blocks(moment: Blockwise<&Tensor>, run: impl FnOnce(Blocks<'_>) -> Result<()>) -> Result<()> {
    write(moment.codes, |codes: &mut [u8]| write(moment.scales, |scales: &mut [f32]| run((codes, scales))))
}

fn tasks<'a>((codes, scales): Blocks<'a>) -> impl IndexedParallelIterator<Item = Blocks<'a>> {
    codes.par_chunks_mut(GRAIN).zip(scales.par_chunks_mut(GRAIN / BLOCK))
}

/// The blocks of a moment, one after the other.
fn blocks<'a>((codes, scales): Blocks<'a>) -> impl Iterator<Item = (&'a mut [u8], &'a mut f32)> {
    codes.chunks_mut(BLOCK).zip(scales)
}

#[inline(always)]
fn update(p: &mut [f32], g: &[f32], first: Blocks<'_>, second: Blocks<'_>, factors: Factors) {
    let (signed, unsigned) = (&*SIGNED_CODES, &*UNSIGNED_CODES);
    let operands = p.chunks_mut(BLOCK).zip(g.chunks(BLOCK));
    for ((p, g), (first, second)) in operands.zip(blocks(first).zip(blocks(second))) {
        let (mut m, mut v) = (widened(first.0, *first.1, signed), widened(second.0, *second.1, unsigned));
        for ((p, &g), (m, v)) in p.iter_mut().zip(g).zip(m.iter_mut().zip(&mut v)) {
            [*m, *v] = factors.update(p, g, [*m, *v]);
        }
        *first.1 = rounded(&m, first.0, signed);
        *second.1 = rounded(&v, second.0, unsigned);
    }
}

/// The values of a block, and 0 beyond its end.
#[inline(always)]
fn widened(codes: &[u8], scale: f32, of: &Codes) -> [f32; BLOCK] {
    let mut values = [0.0; BLOCK];
    for (value, &code) in values.iter_mut().zip(codes) {
        *value = of.value(code) * scale;
    }
    values
}

/// Writes the code nearest to each value of a block, and returns the block's scale.
#[inline(always)]
fn rounded(values: &[f32; BLOCK], codes: &mut [u8], of: &Codes) -> f32 {
    let scale = max(&values.map(f32::abs)[..codes.len()]);
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    for (code, value) in codes.iter_mut().zip(values) {
        *code = of.nearest(value * inverse);
    }
    scale
}
