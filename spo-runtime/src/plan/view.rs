//! How rows are presented to an objective.

use spo_api::Layout;

/// How rows are presented to an objective.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct View {
    /// How the two sides relate. Pairs may be viewed as demonstrations, in which case only their chosen
    /// answers are scored.
    pub(crate) layout: Layout,
    /// Also score each prompt with the answer of another row. Within each block of this many rows of the
    /// dataset, a row gets the answer of the row before it, and the first row that of the last. As in TRL,
    /// the assignment is fixed by the dataset and not by the batch, so the reference's scores can be stored.
    pub(crate) mismatched: Option<usize>,
}

impl View {
    /// Demonstrations without mismatched answers.
    pub(crate) const DEMONSTRATIONS: View = View { layout: Layout::Demonstrations, mismatched: None };

    /// The row whose answer a row is also scored with, of this many rows.
    pub(crate) fn mismatch(&self, row: usize, rows: usize) -> Option<usize> {
        let block = self.mismatched?;
        let start = row / block * block;
        let end = (start + block).min(rows);
        Some(match (row > start, end - start) {
            // The only row of its block takes the answer of the block before it; TRL gives it its own.
            (false, 1) => row.saturating_sub(1),
            (false, _) => end - 1,
            (true, _) => row - 1,
        })
    }
}
