//! Dropout of what an adapter reads (Srivastava et al. 2014).
//!
//! What is dropped depends on a seed, the layer and the tokens up to the row, and on nothing else. So a mask is the same in
//! the forward pass and the backward pass, when a block is recomputed, however a batch is split, and whether completions share
//! their prompt's rows or not.

use spo_api::{Combine, Result};

use crate::engine::{Engine, Memory, Precision};

/// The dropout of one layer's adapter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dropout {
    /// The share of elements that are dropped; the others are multiplied by `1 / (1 - rate)`.
    pub rate: f64,
    /// A number for the layer.
    salt: u64,
    /// Width of the rows.
    width: usize,
}

/// What masks depend on in one pass.
pub(crate) struct Dropping {
    pub seed: u64,
    /// For each row, a number for the tokens up to it: see [`follow`].
    pub histories: Vec<u64>,
}

impl Dropout {
    /// `layer` is the name of the layer.
    pub fn new(rate: f64, layer: &str, width: usize) -> Self {
        // FNV-1a.
        let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        Dropout { rate, salt: layer.bytes().fold(0xcbf2_9ce4_8422_2325, hash), width }
    }

    /// The factors of all elements of the rows of a pass, or of some of them, and their shape.
    pub fn mask<E: Engine>(
        &self,
        e: &E,
        Dropping { seed, histories }: &Dropping,
        rows: Option<&[u32]>,
    ) -> Result<(E::Tensor, [usize; 2])> {
        let factors = match rows {
            None => self.factors(*seed, histories),
            Some(rows) => {
                let histories: Vec<u64> = rows.iter().map(|&row| histories[row as usize]).collect();
                self.factors(*seed, &histories)
            }
        };
        let shape = [factors.len() / self.width, self.width];
        let mask = e.memory().upload(factors, &shape, Precision::Compute)?;
        Ok((mask, shape))
    }

    fn factors(&self, seed: u64, histories: &[u64]) -> Vec<f32> {
        let dropped_below = (self.rate * f64::from(u32::MAX)) as u32;
        let kept = (1.0 / (1.0 - self.rate)) as f32;
        let layer = mix(seed ^ self.salt);
        let mut factors = Vec::with_capacity(histories.len() * self.width);
        for history in histories {
            let row = mix(layer ^ history);
            factors.extend((0..self.width).map(|column| {
                let word = mix(row.wrapping_add(column as u64 / 2));
                let half = (word >> (32 * (column % 2))) as u32;
                if half < dropped_below { 0.0 } else { kept }
            }));
        }
        factors
    }
}

/// `x` with a mask.
pub(crate) fn masked<E: Engine>(
    e: &E,
    x: &E::Tensor,
    mask: &E::Tensor,
    shape: [usize; 2],
) -> Result<E::Tensor> {
    let dropped = e.memory().zeros(&shape, Precision::Compute)?;
    e.axpy(&dropped, 1.0, x)?;
    e.combine(Combine::Multiply, &dropped, mask)?;
    Ok(dropped)
}

/// A number for the tokens up to and including this one, given that for those before it; 0 for none.
pub(crate) fn follow(history: u64, token: u32) -> u64 {
    mix(history ^ mix(u64::from(token)))
}

/// The output function of SplitMix64 (Steele et al. 2014).
fn mix(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_keep_the_mean_and_differ_between_rows_layers_and_seeds() {
        let histories: Vec<u64> = (0..100).map(|token| follow(0, token)).collect();
        let of = |seed, layer: &str| Dropout::new(0.2, layer, 501).factors(seed, &histories);
        let one = of(1, "q_proj");
        let mean = one.iter().map(|&f| f64::from(f)).sum::<f64>() / one.len() as f64;
        // Five standard deviations: each factor has sqrt(rate / (1 - rate)) = 0.5.
        assert!((mean - 1.0).abs() < 5.0 * 0.5 / (one.len() as f64).sqrt(), "{mean}");
        assert!(one.iter().all(|&f| f == 0.0 || f == 1.25));
        // Two that are independent agree in 0.8^2 + 0.2^2 = 0.68 of all elements.
        let agree = |other: &[f32]| {
            let same = one.iter().zip(other).filter(|(a, b)| a == b).count() as f64 / one.len() as f64;
            assert!((same - 0.68).abs() < 0.02, "{same}");
        };
        agree(&of(2, "q_proj"));
        agree(&of(1, "k_proj"));
        agree(&[&one[501..], &one[..501]].concat());
        assert_eq!(one, of(1, "q_proj"));
    }
}
