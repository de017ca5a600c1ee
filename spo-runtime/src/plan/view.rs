//! How rows are shown to an objective.

use spo_api::Layout;

/// How rows are shown to an objective.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct View {
    /// How the sides belong together. Pairs may be seen as demonstrations: then their chosen answers
    /// alone are scored.
    pub(crate) layout: Layout,
    /// Score each prompt with the answer of another row too: the one before it in its block of so many
    /// rows of the dataset, the first with that of the last. Fixed by the dataset, as TRL does it, and
    /// not by the batch, so that the reference's scores can be kept.
    pub(crate) mismatched: Option<usize>,
}

impl View {
    /// Answers to imitate.
    pub(crate) const DEMONSTRATIONS: View = View { layout: Layout::Demonstrations, mismatched: None };
}
