//! How the learning rate goes over a stage.

/// The steps that a schedule runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Steps over which the learning rate rises from 0 to its peak, in a straight line. The runtime's own
    /// affair; given here because some schedules are shaped by it.
    pub warmup: usize,
    /// All steps of the stage, the warm-up among them.
    pub total: usize,
}

impl Span {
    /// How much of the way after the warm-up lies behind the step after `step` others: 0 at its first
    /// step, 1 at the end of the stage.
    pub fn progress(&self, step: usize) -> f64 {
        let rest = self.total.saturating_sub(self.warmup).max(1) as f64;
        (step - self.warmup) as f64 / rest
    }
}

/// How the learning rate goes after the warm-up.
pub trait Schedule: Send {
    /// The learning rate of the step after `step` others, as a share of its peak. Asked only for steps after
    /// the warm-up (`step >= span.warmup`).
    fn factor(&self, step: usize, span: Span) -> f64;
}
