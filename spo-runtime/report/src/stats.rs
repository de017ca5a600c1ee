//! Means and their confidence intervals.

use distrs::StudentsT;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// A mean with its 95% confidence interval, if there is one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// The interval's ends.
    pub interval: Option<(f64, f64)>,
    /// The number of values.
    pub count: usize,
}

/// Arithmetic mean; NaN without values.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Quantile by linear interpolation between order statistics (R's type 7, numpy's default); NaN without values.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    quantile_of_sorted(&sorted, q)
}

fn quantile_of_sorted(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = q * last as f64;
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    sorted[low] + (at - low as f64) * (sorted[high] - sorted[low])
}

/// A share (values are 0 or 1) with Wilson's interval (1927), which is valid near 0 and 1 too.
pub fn wilson(values: &[f64]) -> Estimate {
    let (count, mean) = (values.len(), mean(values));
    let n = count as f64;
    let z2 = Z975 * Z975;
    let middle = (mean + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = Z975 / (1.0 + z2 / n) * (mean * (1.0 - mean) / n + z2 / (4.0 * n * n)).sqrt();
    // At 0 and 1 an end of the interval coincides with the mean, except for rounding.
    let (low, high) =
        (if mean == 0.0 { 0.0 } else { middle - half }, if mean == 1.0 { 1.0 } else { middle + half });
    let interval = (count > 0).then_some((low, high));
    Estimate { mean, interval, count }
}

/// The 97.5% quantile of the normal distribution.
const Z975: f64 = 1.959_963_984_540_054;

/// Resamples per bootstrap interval.
const RESAMPLES: usize = 4000;

/// Mean of a sample (held-out rows, or differences on them) with the interval of the percentile bootstrap (Efron
/// 1979). The same values give the same interval, to the bit.
pub fn bootstrap(values: &[f64]) -> Estimate {
    let count = values.len();
    let mean = mean(values);
    let same = values.iter().all(|x| Some(x) == values.first());
    if count < 2 || same {
        // Resampling equal values would give an interval of width 0, as if no other value were possible.
        return Estimate { mean, interval: None, count };
    }
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|_| (0..count).map(|_| values[below(&mut random, count)]).sum::<f64>() / count as f64)
        .collect();
    means.sort_by(f64::total_cmp);
    let interval = Some((quantile_of_sorted(&means, 0.025), quantile_of_sorted(&means, 0.975)));
    Estimate { mean, interval, count }
}

/// A number below `bound`, by multiplication; its bias is below 2^-32 times the bound.
fn below(random: &mut ChaCha8Rng, bound: usize) -> usize {
    ((u64::from(random.next_u32()) * bound as u64) >> 32) as usize
}

/// Mean of a few independent values (seeds), with Student's t interval.
pub fn student(values: &[f64]) -> Estimate {
    let (count, mean) = (values.len(), mean(values));
    if count < 2 {
        return Estimate { mean, interval: None, count };
    }
    let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (count - 1) as f64;
    let quantile = StudentsT::ppf(0.975, (count - 1) as f64);
    let half = quantile * (variance / count as f64).sqrt();
    Estimate { mean, interval: Some((mean - half, mean + half)), count }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn specimen() -> Vec<f64> {
        (0u32..60).map(|i| f64::from(i * i * 7919 % 101) / 10.0).collect()
    }

    fn near(actual: Estimate, expected: (f64, f64, f64), tolerance: f64) {
        let (low, high) = actual.interval.unwrap();
        for (a, e) in [(actual.mean, expected.0), (low, expected.1), (high, expected.2)] {
            assert!((a - e).abs() <= tolerance, "{actual:?}, expected {expected:?}");
        }
    }

    #[test]
    fn intervals_are_those_of_scipy() {
        // scipy.stats.bootstrap(method="percentile", n_resamples=200000); ours has 4000 resamples.
        near(bootstrap(&specimen()), (5.065, 4.33, 5.80), 0.03);
        // scipy.stats.t.interval(0.95, 4, loc=mean, scale=sem)
        near(student(&[0.62, 0.71, 0.55, 0.68, 0.66]), (0.644, 0.567_157_147_9, 0.720_842_852_1), 1e-5);
        // scipy.stats.binomtest(k, 300).proportion_ci(method="wilson")
        let share = |right: usize| (0..300).map(|i| f64::from(u8::from(i < right))).collect::<Vec<_>>();
        near(wilson(&share(0)), (0.0, 0.0, 0.012_642_971_2), 1e-9);
        near(wilson(&share(246)), (0.82, 0.772_566_801_1, 0.859_341_697_3), 1e-9);
        // scipy.stats.t.ppf(0.975, d)
        for (degrees, expected) in [(1, 12.706_205), (3, 3.182_446), (30, 2.042_272), (100, 1.983_972)] {
            // Of these values the standard error of the mean is 1.
            let n = f64::from(degrees + 1);
            let spread = (n * (n - 1.0) / 2.0).sqrt();
            let values: Vec<f64> = (0..=degrees).map(|i| [spread, -spread, 0.0][i.min(2) as usize]).collect();
            near(student(&values), (0.0, -expected, expected), 1e-5);
        }
    }

    #[test]
    fn quantiles_are_those_of_numpy() {
        let expected = [(0.1, 0.8), (0.25, 2.875), (0.5, 5.2), (0.975, 9.8)];
        for (q, value) in expected {
            assert!((quantile(&specimen(), q) - value).abs() < 1e-12, "{q}: {}", quantile(&specimen(), q));
        }
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn what_cannot_be_estimated_has_no_interval() {
        assert_eq!(bootstrap(&[1.0; 9]).interval, None);
        assert_eq!(bootstrap(&[2.0]).interval, None);
        assert_eq!(student(&[2.0]).interval, None);
    }

    proptest! {
        #[test]
        fn an_interval_surrounds_its_mean(values in proptest::collection::vec(-1e3f64..1e3, 2..40)) {
            for estimate in [bootstrap(&values), student(&values)] {
                if let Some((low, high)) = estimate.interval {
                    prop_assert!(low <= estimate.mean + 1e-9 && estimate.mean <= high + 1e-9, "{estimate:?}");
                }
            }
            prop_assert_eq!(bootstrap(&values), bootstrap(&values));
        }
    }
}
