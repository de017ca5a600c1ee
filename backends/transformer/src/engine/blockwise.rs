//! Blockwise 8-bit quantization (Dettmers et al. 2022), in the format bitsandbytes uses for optimizer states.

use std::sync::LazyLock;

/// Number of elements that share a scale.
pub const BLOCK: usize = 256;

/// An 8-bit tensor. Element `i` is `values[codes[i]] * scales[i / BLOCK]`, with the values of a
/// [`DynamicMap`].
#[derive(Clone, Copy, Debug)]
pub struct Blockwise<T> {
    /// One code per element, in [`Precision::Byte`](super::Precision::Byte).
    pub codes: T,
    /// The largest magnitude in each block, in [`Precision::Full`](super::Precision::Full).
    pub scales: T,
}

impl<T> Blockwise<T> {
    /// The same tensor by reference.
    pub fn as_ref(&self) -> Blockwise<&T> {
        Blockwise { codes: &self.codes, scales: &self.scales }
    }
}

/// The 256 values that codes stand for, in ascending order: seven decades below 1, each with twice the
/// resolution of the decade below it, plus 0 and 1.
#[derive(Clone, Debug, PartialEq)]
pub struct DynamicMap {
    /// The value of each code.
    pub values: [f32; 256],
    /// The midpoint between each value and the next. The code of a number is the count of midpoints below it.
    pub middles: [f32; 255],
}

/// Values from -1 to 1, for the first moment.
pub static SIGNED: LazyLock<DynamicMap> = LazyLock::new(|| DynamicMap::new(true));
/// Values from 0 to 1 at twice the resolution, for the second moment, which is never negative.
pub static UNSIGNED: LazyLock<DynamicMap> = LazyLock::new(|| DynamicMap::new(false));

impl DynamicMap {
    fn new(signed: bool) -> Self {
        const DECADES: i32 = 7;
        let mut values = vec![0.0, 1.0];
        for decade in 0..DECADES {
            let count = if signed { 1 } else { 2 } << decade;
            for i in 0..count {
                // The midpoint of each of `count` equal parts of [0.1, 1].
                let value = 0.1 + 0.9 * (f64::from(i) + 0.5) / f64::from(count);
                let value = value * 10f64.powi(decade - (DECADES - 1));
                values.push(value);
                if signed {
                    values.push(-value);
                }
            }
        }
        values.sort_by(f64::total_cmp);
        let values: [f32; 256] = std::array::from_fn(|i| values[i] as f32);
        DynamicMap { values, middles: std::array::from_fn(|i| (values[i] + values[i + 1]) / 2.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_have_256_values_that_ascend() {
        for map in [&*SIGNED, &*UNSIGNED] {
            assert!(map.values.is_sorted_by(|a, b| a < b));
            assert_eq!(map.values[255], 1.0);
            assert!(map.values.contains(&0.0));
        }
        assert_eq!((SIGNED.values[0], UNSIGNED.values[0]), (-0.992_968_74, 0.0));
    }
}
