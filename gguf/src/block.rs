//! The types of tensors: plain numbers, and blocks of quantised ones.
//!
//! A block holds a few numbers that share a scale, and perhaps an offset. Blocks run along the rows of a matrix, so
//! rows can be moved and decoded one by one. The layouts are those of llama.cpp (`ggml-quants.c`); what blocks decode to
//! is the same, to the bit, as in its Python package `gguf`.

mod k;
mod nf4;
mod small;

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

/// The type of a tensor.
///
/// `Nf4` is no type of GGUF: it is the 4-bit NormalFloat of QLoRA, for weights that are quantised when they are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[allow(missing_docs)]
pub enum BlockType {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Q8K,
    Nf4,
}

/// A type, its number in files, its name, the numbers in a block, and the bytes of one.
type Row = (BlockType, Option<u32>, &'static str, usize, usize);

const TABLE: [Row; 15] = [
    (BlockType::F32, Some(0), "F32", 1, 4),
    (BlockType::F16, Some(1), "F16", 1, 2),
    (BlockType::Bf16, Some(30), "BF16", 1, 2),
    (BlockType::Q4_0, Some(2), "Q4_0", 32, 18),
    (BlockType::Q4_1, Some(3), "Q4_1", 32, 20),
    (BlockType::Q5_0, Some(6), "Q5_0", 32, 22),
    (BlockType::Q5_1, Some(7), "Q5_1", 32, 24),
    (BlockType::Q8_0, Some(8), "Q8_0", 32, 34),
    (BlockType::Q2K, Some(10), "Q2_K", 256, 84),
    (BlockType::Q3K, Some(11), "Q3_K", 256, 110),
    (BlockType::Q4K, Some(12), "Q4_K", 256, 144),
    (BlockType::Q5K, Some(13), "Q5_K", 256, 176),
    (BlockType::Q6K, Some(14), "Q6_K", 256, 210),
    (BlockType::Q8K, Some(15), "Q8_K", 256, 292),
    (BlockType::Nf4, None, "NF4", 64, 36),
];

/// Types that files may have and that are not read, by their numbers.
const OTHERS: [(u32, &str); 19] = [
    (9, "Q8_1"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
];

impl BlockType {
    fn row(self) -> &'static Row {
        TABLE.iter().find(|row| row.0 == self).expect("every type is in the table")
    }

    /// The type with this number in files; the error names it, and those that are read.
    pub(crate) fn numbered(number: u32) -> Result<Self, String> {
        if let Some(row) = TABLE.iter().find(|row| row.1 == Some(number)) {
            return Ok(row.0);
        }
        let name = OTHERS.iter().find(|(other, _)| *other == number).map(|(_, name)| *name);
        let known: Vec<&str> = TABLE.iter().filter(|row| row.1.is_some()).map(|row| row.2).collect();
        let name = name.map_or_else(|| format!("number {number}"), str::to_owned);
        Err(format!("type {name} is not supported, only {}", known.join(", ")))
    }

    pub(crate) fn number(self) -> Option<u32> {
        self.row().1
    }

    /// Its name, as llama.cpp writes it.
    pub fn name(self) -> &'static str {
        self.row().2
    }

    /// Numbers in a block.
    pub fn length(self) -> usize {
        self.row().3
    }

    /// Whether numbers share a scale.
    pub fn is_quantised(self) -> bool {
        self.length() > 1
    }

    /// The bytes of a row of `width` numbers; `None` if it is not made of whole blocks, or too long to be counted.
    pub fn bytes(self, width: usize) -> Option<usize> {
        let &(_, _, _, length, bytes) = self.row();
        if width.is_multiple_of(length) { (width / length).checked_mul(bytes) } else { None }
    }

    /// The width of rows of this many bytes.
    pub fn width(self, bytes: usize) -> usize {
        let &(_, _, _, length, each) = self.row();
        bytes / each * length
    }

    /// Numbers from blocks. Inlined, so that a caller can have it compiled for the processor at hand.
    ///
    /// # Panics
    /// When there are not as many blocks as `into` has numbers.
    #[inline(always)]
    pub fn decode(self, blocks: &[u8], into: &mut [f32]) {
        assert_eq!(self.bytes(into.len()), Some(blocks.len()), "as many blocks as numbers");
        match self {
            BlockType::F32 => {
                into.iter_mut().zip(blocks.as_chunks().0).for_each(|(y, b)| *y = f32::from_le_bytes(*b));
            }
            BlockType::F16 => {
                let values = into.iter_mut().zip(blocks.as_chunks().0);
                values.for_each(|(y, b)| *y = f16::from_le_bytes(*b).to_f32());
            }
            BlockType::Bf16 => {
                // The upper half of an f32.
                let values = into.iter_mut().zip(blocks.as_chunks().0);
                values.for_each(|(y, b)| *y = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16));
            }
            BlockType::Q4_0 => each(blocks, into, small::q4_0),
            BlockType::Q4_1 => each(blocks, into, small::q4_1),
            BlockType::Q5_0 => each(blocks, into, small::q5_0),
            BlockType::Q5_1 => each(blocks, into, small::q5_1),
            BlockType::Q8_0 => each(blocks, into, small::q8_0),
            BlockType::Q2K => each(blocks, into, k::q2),
            BlockType::Q3K => each(blocks, into, k::q3),
            BlockType::Q4K => each(blocks, into, k::q4),
            BlockType::Q5K => each(blocks, into, k::q5),
            BlockType::Q6K => each(blocks, into, k::q6),
            BlockType::Q8K => each(blocks, into, k::q8),
            BlockType::Nf4 => each(blocks, into, nf4::decode),
        }
    }

    /// Whether [`encode`](Self::encode) makes blocks of this type.
    pub fn is_written(self) -> bool {
        use BlockType::{Bf16, F16, F32, Nf4, Q4_0, Q4K, Q5_0, Q8_0};
        matches!(self, F32 | F16 | Bf16 | Q4_0 | Q5_0 | Q8_0 | Q4K | Nf4)
    }

    /// Blocks from numbers, each rounded to the nearest that its block can hold.
    ///
    /// # Panics
    /// When the numbers are not whole blocks, or the type [is not written](Self::is_written).
    pub fn encode(self, values: &[f32]) -> Vec<u8> {
        let bytes = self.bytes(values.len()).expect("whole blocks");
        let mut blocks = Vec::with_capacity(bytes);
        match self {
            BlockType::F32 => blocks.extend(values.iter().flat_map(|x| x.to_le_bytes())),
            BlockType::F16 => blocks.extend(values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes())),
            BlockType::Bf16 => blocks.extend(values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes())),
            BlockType::Q4_0 => small::encode_q4_0(values, &mut blocks),
            BlockType::Q5_0 => small::encode_q5_0(values, &mut blocks),
            BlockType::Q8_0 => small::encode_q8_0(values, &mut blocks),
            BlockType::Q4K => k::encode_q4(values, &mut blocks),
            BlockType::Nf4 => nf4::encode(values, &mut blocks),
            other => panic!("{} is not written", other.name()),
        }
        blocks
    }
}

/// Decodes block after block.
#[inline(always)]
fn each<const BYTES: usize, const N: usize>(
    blocks: &[u8],
    into: &mut [f32],
    decode: impl Fn(&[u8; BYTES], &mut [f32; N]),
) {
    let (blocks, values) = (blocks.as_chunks().0, into.as_chunks_mut().0);
    for (block, values) in blocks.iter().zip(values) {
        decode(block, values);
    }
}

/// The number in half precision that a block has at a place.
#[inline(always)]
fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}
