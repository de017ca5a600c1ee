//! The state of a stage between two steps. A checkpoint contains all of it.

use crate::recipe::Reference;
use crate::train::budget::Account;
use crate::train::checkpoint::{Memory, StageState};
use crate::train::diagnostics::Evolution;
use crate::train::keeper::Within;
use crate::train::optimization::Optimization;
use crate::train::progress::{Clock, StageProgress};
use crate::train::reference::MovingReference;

use super::held_out::Evaluator;
use super::order::Orders;
use super::references::References;
use super::training::Training;

pub(super) struct InFlight {
    pub(super) progress: StageProgress,
    pub(super) clock: Clock,
    pub(super) optimization: Optimization,
    pub(super) references: References,
    pub(super) evaluator: Evaluator,
    pub(super) evolution: Option<Evolution>,
    pub(super) orders: Orders,
    pub(super) budget: Option<Account>,
}

impl InFlight {
    /// The state before the first step.
    pub(super) fn begin(training: &mut Training<'_>) -> anyhow::Result<Self> {
        // Allocated before the first activations, because it lives longest.
        let optimization = Optimization::begin(&mut *training.plan.session, &*training.stage.optimizer)?;
        let mut progress = StageProgress::default();
        let references = training.references(&mut progress)?;
        let mut evaluator = training.evaluator(&mut progress)?;
        training.other = None;
        progress.before = training.evaluate(&mut evaluator, 0, &mut progress)?;
        training.check_start(&references)?;
        let evolution = training.evolution()?;
        let orders = Orders::new(training.stage, training.plan.recipe.run.seed, &mut progress);
        let clock = Clock::default();
        let budget = training.account()?;
        Ok(InFlight { progress, clock, optimization, references, evaluator, evolution, orders, budget })
    }

    /// Restores the state of an interrupted stage from its checkpoint.
    pub(super) fn again(training: &mut Training<'_>, within: Within) -> anyhow::Result<Self> {
        let Within { state, mut scores } = within;
        state.memory.restore(training.stage)?;
        let moving = match (&training.stage.recipe.reference, state.moving) {
            (&Reference::Moving(how), Some(state)) => Some(MovingReference::restored(how, state)),
            _ => None,
        };
        let mut take = |name: &str| scores.remove(name);
        let train = take("train");
        let lower = (0..training.stage.lower.len()).map(|i| take(&lower_name(i))).collect();
        let references = References { train, lower, moving };
        let mut evaluator = training.evaluator_against(take("held_out/reference"))?;
        evaluator.start = take("held_out/start");
        let mut progress = state.progress;
        let orders = Orders::new(training.stage, training.plan.recipe.run.seed, &mut progress);
        let budget = match state.budget {
            Some(state) => Some(training.account_again(state, &mut scores)?),
            None => None,
        };
        let (clock, optimization, evolution) = (state.clock, state.optimization, state.evolution);
        Ok(InFlight { progress, clock, optimization, references, evaluator, evolution, orders, budget })
    }

    /// The state for a checkpoint, except log-probs. `memory` is the state of the objectives and the step.
    pub(super) fn state(&self, memory: Memory) -> StageState {
        StageState {
            progress: self.progress.clone(),
            clock: self.clock.clone(),
            optimization: self.optimization.clone(),
            memory,
            moving: self.references.moving.as_ref().map(MovingReference::state),
            evolution: self.evolution.clone(),
            budget: self.budget.as_ref().map(|account| account.state.clone()),
        }
    }

    /// Writes a checkpoint.
    pub(super) fn keep(&self, training: &mut Training<'_>) -> anyhow::Result<()> {
        let state = self.state(Memory::of(training.stage));
        let reference = self.evaluator.held_out.as_ref().and_then(|rows| rows.reference.as_ref());
        let lower =
            self.references.lower.iter().enumerate().map(|(i, scores)| (lower_name(i), scores.as_ref()));
        let scores = [
            ("train".to_owned(), self.references.train.as_ref()),
            ("held_out/reference".to_owned(), reference),
            ("held_out/start".to_owned(), self.evaluator.start.as_ref()),
        ];
        let budget = self.budget.iter().flat_map(Account::scores).map(|(name, scores)| (name, Some(scores)));
        let scores = scores.into_iter().chain(lower).chain(budget);
        let scores = scores.filter_map(|(name, scores)| Some((name, scores?)));
        let stage = Some((state, scores.collect()));
        training.keeper.save(&mut *training.plan.session, training.logs, training.known, stage)
    }

    /// Releases the stage's resources, and keeps the scores that later stages may reuse.
    pub(super) fn end(self, training: &mut Training<'_>) -> anyhow::Result<(StageProgress, Clock)> {
        let session = &mut *training.plan.session;
        self.optimization.end(session)?;
        if let Some(account) = self.budget {
            account.release(session);
        }
        match (self.references.moving, self.references.train) {
            (Some(moving), _) => moving.release(session),
            (None, Some(scores)) => {
                let key = training.key(&training.stage.train, training.stage.view);
                training.known.insert(key, scores);
            }
            (None, None) => {}
        }
        Ok((self.progress, self.clock))
    }
}

/// The checkpoint's name for the reference scores of a term of the lower level.
pub(super) fn lower_name(term: usize) -> String {
    format!("lower{term}")
}
