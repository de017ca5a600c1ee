//! Optimizer updates: by the session's fused kernel if it has one, otherwise by vector operations.

use serde::{Deserialize, Serialize};
use spo_api::{Optimizer, Result, Session, Update, Vector};

/// State of a stage's optimizer outside the session.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Optimization {
    /// Whether the session runs the update rule with its own kernel.
    fused: bool,
    /// Handles of the rule's state vectors, where the session does not run the rule itself.
    states: Vec<u32>,
    /// Number of updates so far.
    count: u64,
}

impl Optimization {
    /// Fresh state for this rule.
    pub(crate) fn begin(session: &mut dyn Session, rule: &dyn Optimizer) -> Result<Self> {
        let fused = session.adopt_optimizer(rule.kernel().as_ref())?;
        let count = if fused { 0 } else { rule.states() };
        let states = (0..count).map(|_| Ok(session.vectors().allocate()?.0)).collect::<Result<_>>()?;
        Ok(Optimization { fused, states, count: 0 })
    }

    /// Forgets everything, as at the beginning of a stage.
    pub(crate) fn renew(&mut self, session: &mut dyn Session, rule: &dyn Optimizer) -> Result<()> {
        if self.fused {
            session.adopt_optimizer(None)?;
            session.adopt_optimizer(rule.kernel().as_ref())?;
        }
        self.states.iter().try_for_each(|&handle| session.vectors().zero(Vector(handle)))?;
        self.count = 0;
        Ok(())
    }

    /// Updates the parameters with the gradient multiplied by `gradient_scale`.
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

    /// Calls a function that updates the parameters within a backward pass, and counts the update.
    pub(crate) fn in_backward<T>(&mut self, lr: f64, work: impl FnOnce(&Update) -> Result<T>) -> Result<T> {
        let done = work(&Update { lr, gradient_scale: 1.0, count: self.count + 1 })?;
        self.count += 1;
        Ok(done)
    }

    /// Releases the state vectors.
    pub(crate) fn end(self, session: &mut dyn Session) -> Result<()> {
        self.states.into_iter().for_each(|handle| session.vectors().release(Vector(handle)));
        session.adopt_optimizer(None).map(drop)
    }
}
