//! Matrices in blocks, decoded in the instructions of the processor at hand.

use std::ops::Range;

use candle_core::{CpuStorage, Device, Result, Storage, Tensor, bail};
use rayon::prelude::*;
use spo_gguf::BlockType;
use spo_transformer::Blocks;

use super::tasks::{rows_per_task, vectorised};

/// Which rows of a matrix.
pub(super) enum Rows<'a> {
    Range(Range<usize>),
    These(&'a [u32]),
}

/// Some rows of a matrix in blocks.
pub(super) fn decoded(codes: &Tensor, blocks: Blocks, rows: &Rows<'_>) -> Result<Vec<f32>> {
    let Blocks { kind, rows: all, width } = blocks;
    let (storage, layout) = codes.storage_and_layout();
    let codes = match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::U8(codes)), Some((start, end))) => &codes[start..end],
        _ => bail!("blocks must be contiguous bytes on the CPU"),
    };
    let bytes = codes.len() / all;
    let count = match rows {
        Rows::Range(range) => range.len(),
        Rows::These(rows) => rows.len(),
    };
    let mut values = vec![0.0; count * width];
    let at_once = rows_per_task(width);
    values.par_chunks_mut(at_once * width).enumerate().for_each(|(task, values)| {
        for (i, values) in values.chunks_exact_mut(width).enumerate() {
            let i = task * at_once + i;
            let row = match rows {
                Rows::Range(range) => range.start + i,
                Rows::These(rows) => rows[i] as usize,
            };
            decode(kind, &codes[row * bytes..][..bytes], values);
        }
    });
    Ok(values)
}

fn decode(kind: BlockType, codes: &[u8], values: &mut [f32]) {
    vectorised(
        #[inline(always)]
        || kind.decode(codes, values),
    );
}

pub(super) fn decode_rows(codes: &Tensor, blocks: Blocks, rows: Option<&[u32]>) -> Result<Tensor> {
    let (rows, count) = match rows {
        None => (Rows::Range(0..blocks.rows), blocks.rows),
        Some(rows) => (Rows::These(rows), rows.len()),
    };
    Tensor::from_vec(decoded(codes, blocks, &rows)?, (count, blocks.width), &Device::Cpu)
}
