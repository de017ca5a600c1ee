//! Means and their confidence intervals.
//!
//! Values without any spread give no interval, or for a share Wilson's: an interval of width 0 would say that no other
//! value is possible.

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

impl Estimate {
    /// Cuts the interval to the values that are possible.
    pub fn within(self, least: f64, greatest: f64) -> Self {
        let cut = |(low, high): (f64, f64)| (low.max(least), high.min(greatest));
        Estimate { interval: self.interval.map(cut), ..self }
    }

    /// For a notation with "\u{b1}": the distance from the mean to the farther end of the interval.
    pub fn half_width(&self) -> Option<f64> {
        self.interval.map(|(low, high)| (self.mean - low).max(high - self.mean))
    }

    /// Whether chance alone may have moved the mean away from 0. True without an interval.
    pub fn may_be_chance(&self) -> bool {
        self.interval.is_none_or(|(low, high)| low <= 0.0 && 0.0 <= high)
    }
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

/// A share (values are 0, 1, or 0.5 for a tie) with Wilson's interval (1927), which is valid near 0 and 1 too. Ties spread
/// less than the binomial distribution that it assumes, so they make it rather too wide.
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
    ratio(values, &vec![1.0; values.len()])
}

/// The ratio of two sums over a sample, such as nats and tokens of each row, with the interval of the same bootstrap: rows
/// are drawn with both of their values.
pub fn ratio(values: &[f64], weights: &[f64]) -> Estimate {
    let count = values.len();
    let mean = values.iter().sum::<f64>() / weights.iter().sum::<f64>();
    if count < 2 || equal(values) && equal(weights) {
        return Estimate { mean, interval: None, count };
    }
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let mut resample = || {
        let drawn = (0..count).map(|_| below(&mut random, count));
        let (sum, weight) = drawn.fold((0.0, 0.0), |(sum, weight), i| (sum + values[i], weight + weights[i]));
        sum / weight
    };
    let mut means: Vec<f64> = (0..RESAMPLES).map(|_| resample()).collect();
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
    if count < 2 || equal(values) {
        return Estimate { mean, interval: None, count };
    }
    let half = StudentsT::ppf(0.975, (count - 1) as f64) * variance_of_mean(values).sqrt();
    Estimate { mean, interval: Some((mean - half, mean + half)), count }
}

/// The probability, if the expectation of these independent values is 0, of a mean at least as far from it: Student's t
/// test, two-sided. `None` where values show no spread.
pub fn p_value(values: &[f64]) -> Option<f64> {
    if values.len() < 2 || equal(values) {
        return None;
    }
    let t = mean(values) / variance_of_mean(values).sqrt();
    Some(2.0 * StudentsT::cdf(-t.abs(), (values.len() - 1) as f64))
}

/// Probabilities of several claims, corrected so that the chance of any wrong one stays below the level at which they are
/// read (Holm 1979): the smallest times the number of claims, the next times one less, and so on, never falling.
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|a, b| p_values[*a].total_cmp(&p_values[*b]));
    let (mut corrected, mut least) = (vec![0.0; p_values.len()], 0.0_f64);
    for (before, claim) in order.into_iter().enumerate() {
        least = least.max((p_values.len() - before) as f64 * p_values[claim]).min(1.0);
        corrected[claim] = least;
    }
    corrected
}

/// Mean of seeds that were all measured on the same rows (`rows[seed][row]`), with an interval for other seeds and
/// other rows.
///
/// Both are samples, so their variances add: `SE^2 = s_seeds^2 / seeds + s_rows^2 / rows`, where `s_seeds^2` is the
/// variance of the seeds' means and `s_rows^2` that of the rows' means. These are the mean squares of a two-way layout
/// with random effects (Cornfield and Tukey 1956, Annals of Mathematical Statistics 27). What is peculiar to one seed
/// on one row is counted in both, so the interval is rather too wide. The degrees of freedom are Satterthwaite's (1946,
/// Biometrics Bulletin 2).
pub fn crossed(rows: &[Vec<f64>]) -> Estimate {
    let count = rows.len();
    let of_seeds: Vec<f64> = rows.iter().map(|seed| mean(seed)).collect();
    let length = rows.iter().map(Vec::len).min().unwrap_or(0);
    let of_rows: Vec<f64> =
        (0..length).map(|row| rows.iter().map(|seed| seed[row]).sum::<f64>() / count as f64).collect();
    let mean = mean(&of_seeds);
    let parts = [&of_seeds, &of_rows].map(|values| match values.len() < 2 || equal(values) {
        true => (0.0, 1.0),
        false => (variance_of_mean(values), (values.len() - 1) as f64),
    });
    let variance = parts[0].0 + parts[1].0;
    if count < 2 || variance == 0.0 {
        return Estimate { mean, interval: None, count };
    }
    let freedom = variance.powi(2) / parts.iter().map(|(v, degrees)| v * v / degrees).sum::<f64>();
    let half = StudentsT::ppf(0.975, freedom) * variance.sqrt();
    Estimate { mean, interval: Some((mean - half, mean + half)), count }
}

