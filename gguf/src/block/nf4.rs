//! 4-bit NormalFloat (Dettmers et al. 2023): 64 numbers that share their largest magnitude, in f32. A code stands for a
//! share of it; the shares are quantiles of a normal distribution. Of two numbers in a byte, the first has the high half,
//! as in bitsandbytes.

/// What the codes stand for: the table of the paper's appendix E.
const SHARES: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_8,
    1.0,
];

#[inline(always)]
pub(super) fn decode(block: &[u8; 36], into: &mut [f32; 64]) {
    let most = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    // Sixteen products instead of sixty-four.
    let values = SHARES.map(|share| share * most);
    for (pair, &byte) in into.as_chunks_mut::<2>().0.iter_mut().zip(&block[4..]) {
        *pair = [values[usize::from(byte >> 4)], values[usize::from(byte & 15)]];
    }
}

pub(super) fn encode(values: &[f32], out: &mut Vec<u8>) {
    for values in values.as_chunks::<64>().0 {
        let most = values.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let inverse = if most == 0.0 { 0.0 } else { 1.0 / most };
        let code = |x: f32| nearest(x * inverse);
        out.extend(most.to_le_bytes());
        out.extend(values.as_chunks().0.iter().map(|&[a, b]| code(a) << 4 | code(b)));
    }
}

/// The code whose share is nearest.
fn nearest(share: f32) -> u8 {
    let between = |i: &usize| share > (SHARES[*i] + SHARES[*i + 1]) / 2.0;
    (0..15).take_while(between).count() as u8
}
