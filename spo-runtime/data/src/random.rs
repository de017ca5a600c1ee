//! Random numbers that are the same on every platform and with every version of every library.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// A stream of ChaCha8 (Bernstein 2008): the same for the same seed and stream number, independent of the
/// others.
pub(crate) struct Random(ChaCha8Rng);

impl Random {
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        let mut generator = ChaCha8Rng::from_seed(key);
        generator.set_stream(stream);
        Random(generator)
    }

    /// A number below `bound`, each with the same probability.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = bound as u64;
        // Numbers beyond the last whole multiple of `bound` would favour the small ones.
        let whole = u64::MAX - u64::MAX % bound;
        loop {
            let number = self.0.next_u64();
            if number < whole {
                return (number % bound) as usize;
            }
        }
    }

    /// Fisher and Yates, in Durstenfeld's form.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}
