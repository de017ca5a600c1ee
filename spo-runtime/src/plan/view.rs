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
        Some(if row > start { row - 1 } else { (start + block).min(rows) - 1 })
    }
}
