//! The order of rows in an epoch, and how a batch is split into pieces that fit the device.

use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::random::Random;

/// The order of one epoch: a permutation of `0..rows` that depends only on the arguments.
pub fn epoch_order(rows: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut order: Vec<_> = (0..rows).collect();
    Random::new(seed, epoch).shuffle(&mut order);
    order
}

/// How much is computed at once. It changes memory and speed, not results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MicroBatch {
    /// At most this many rows.
    Rows(usize),
    /// At most this many tokens; a longer row is computed alone.
    Tokens(usize),
}

impl MicroBatch {
    /// Splits a batch into consecutive pieces within the limit, given the number of tokens of each row.
    pub fn split(self, tokens: &[usize]) -> Vec<Range<usize>> {
        let mut pieces = Vec::new();
        let mut start = 0;
        while start < tokens.len() {
            let fits = match self {
                MicroBatch::Rows(rows) => rows,
                MicroBatch::Tokens(budget) => tokens[start..]
                    .iter()
                    .scan(0usize, |sum, n| {
                        *sum = sum.saturating_add(*n);
                        Some(*sum)
                    })
                    .take_while(|sum| *sum <= budget)
                    .count(),
            };
            let end = (start + fits.max(1)).min(tokens.len());
            pieces.push(start..end);
            start = end;
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_order_is_the_same_everywhere_and_another_in_each_epoch() {
        // Computed by an independent implementation of ChaCha8.
        assert_eq!(epoch_order(10, 0, 0), [3, 0, 5, 9, 6, 7, 2, 4, 1, 8]);
        assert_eq!(epoch_order(10, 0, 1), [0, 1, 4, 6, 7, 9, 8, 2, 3, 5]);
        assert_eq!(epoch_order(10, 1, 0), [5, 6, 9, 0, 8, 4, 3, 2, 1, 7]);
    }

    proptest! {
        #[test]
        fn every_row_is_seen_once(rows in 0usize..200, seed: u64, epoch: u64) {
            let mut order = epoch_order(rows, seed, epoch);
            order.sort_unstable();
            prop_assert!(order.into_iter().eq(0..rows));
        }

        #[test]
        fn pieces_are_consecutive_and_within_the_budget(
            tokens in proptest::collection::vec(0usize..50, 0..60),
            budget in 0usize..200,
        ) {
            let pieces = MicroBatch::Tokens(budget).split(&tokens);
            prop_assert!(pieces.iter().cloned().flatten().eq(0..tokens.len()));
            for (i, piece) in pieces.iter().enumerate() {
                let sum: usize = tokens[piece.clone()].iter().sum();
                prop_assert!(sum <= budget || piece.len() == 1);
                if i + 1 < pieces.len() {
                    prop_assert!(sum + tokens[piece.end] > budget, "a row more would have fitted");
                }
            }
        }
    }

    #[test]
    fn rows_are_dealt_out_evenly() {
        assert_eq!(MicroBatch::Rows(2).split(&[1; 5]), [0..2, 2..4, 4..5]);
    }
}
