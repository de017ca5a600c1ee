//! Blocks of 256 numbers in 8 or 16 groups. Each group has a small scale, and perhaps an offset, in units that the block
//! gives in half precision.

use half::f16;

use super::half_at;

/// The scale and the offset of each of 8 groups, in 6 bits each, from 12 bytes.
#[inline(always)]
fn six_bits(packed: &[u8]) -> [[u8; 8]; 2] {
    let mut pairs = [[0; 8]; 2];
    for i in 0..4 {
        pairs[0][i] = packed[i] & 63;
        pairs[1][i] = packed[i + 4] & 63;
        pairs[0][i + 4] = packed[i + 8] & 15 | packed[i] >> 6 << 4;
        pairs[1][i + 4] = packed[i + 8] >> 4 | packed[i + 4] >> 6 << 4;
    }
    pairs
}

/// The inverse of [`six_bits`].
fn packed(scales: &[u8; 8], offsets: &[u8; 8]) -> [u8; 12] {
    let mut packed = [0; 12];
    for i in 0..4 {
        packed[i] = scales[i] | scales[i + 4] >> 4 << 6;
        packed[i + 4] = offsets[i] | offsets[i + 4] >> 4 << 6;
        packed[i + 8] = scales[i + 4] & 15 | offsets[i + 4] << 4;
    }
    packed
}

#[inline(always)]
pub(super) fn q2(block: &[u8; 84], into: &mut [f32; 256]) {
    let (scales, codes) = (&block[..16], &block[16..80]);
    let [unit, offset_unit] = [80, 82].map(|at| half_at(block, at));
    for (group, values) in into.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let (half, shift) = (group / 8, group % 8 / 2 * 2);
        let codes = &codes[32 * half + 16 * (group % 2)..][..16];
        let scale = unit * f32::from(scales[group] & 15);
        let offset = offset_unit * f32::from(scales[group] >> 4);
        for (y, &code) in values.iter_mut().zip(codes) {
            *y = scale * f32::from(code >> shift & 3) - offset;
        }
    }
}

#[inline(always)]
pub(super) fn q3(block: &[u8; 110], into: &mut [f32; 256]) {
    let (mask, codes, packed) = (&block[..32], &block[32..96], &block[96..108]);
    let unit = half_at(block, 108);
    for (group, values) in into.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let low = if group < 8 { packed[group] & 15 } else { packed[group - 8] >> 4 };
        let high = packed[8 + group % 4] >> (group / 4 * 2) & 3;
        let scale = unit * (f32::from(low | high << 4) - 32.0);
        let (half, shift, within) = (group / 8, group % 8 / 2 * 2, 16 * (group % 2));
        let (codes, mask) = (&codes[32 * half + within..][..16], &mask[within..][..16]);
        let bit = group / 2;
        for ((y, &code), &mask) in values.iter_mut().zip(codes).zip(mask) {
            // A bit that is not set takes 4 away.
            let code = i32::from(code >> shift & 3) - 4 * (1 - i32::from(mask >> bit & 1));
            *y = scale * code as f32;
        }
    }
}

#[inline(always)]
pub(super) fn q4(block: &[u8; 144], into: &mut [f32; 256]) {
    let [unit, offset_unit] = [0, 2].map(|at| half_at(block, at));
    let [scales, offsets] = six_bits(&block[4..16]);
    for (pair, values) in into.as_chunks_mut::<64>().0.iter_mut().enumerate() {
        let codes = &block[16 + 32 * pair..][..32];
        for (high, values) in values.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let group = 2 * pair + high;
            let (scale, offset) = (unit * f32::from(scales[group]), offset_unit * f32::from(offsets[group]));
            for (y, &code) in values.iter_mut().zip(codes) {
                *y = scale * f32::from(code >> (4 * high) & 15) - offset;
            }
        }
    }
}

#[inline(always)]
pub(super) fn q5(block: &[u8; 176], into: &mut [f32; 256]) {
    let [unit, offset_unit] = [0, 2].map(|at| half_at(block, at));
    let [scales, offsets] = six_bits(&block[4..16]);
    let fifth = &block[16..48];
    for (pair, values) in into.as_chunks_mut::<64>().0.iter_mut().enumerate() {
        let codes = &block[48 + 32 * pair..][..32];
        for (high, values) in values.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let group = 2 * pair + high;
            let (scale, offset) = (unit * f32::from(scales[group]), offset_unit * f32::from(offsets[group]));
            for ((y, &code), &fifth) in values.iter_mut().zip(codes).zip(fifth) {
                let code = code >> (4 * high) & 15 | (fifth >> group & 1) << 4;
                *y = scale * f32::from(code) - offset;
            }
        }
    }
}

