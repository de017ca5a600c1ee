//! Running statistics of a quantity over batches, for losses that compare a pair with the pairs before it.

use spo_api::{Error, Result};

/// The running mean and standard deviation of a quantity: those of the first batch, then nine tenths of what they
/// were and one tenth of the batch's.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Running {
    /// The mean and the standard deviation; none before the first batch.
    now: Option<[f64; 2]>,
}

impl Running {
    /// Takes a batch in, and returns the mean and the standard deviation. The batch's own deviation has `n - 1` in its
    /// denominator, and is 0 for one value.
    pub fn update(&mut self, values: &[f64]) -> [f64; 2] {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        let batch = [mean, (squares / (n - 1.0).max(1.0)).sqrt()];
        let now = match self.now {
            None => batch,
            Some(before) => std::array::from_fn(|i| 0.9 * before[i] + 0.1 * batch[i]),
        };
        self.now = Some(now);
        now
    }

    /// Nothing before the first batch, then the two numbers as 8 bytes each, little-endian.
    pub fn state(self) -> Vec<u8> {
        self.now.map(|now| now.map(f64::to_le_bytes).concat()).unwrap_or_default()
    }

    /// # Errors
    /// When the bytes are not those of [`state`](Self::state).
    pub fn restore(name: &str, state: &[u8]) -> Result<Self> {
        let now = match state.as_chunks() {
            ([], []) => None,
            ([mean, deviation], []) => Some([f64::from_le_bytes(*mean), f64::from_le_bytes(*deviation)]),
            _ => {
                let n = state.len();
                return Err(Error::Batch(format!("{name} keeps 0 or 16 bytes of state, got {n}")));
            }
        };
        Ok(Running { now })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_batch_counts_in_full_and_the_others_a_tenth() {
        let mut running = Running::default();
        assert_eq!(Running::restore("x", &running.state()).unwrap(), running);
        assert_eq!(running.update(&[1.0, 3.0]), [2.0, 2f64.sqrt()]);
        let [mean, deviation] = running.update(&[10.0, 10.0]);
        assert!((mean - 2.8).abs() < 1e-15 && (deviation - 0.9 * 2f64.sqrt()).abs() < 1e-15);
        assert_eq!(Running::restore("x", &running.state()).unwrap(), running);
        assert!(Running::restore("x", &[0; 15]).is_err());
    }
}
