//! Scalar functions and reductions in forms that vectorise.

use super::tasks::vectorised;

/// Independent accumulators of a reduction: enough to fill the pipelines of wide registers.
const LANES: usize = 32;

/// `e^x` to 2 units in the last place; 0 below the smallest normal number, at most `e^88`.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Cody-Waite reduction x = n ln 2 + r. Adding this number leaves n + 127, the exponent of 2^n, in the
    // low bits of the sum's mantissa.
    const SHIFT: f32 = 12_582_912.0 + 127.0;
    let x = x.clamp(-87.3, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + SHIFT;
    let n = shifted - SHIFT;
    let r = (x - n * 0.693_359_4) + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    (p * r * r + r + 1.0) * f32::from_bits(shifted.to_bits() << 23)
}

#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

/// `cap tanh(x / cap)` with small relative errors, which a large cap would magnify otherwise.
#[inline(always)]
pub(super) fn capped(x: f32, cap: f32) -> f32 {
    let t = x / cap;
    let z = t * t;
    let p = -5.704_988_7e-3;
    let p = p * z + 2.063_908_8e-2;
    let p = p * z - 5.373_971_6e-2;
    let p = p * z + 1.333_144_2e-1;
    let p = p * z - 3.333_328e-1;
    cap * if z < 0.390_625 { t + t * z * p } else { tanh(t) }
}

/// The derivative of a capped value, given that, with respect to what was capped.
#[inline(always)]
pub(super) fn cap_slope(capped: f32, cap: f32) -> f32 {
    1.0 - (capped / cap) * (capped / cap)
}

/// Caps values in place.
pub(super) fn cap_all(values: &mut [f32], cap: f32) {
    vectorised(
        #[inline(always)]
        || values.iter_mut().for_each(|x| *x = capped(*x, cap)),
    );
}

/// The error function to 2e-7 (Abramowitz & Stegun 1964, 7.1.26).
#[inline(always)]
pub(super) fn erf(x: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.327_591_1 * x.abs());
    let p = 1.061_405_4;
    let p = p * t - 1.453_152;
    let p = p * t + 1.421_413_7;
    let p = p * t - 0.284_496_74;
    let p = p * t + 0.254_829_6;
    (1.0 - p * t * exp(-x * x)).copysign(x)
}

/// `sum_i f(i)` over paired elements.
#[inline(always)]
fn reduce(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = a_chunks.remainder().iter().zip(b_chunks.remainder());
    let tail: f32 = rest.map(|(&a, &b)| f(a, b)).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for i in 0..LANES {
            lanes[i] += f(a[i], b[i]);
        }
    }
    lanes.iter().sum::<f32>() + tail
}

#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    reduce(a, b, |a, b| a * b)
}

#[inline(always)]
pub(super) fn sum(a: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    reduce(a, a, |a, _| f(a))
}

#[inline(always)]
pub(super) fn max(a: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = a.chunks_exact(LANES);
    let tail = chunks.remainder().iter().fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m });
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
        }
    }
    lanes.into_iter().fold(tail, |m, x| if x > m { x } else { m })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exact_to_two_units_in_the_last_place() {
        for i in -870_000..880_000 {
            let x = i as f32 * 1e-4;
            let (fast, exact) = (exp(x), f64::from(x).exp());
            let error = (f64::from(fast) - exact).abs() / exact;
            assert!(error < 2.5e-7, "exp({x}) = {fast}, not {exact}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NEG_INFINITY) < 1.3e-38);
        assert!(exp(1e30).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn tanh_under_a_cap_and_erf_are_exact_to_a_few_units_in_the_last_place() {
        for i in -60_000..60_000 {
            let x = i as f32 * 1e-3;
            let exact = 30.0 * (f64::from(x) / 30.0).tanh();
            let error = (f64::from(capped(x, 30.0)) - exact).abs();
            assert!(error <= 5e-7 * exact.abs(), "capped({x}): {error}");
        }
        // From the series of erf, and its asymptote.
        for (x, exact) in [
            (0.0, 0.0),
            (0.1, 0.112_462_916),
            (0.5, 0.520_499_878),
            (1.0, 0.842_700_793),
            (2.0, 0.995_322_265),
        ] {
            for sign in [-1.0, 1.0] {
                let error = (f64::from(erf(sign * x)) - f64::from(sign) * exact).abs();
                assert!(error < 3e-7, "erf({x}): {error}");
            }
        }
        assert_eq!((erf(30.0), erf(-30.0)), (1.0, -1.0));
    }

    #[test]
    fn reductions_take_every_element() {
        for n in [0, 1, 31, 32, 33, 100] {
            let a: Vec<f32> = (0..n).map(|i| i as f32 - 7.0).collect();
            assert_eq!(sum(&a, |x| x), a.iter().sum::<f32>());
            assert_eq!(dot(&a, &a), a.iter().map(|x| x * x).sum::<f32>());
            assert_eq!(max(&a), a.last().copied().unwrap_or(f32::NEG_INFINITY));
        }
    }
}
