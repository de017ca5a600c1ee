//! Learning-rate schedules.

/// The steps that a schedule runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Number of steps in which the learning rate rises linearly from 0 to its peak. The runtime handles
    /// the warm-up itself; it is given here because the shape of some schedules depends on it.
    pub warmup: usize,
    /// Number of steps in the stage, including the warm-up.
    pub total: usize,
}

impl Span {
    /// The fraction of the post-warm-up phase completed after `step` steps: 0 at its first step, 1 at the
    /// end of the stage.
    pub fn progress(&self, step: usize) -> f64 {
        let rest = self.total.saturating_sub(self.warmup).max(1) as f64;
        (step - self.warmup) as f64 / rest
    }
}

/// The shape of the learning rate after the warm-up.
pub trait Schedule: Send {
    /// The learning rate after `step` completed steps, as a fraction of its peak. Only called for steps
    /// after the warm-up (`step >= span.warmup`).
    fn factor(&self, step: usize, span: Span) -> f64;
}
