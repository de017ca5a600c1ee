//! The code nearest to a number, by a table instead of a search.

use std::sync::LazyLock;

use spo_transformer::{DynamicMap, SIGNED, UNSIGNED};

/// Numbers whose sign, exponent and first seven bits of the mantissa are the same make a bin, as do all those smaller
/// than 2^-24, which no map tells from 0. The bins of numbers up to 1, or down to -1:
const BINS: usize = (leading(1.0) - leading(LEAST) + 1) as usize;
const LEAST: f32 = 1.0 / (1 << 24) as f32;

/// Exponent and first bits of the mantissa.
#[inline(always)]
const fn leading(magnitude: f32) -> u32 {
    magnitude.to_bits() >> 16
}

/// A map, and how many of its middles lie below each bin; within a bin there is one at most.
pub(super) struct Codes {
    map: &'static DynamicMap,
    /// Of positive numbers, and of negative ones.
    below: [[u8; BINS]; 2],
}

pub(super) static SIGNED_CODES: LazyLock<Codes> = LazyLock::new(|| Codes::new(&SIGNED));
pub(super) static UNSIGNED_CODES: LazyLock<Codes> = LazyLock::new(|| Codes::new(&UNSIGNED));

impl Codes {
    fn new(map: &'static DynamicMap) -> Self {
        let edge = |bin: usize| match bin {
            0 => 0.0,
            _ => f32::from_bits((leading(LEAST) + bin as u32) << 16),
        };
        let below = |x: f32| map.middles.partition_point(|&middle| middle < x) as u8;
        Codes {
            map,
            below: [
                std::array::from_fn(|bin| below(edge(bin))),
                // The lower end of negative numbers is the upper one of their magnitudes.
                std::array::from_fn(|bin| below(-edge(bin + 1))),
            ],
        }
    }

    #[inline(always)]
    pub fn value(&self, code: u8) -> f32 {
        self.map.values[usize::from(code)]
    }

    /// The code nearest to a number between -1 and 1, which may exceed them by a rounding.
    #[inline(always)]
    pub fn nearest(&self, x: f32) -> u8 {
        let bin = leading(x.abs().min(1.0)).saturating_sub(leading(LEAST)) as usize;
        let below = self.below[usize::from(x.is_sign_negative())][bin];
        below + u8::from(self.map.middles.get(usize::from(below)).is_some_and(|&middle| x > middle))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Around every middle and every power of two, where tables go wrong.
    #[test]
    fn the_nearest_code_is_that_of_a_search() {
        for codes in [&*SIGNED_CODES, &*UNSIGNED_CODES] {
            let middles = &codes.map.middles;
            let powers = (0..40).map(|exponent| 0.5f32.powi(exponent));
            let bins = (0..BINS as u32).map(|bin| f32::from_bits((leading(LEAST) + bin) << 16));
            let places = middles.iter().copied().chain(powers).chain(bins).chain([0.0]);
            for place in places {
                for x in [place, place.next_up(), place.next_down()].into_iter().flat_map(|x| [x, -x]) {
                    if (-1.0..=1.0).contains(&x) {
                        let expected = middles.partition_point(|&middle| middle < x);
                        assert_eq!(usize::from(codes.nearest(x)), expected, "{x}");
                    }
                }
            }
        }
    }
}
