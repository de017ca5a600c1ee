//! The optimizer at work: by the session's own kernel where it has one, else by operations on vectors.

use serde::{Deserialize, Serialize};
use spo_api::{Optimizer, Result, Session, Update, Vector};

/// The state of a stage's optimizer beside what the session keeps of it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Optimization {
    /// Whether the session runs the rule by a kernel of its own.
    fused: bool,
    /// Handles of the vectors that the rule keeps from one update to the next, where the session does not run it.
    states: Vec<u32>,
    /// Updates so far.
    count: u64,
}

impl Optimization {
    /// A fresh start under this rule.
    pub(crate) fn begin(session: &mut dyn Session, rule: &dyn Optimizer) -> Result<Self> {
        let fused = session.adopt_optimizer(rule.kernel().as_ref())?;
        let count = if fused { 0 } else { rule.states() };
        let states = (0..count).map(|_| Ok(session.vectors().allocate()?.0)).collect::<Result<_>>()?;
        Ok(Optimization { fused, states, count: 0 })
    }

    /// Moves the parameters along the gradient, which is multiplied by `gradient_scale` first.
    pub(crate) fn update(
        &mut self,
        session: &mut dyn Session,
        rule: &dyn Optimizer,
        lr: f64,
        gradient_scale: f64,
    ) -> Result<()> {
        let update = Update { lr, gradient_scale, count: self.count + 1 };
        match self.fused {
            true => session.optimize(&update)?,
            false => {
                let states: Vec<Vector> = self.states.iter().map(|&handle| Vector(handle)).collect();
                rule.step(session.vectors(), &states, &update)?;
            }
        }
        self.count += 1;
        Ok(())
    }

    /// Gives its memory back.
    pub(crate) fn end(self, session: &mut dyn Session) -> Result<()> {
        self.states.into_iter().for_each(|handle| session.vectors().release(Vector(handle)));
        session.adopt_optimizer(None).map(drop)
    }
}