#[inline(always)]
pub(super) fn q6(block: &[u8; 210], into: &mut [f32; 256]) {
    let unit = half_at(block, 208);
    for (group, values) in into.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let (half, quarter, within) = (group / 8, group % 8 / 2, 16 * (group % 2));
        // Quarters 0 and 1 have the low halves of the first and the next 32 bytes, 2 and 3 their high halves.
        let low = &block[64 * half + 32 * (quarter % 2) + within..][..16];
        let high = &block[128 + 32 * half + within..][..16];
        let scale = unit * f32::from(block[192 + group] as i8);
        for ((y, &low), &high) in values.iter_mut().zip(low).zip(high) {
            let code = low >> (4 * (quarter / 2)) & 15 | (high >> (2 * quarter) & 3) << 4;
            *y = scale * (i32::from(code) - 32) as f32;
        }
    }
}

#[inline(always)]
pub(super) fn q8(block: &[u8; 292], into: &mut [f32; 256]) {
    let scale = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    for (y, &code) in into.iter_mut().zip(&block[4..260]) {
        *y = scale * f32::from(code as i8);
    }
}

/// The scale and the offset with which 16 codes come nearest to the numbers of a group, in squares: `x = scale code -
/// offset`. Candidates stretch the range a little; for the codes that each gives, the best line is found.
fn line(values: &[f32; 32]) -> (f32, f32) {
    let least = values.iter().fold(0.0f32, |m, &x| m.min(x));
    let most = values.iter().fold(f32::MIN, |m, &x| m.max(x));
    if most <= least {
        return (0.0, -least);
    }
    let mut best = (f32::INFINITY, 0.0, 0.0);
    for step in 0..=20 {
        let inverse = (14.0 + 0.1 * step as f32) / (most - least);
        let codes = values.map(|x| ((x - least) * inverse).round().clamp(0.0, 15.0));
        let sums = values.iter().zip(&codes).fold([0.0; 4], |[c, cc, x, cx], (&value, &code)| {
            [c + code, cc + code * code, x + value, cx + code * value]
        });
        let [c, cc, x, cx] = sums;
        let determinant = 32.0 * cc - c * c;
        let (mut scale, mut offset) = ((32.0 * cx - c * x) / determinant, (c * cx - cc * x) / determinant);
        // An offset is never added; and through equal codes there is no one line.
        if determinant <= 0.0 || offset < 0.0 {
            (scale, offset) = (cx / cc, 0.0);
        }
        let error = values.iter().zip(&codes).map(|(x, code)| (scale * code - offset - x).powi(2)).sum();
        if error < best.0 {
            best = (error, scale, offset);
        }
    }
    (best.1, best.2)
}

pub(super) fn encode_q4(values: &[f32], out: &mut Vec<u8>) {
    for values in values.as_chunks::<256>().0 {
        let groups: &[[f32; 32]] = values.as_chunks().0;
        let mut lines = [(0.0, 0.0); 8];
        lines.iter_mut().zip(groups).for_each(|(into, group)| *into = line(group));
        let unit =
            |of: fn(&(f32, f32)) -> f32| f16::from_f32(lines.iter().map(of).fold(0.0, f32::max) / 63.0);
        let units = [unit(|line| line.0), unit(|line| line.1)];
        let [scale_unit, offset_unit] = units.map(f16::to_f32);
        let share =
            |x: f32, unit: f32| if unit > 0.0 { (x / unit).round().clamp(0.0, 63.0) as u8 } else { 0 };
        let (scales, offsets) =
            (lines.map(|line| share(line.0, scale_unit)), lines.map(|line| share(line.1, offset_unit)));
        let mut codes = [0u8; 256];
        for (group, (codes, values)) in codes.as_chunks_mut::<32>().0.iter_mut().zip(groups).enumerate() {
            let scale = scale_unit * f32::from(scales[group]);
            let offset = offset_unit * f32::from(offsets[group]);
            if scale > 0.0 {
                *codes = values.map(|x| ((x + offset) / scale).round().clamp(0.0, 15.0) as u8);
            }
        }
        units.iter().for_each(|unit| out.extend(unit.to_le_bytes()));
        out.extend(packed(&scales, &offsets));
        for pair in codes.as_chunks::<64>().0 {
            out.extend((0..32).map(|i| pair[i] | pair[i + 32] << 4));
        }
    }
}
