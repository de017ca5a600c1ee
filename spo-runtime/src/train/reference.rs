//! The reference model. It is not a second model: its parameters are swapped in while it scores rows.

use serde::{Deserialize, Serialize};
use spo_api::{Error, Result, Session, Statistics, Vector};
use spo_data::Dataset;

use crate::plan::view::View;
use crate::recipe::Moving;
use crate::store::scores::Scores;
use crate::train::step::loss::score;
use crate::train::step::rows::Batch;

/// What the reference scores.
pub(crate) struct Scoring<'a> {
    pub(crate) data: &'a Dataset,
    pub(crate) view: View,
    /// Indices of the rows in the dataset.
    pub(crate) rows: &'a [usize],
    /// Rows scored at a time.
    pub(crate) at_once: usize,
    /// The reference's parameters; `None` for the current ones.
    pub(crate) parameters: Option<Vector>,
}

impl Scoring<'_> {
    /// Scores the rows. `progress` is called with the number of rows done and the total, and can abort.
    pub(crate) fn fill(
        &self,
        scores: &mut Scores,
        session: &mut dyn Session,
        progress: &mut dyn FnMut(usize, usize) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        with(session, self.parameters, |session| {
            for (i, chunk) in self.rows.chunks(self.at_once).enumerate() {
                progress(i * self.at_once, self.rows.len())?;
                let batch = Batch::new(self.data, chunk, self.view, None)?;
                batch.store(&score(session, &batch.passes, Statistics::default())?, scores);
            }
            Ok(())
        })
    }
}

/// Runs a function with other parameters swapped in.
fn with<T, E: From<Error>>(
    session: &mut dyn Session,
    parameters: Option<Vector>,
    work: impl FnOnce(&mut dyn Session) -> Result<T, E>,
) -> Result<T, E> {
    let Some(parameters) = parameters else { return work(session) };
    let own = session.vectors().allocate()?;
    session.vectors().copy(Vector::PARAMETERS, own)?;
    session.vectors().copy(parameters, Vector::PARAMETERS)?;
    let done = work(session);
    session.vectors().copy(own, Vector::PARAMETERS)?;
    session.vectors().release(own);
    done
}

/// The saved state of a [`MovingReference`], apart from the session's vectors.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct MovingState {
    vector: u32,
    moved: bool,
}

/// A reference that follows the policy (Gorbatovski et al. 2024, TR-DPO).
pub(crate) struct MovingReference {
    how: Moving,
    parameters: Vector,
    /// Until the first move, the scores from the start of the stage remain valid.
    moved: bool,
}

impl MovingReference {
    /// A reference equal to the current policy.
    pub(crate) fn new(session: &mut dyn Session, how: Moving) -> Result<Self> {
        let parameters = session.vectors().allocate()?;
        session.vectors().copy(Vector::PARAMETERS, parameters)?;
        Ok(MovingReference { how, parameters, moved: false })
    }

    /// Restores the reference from [`state`](Self::state), in a session that has been restored.
    pub(crate) fn restored(how: Moving, state: MovingState) -> Self {
        MovingReference { how, parameters: Vector(state.vector), moved: state.moved }
    }

    /// The state to restore it from.
    pub(crate) fn state(&self) -> MovingState {
        MovingState { vector: self.parameters.0, moved: self.moved }
    }

    /// Updates the scores of a batch's rows with one more forward pass.
    pub(crate) fn score(&self, session: &mut dyn Session, batch: &Batch, scores: &mut Scores) -> Result<()> {
        if !self.moved {
            return Ok(());
        }
        with(session, Some(self.parameters), |session| {
            batch.store(&score(session, &batch.passes, Statistics::default())?, scores);
            Ok(())
        })
    }

    /// Moves the reference after a step if it is due: `reference <- alpha * policy + (1 - alpha) *
    /// reference`.
    pub(crate) fn follow(&mut self, session: &mut dyn Session, steps_done: usize) -> Result<()> {
        if steps_done.is_multiple_of(self.how.sync_steps) {
            let alpha = self.how.mixup_alpha;
            session.vectors().scale(1.0 - alpha, self.parameters)?;
            session.vectors().axpy(alpha, Vector::PARAMETERS, self.parameters)?;
            self.moved = true;
        }
        Ok(())
    }

    /// Releases its vector.
    pub(crate) fn release(self, session: &mut dyn Session) {
        session.vectors().release(self.parameters);
    }
}