/// The estimated variance of the mean of independent values.
fn variance_of_mean(values: &[f64]) -> f64 {
    let (n, mean) = (values.len() as f64, mean(values));
    values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0) / n
}

/// Whether all values are the same, except for rounding.
fn equal(values: &[f64]) -> bool {
    let (low, high) =
        values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), x| (l.min(*x), h.max(*x)));
    high - low <= 1e-9 * low.abs().max(high.abs())
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
    fn tests_and_their_correction_are_those_of_scipy_and_statsmodels() {
        // scipy.stats.ttest_1samp(values, 0).pvalue
        for (values, expected) in [
            (&[0.1, 0.3, -0.1, 0.4, 0.2][..], 0.104_539_999_8),
            (&[-2.0, 1.0, 0.5, -0.25][..], 0.793_764_247_2),
        ] {
            let p = p_value(values).unwrap();
            assert!((p - expected).abs() < 1e-6, "{p} {expected}");
        }
        assert_eq!(p_value(&[0.5, 0.5]), None);
        // statsmodels.stats.multitest.multipletests(p, method="holm")[1]
        let p = [0.01, 0.04, 0.03, 0.005, 0.2, 0.9];
        let expected = [0.05, 0.12, 0.12, 0.03, 0.4, 0.9];
        for (corrected, expected) in holm(&p).into_iter().zip(expected) {
            assert!((corrected - expected).abs() < 1e-12, "{corrected} {expected}");
        }
        assert!(holm(&[]).is_empty());
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
        // Equal, except for rounding.
        assert_eq!(bootstrap(&[0.1 + 0.2, 0.3, 0.3]).interval, None);
        assert_eq!(student(&[-12.5, -12.5]).interval, None);
        assert_eq!(crossed(&[vec![1.0; 4], vec![1.0; 4]]).interval, None);
    }

    #[test]
    fn seeds_and_rows_both_widen_an_interval() {
        // Seeds that agree: the rows alone speak. scipy.stats.t.interval(0.95, 7, -0.125, 0.125).
        let one_lost = || vec![-1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        near(crossed(&[one_lost(), one_lost()]), (-0.125, -0.420_578_032, 0.170_578_032), 1e-6);
        // Rows that agree: the seeds alone speak, as for Student.
        let seeds = [0.62, 0.71, 0.55, 0.68, 0.66];
        let flat: Vec<Vec<f64>> = seeds.iter().map(|x| vec![*x; 10]).collect();
        let student = student(&seeds);
        near(crossed(&flat), (student.mean, student.interval.unwrap().0, student.interval.unwrap().1), 1e-9);
        // Both: variances 1/3 (2 degrees) and 1/8 (3 degrees) make 11/24, with 3.457 degrees.
        let both: Vec<Vec<f64>> = [-1.0, 0.0, 1.0]
            .map(|seed| [-1.0, 0.0, 0.0, 1.0].map(|row| seed + row * 0.866_025_403_8).into())
            .into();
        let freedom = (11.0f64 / 24.0).powi(2) / (1.0 / 18.0 + 1.0 / 192.0);
        let half = StudentsT::ppf(0.975, freedom) * (11.0f64 / 24.0).sqrt();
        near(crossed(&both), (0.0, -half, half), 1e-6);
    }

    #[test]
    fn shares_stay_between_nothing_and_everything() {
        let wide = student(&[0.0, 0.375]);
        assert!(wide.interval.unwrap().0 < -2.0);
        let cut = wide.within(0.0, 1.0);
        assert_eq!(cut.interval, Some((0.0, 1.0)));
        assert_eq!(cut.half_width(), Some(1.0 - 0.1875));
    }

    proptest! {
        #[test]
        fn an_interval_surrounds_its_mean(values in proptest::collection::vec(-1e3f64..1e3, 2..40)) {
            let both = vec![values.clone(), values.iter().map(|x| x + 1.0).collect()];
            for estimate in [bootstrap(&values), student(&values), crossed(&both)] {
                if let Some((low, high)) = estimate.interval {
                    prop_assert!(low <= estimate.mean + 1e-9 && estimate.mean <= high + 1e-9, "{estimate:?}");
                }
            }
            prop_assert_eq!(bootstrap(&values), bootstrap(&values));
        }
    }
}
