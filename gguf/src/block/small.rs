//! Blocks of 32 numbers, with a scale in half precision and, in the types `_1`, an offset.
//!
//! The low half of byte `i` belongs to number `i`, its high half to number `i + 16`.

use half::f16;

use super::half_at;

/// The low and the high halves of 16 bytes.
#[inline(always)]
fn nibbles(bytes: &[u8]) -> [u8; 32] {
    let mut codes = [0; 32];
    for i in 0..16 {
        codes[i] = bytes[i] & 15;
        codes[i + 16] = bytes[i] >> 4;
    }
    codes
}

/// Nibbles with a fifth bit each, from a mask of 32 bits.
#[inline(always)]
fn five_bits(mask: &[u8], bytes: &[u8]) -> [u8; 32] {
    let mask = u32::from_le_bytes([mask[0], mask[1], mask[2], mask[3]]);
    let mut codes = nibbles(bytes);
    for (i, code) in codes.iter_mut().enumerate() {
        *code |= ((mask >> i & 1) as u8) << 4;
    }
    codes
}

#[inline(always)]
fn spread(codes: &[u8; 32], centre: i32, scale: f32, offset: f32, into: &mut [f32; 32]) {
    for (y, &code) in into.iter_mut().zip(codes) {
        *y = (i32::from(code) - centre) as f32 * scale + offset;
    }
}

#[inline(always)]
pub(super) fn q4_0(block: &[u8; 18], into: &mut [f32; 32]) {
    spread(&nibbles(&block[2..]), 8, half_at(block, 0), 0.0, into);
}

#[inline(always)]
pub(super) fn q4_1(block: &[u8; 20], into: &mut [f32; 32]) {
    spread(&nibbles(&block[4..]), 0, half_at(block, 0), half_at(block, 2), into);
}

#[inline(always)]
pub(super) fn q5_0(block: &[u8; 22], into: &mut [f32; 32]) {
    spread(&five_bits(&block[2..], &block[6..]), 16, half_at(block, 0), 0.0, into);
}

#[inline(always)]
pub(super) fn q5_1(block: &[u8; 24], into: &mut [f32; 32]) {
    spread(&five_bits(&block[4..], &block[8..]), 0, half_at(block, 0), half_at(block, 2), into);
}

#[inline(always)]
pub(super) fn q8_0(block: &[u8; 34], into: &mut [f32; 32]) {
    let scale = half_at(block, 0);
    for (y, &code) in into.iter_mut().zip(&block[2..]) {
        *y = f32::from(code as i8) * scale;
    }
}

/// The number of largest magnitude.
fn extreme(values: &[f32; 32]) -> f32 {
    values.iter().fold(0.0f32, |most, &x| if x.abs() > most.abs() { x } else { most })
}

/// What to multiply with instead of dividing by a scale.
fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// The number of largest magnitude gets the code 0, so that it is met exactly; `levels` codes in all.
fn centred(values: &[f32; 32], levels: u8) -> (f32, [u8; 32]) {
    let middle = f64::from(levels / 2);
    let scale = extreme(values) / -(f32::from(levels / 2));
    let inverse = f64::from(inverse(scale));
    let code = |x: f32| (f64::from(x) * inverse + middle + 0.5).clamp(0.0, f64::from(levels - 1)) as u8;
    (scale, values.map(code))
}

fn pack(codes: &[u8; 32]) -> impl Iterator<Item = u8> {
    (0..16).map(|i| (codes[i] & 15) | (codes[i + 16] & 15) << 4)
}

pub(super) fn encode_q4_0(values: &[f32], out: &mut Vec<u8>) {
    for values in values.as_chunks().0 {
        let (scale, codes) = centred(values, 16);
        out.extend(f16::from_f32(scale).to_le_bytes());
        out.extend(pack(&codes));
    }
}

pub(super) fn encode_q5_0(values: &[f32], out: &mut Vec<u8>) {
    for values in values.as_chunks().0 {
        let (scale, codes) = centred(values, 32);
        let mask = codes.iter().rev().fold(0u32, |mask, code| mask << 1 | u32::from(code >> 4));
        out.extend(f16::from_f32(scale).to_le_bytes());
        out.extend(mask.to_le_bytes());
        out.extend(pack(&codes));
    }
}

pub(super) fn encode_q8_0(values: &[f32], out: &mut Vec<u8>) {
    for values in values.as_chunks::<32>().0 {
        let scale = extreme(values).abs() / 127.0;
        let inverse = inverse(scale);
        out.extend(f16::from_f32(scale).to_le_bytes());
        out.extend(values.iter().map(|x| (x * inverse).round() as i8 as u8));
    }
}
