//! What losses that couple pairs have in common.

use spo_api::{Pair, PreferenceBatch, Reading, Result};

/// All pairs of a whole optimizer batch, with their references.
///
/// # Errors
/// When the batch is a part of one, does not consist of pairs, or lacks the reference.
pub(super) fn pairs<'b>(batch: &PreferenceBatch<'b>) -> Result<Vec<Pair<'b, f64>>> {
    (0..batch.rows_of_whole()?).map(|i| Reading::default().pair(batch, i, true)).collect()
}
