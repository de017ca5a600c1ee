//! The budget of a stage: when it is measured, and what follows from it.

use std::collections::BTreeMap;

use anyhow::Context;
use spo_api::{Budget, Layout, Metrics, Rise, Ruling};

use crate::store::scores::Scores;
use crate::train::budget::{Account, BudgetState, Rows, Term, Verdict, calibration_name, verdict_name};

use super::in_flight::InFlight;
use super::training::Training;

/// A measurement costs this share of the training between two of them, where that leaves enough of them.
const COST: f64 = 0.05;

/// The least and the most measurements of a stage that does not say how often it wants them.
const MEASUREMENTS: (usize, usize) = (4, 20);

impl Training<'_> {
    /// The stage's budget, if its step keeps one.
    pub(super) fn account(&mut self) -> anyhow::Result<Option<Account>> {
        let Some(budget) = self.stage.step.budget() else { return Ok(None) };
        let at_once = self.plan.recipe.evaluation.batch_size;
        let session = &mut *self.plan.session;
        let mut terms = Vec::new();
        for held_out in self.stage.lower.iter().filter_map(|term| term.held_out.as_ref()) {
            terms.push(Term {
                calibration: Rows::begin(session, &held_out.calibration, at_once)?,
                verdict: Rows::begin(session, &held_out.verdict, at_once)?,
            });
        }
        let every = self.every(&budget);
        Ok(Some(Account::begin(&mut *self.plan.session, budget, terms, every)?))
    }

    /// The budget of an interrupted stage.
    pub(super) fn account_again(
        &self,
        state: BudgetState,
        scores: &mut BTreeMap<String, Scores>,
    ) -> anyhow::Result<Account> {
        let budget = self.stage.step.budget().context("the checkpoint is of a step with a budget")?;
        let at_once = self.plan.recipe.evaluation.batch_size;
        let mut terms = Vec::new();
        for (i, held_out) in self.stage.lower.iter().filter_map(|term| term.held_out.as_ref()).enumerate() {
            let mut take = |name| scores.remove(&name).context("the checkpoint lacks scores of the budget");
            terms.push(Term {
                calibration: Rows::with(&held_out.calibration, at_once, take(calibration_name(i))?)?,
                verdict: Rows::with(&held_out.verdict, at_once, take(verdict_name(i))?)?,
            });
        }
        Ok(Account::again(budget, terms, self.every(&budget), state))
    }

    /// Training steps between two measurements.
    fn every(&self, budget: &Budget) -> usize {
        let stage = &*self.stage;
        let held_out = stage.lower.iter().filter_map(|term| term.held_out.as_ref());
        let rows: usize = held_out.map(|of| of.calibration.examples.len()).sum();
        // A backward pass costs two forward passes.
        let answers = if stage.view.layout == Layout::Pairs { 2 } else { 1 };
        let of_a_step = rows as f64 / (3 * answers * stage.recipe.batch_size) as f64;
        let (least, most) = MEASUREMENTS;
        let spaced = ((of_a_step / COST).ceil() as usize).max(stage.steps / most);
        budget.every.unwrap_or(spaced.min(stage.steps / least)).max(1)
    }

    /// Measures the budget if that is due after `step` training steps, and adds the figures to the step's metrics.
    pub(super) fn calibrate(
        &mut self,
        work: &mut InFlight,
        step: usize,
        metrics: &mut Metrics,
    ) -> anyhow::Result<Option<Ruling>> {
        let (stage, session) = (&mut *self.stage, &mut *self.plan.session);
        let Some(account) = &mut work.budget else { return Ok(None) };
        account.moved();
        if !account.due(step, stage.steps) {
            return Ok(None);
        }
        let rise = account.calibrate(session, &mut stage.lower)?;
        let ruling = stage.step.measured(rise);
        account.follow(session, ruling, step)?;
        let Rise { mean, standard_error } = rise;
        let figures = [("bilevel/held_out_rise", mean), ("bilevel/held_out_standard_error", standard_error)];
        metrics.extend(figures.into_iter().filter(|f| f.1.is_finite()).map(|(name, x)| (name.to_owned(), x)));
        if matches!(ruling, Ruling::GoBack | Ruling::End) {
            work.optimization.renew(session, &*stage.optimizer)?;
            let then =
                if ruling == Ruling::End { "the stage ends here" } else { "at half the learning rate" };
            self.reporter.note(&format!(
                "step {step} of {}: the held-out SFT loss has risen by {mean:.3} ± {standard_error:.3} nats per token; \
                 back to step {}, {then}",
                stage.steps,
                account.kept_at()
            ));
        }
        Ok(Some(ruling))
    }

    /// Judges the budget at the end of the stage.
    pub(super) fn verdict(&mut self, work: &mut InFlight) -> anyhow::Result<Option<Verdict>> {
        let (stage, session) = (&mut *self.stage, &mut *self.plan.session);
        let Some(account) = &work.budget else { return Ok(None) };
        let verdict = account.verdict(session, &mut stage.lower, stage.steps)?;
        self.logs.metrics(&stage.recipe.name, stage.steps, &verdict.metrics())?;
        Ok(Some(verdict))
    }
}
