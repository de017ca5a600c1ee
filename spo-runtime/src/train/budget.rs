//! The budget of a bilevel step: measured on held-out demonstrations between training steps, and judged at the end of the
//! stage. The parameters of the last measurement that was within the budget are kept, to go back to.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use spo_api::{Budget, Error, Metrics, Objective, Result, Rise, Ruling, Session, Statistics, Vector};
use spo_data::{Dataset, MicroBatch};

use crate::plan::stage::PlannedTerm;
use crate::plan::view::View;
use crate::store::scores::Scores;
use crate::train::step::loss::{evaluate, score};
use crate::train::step::rows::{Assembled, Batch};

/// Demonstrations, with their log-probs at the start of the stage.
pub(crate) struct Rows {
    data: Arc<Dataset>,
    batch: Batch,
    start: Scores,
}

impl Rows {
    /// Scores the rows, so many at a time. The model is that of the start of the stage.
    pub(crate) fn begin(session: &mut dyn Session, data: &Arc<Dataset>, at_once: usize) -> Result<Self> {
        let mut rows = Rows::with(data, at_once, Scores::empty(data))?;
        let scored = score(session, &rows.batch.passes, Statistics::default())?;
        rows.batch.store(&scored, &mut rows.start);
        Ok(rows)
    }

    /// Rows with the scores from the start of the stage.
    pub(crate) fn with(data: &Arc<Dataset>, at_once: usize, start: Scores) -> Result<Self> {
        let batch = Batch::whole(data, View::DEMONSTRATIONS, MicroBatch::Rows(at_once))?;
        Ok(Rows { data: data.clone(), batch, start })
    }

    /// How much a loss on these rows has risen.
    fn rise(&self, session: &mut dyn Session, objective: &mut dyn Objective) -> Result<Rise> {
        let scored = score(session, &self.batch.passes, Statistics::default())?;
        let now = Assembled::new(&self.batch, self.batch.passes.iter().zip(&scored), None, &self.data);
        let start = Assembled::of_scores(&self.batch, &self.start, &self.data);
        // A measurement must not change an objective's running values.
        let state = objective.state();
        let mut losses = |assembled| Ok(evaluate(objective, assembled, &self.data)?.losses);
        let both: Result<_> = losses(&now).and_then(|now| Ok((now, losses(&start)?)));
        objective.restore(&state)?;
        let (losses, start): (Vec<f64>, Vec<f64>) = both?;
        let prompt = |i: usize| &*self.data.examples[now.row_of_loss(i)].in_memory()[0].prompt;
        let rises = losses.iter().zip(&start).enumerate();
        Ok(paired(&rises.map(|(i, (now, start))| (prompt(i), now - start)).collect::<Vec<_>>()))
    }
}

/// The mean of some differences and its standard error. Rows with one prompt rise together, so it is prompts that count as
/// independent (the sandwich estimator for clusters, Liang and Zeger 1986); rows, where there is but one prompt.
fn paired(differences: &[(&[u32], f64)]) -> Rise {
    let n = differences.len() as f64;
    let mean = differences.iter().map(|(_, d)| d).sum::<f64>() / n;
    let (mut places, mut deviations) = (HashMap::new(), Vec::new());
    for (prompt, difference) in differences {
        let place = *places.entry(*prompt).or_insert(deviations.len());
        if place == deviations.len() {
            deviations.push(0.0);
        }
        deviations[place] += difference - mean;
    }
    if deviations.len() == 1 {
        deviations = differences.iter().map(|(_, d)| d - mean).collect();
    }
    let groups = deviations.len() as f64;
    let squares: f64 = deviations.iter().map(|d| d.powi(2)).sum();
    Rise { mean, standard_error: (squares * (groups / n) / (groups - 1.0) / n).sqrt() }
}

/// The rise of a sum of losses, each on rows of its own.
fn total(rises: impl IntoIterator<Item = Result<Rise>>) -> Result<Rise> {
    let (mut mean, mut variance) = (0.0, 0.0);
    for rise in rises {
        let rise = rise?;
        mean += rise.mean;
        variance += rise.standard_error.powi(2);
    }
    Ok(Rise { mean, standard_error: variance.sqrt() })
}

/// The held-out demonstrations of a term of the lower level.
pub(crate) struct Term {
    pub(crate) calibration: Rows,
    pub(crate) verdict: Rows,
}

/// The state of a budget between two training steps, except log-probs.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct BudgetState {
    /// Handle of the kept parameters.
    kept: u32,
    /// The training step after which they were kept.
    kept_at: usize,
    /// Whether the current parameters are the kept ones.
    is_kept: bool,
    /// How often the parameters went back.
    returns: usize,
}

/// The budget of a stage.
pub(crate) struct Account {
    budget: Budget,
    /// Training steps between two measurements.
    every: usize,
    terms: Vec<Term>,
    pub(crate) state: BudgetState,
}

impl Account {
    /// A budget at the start of a stage, whose parameters are the first to be kept.
    pub(crate) fn begin(
        session: &mut dyn Session,
        budget: Budget,
        terms: Vec<Term>,
        every: usize,
    ) -> Result<Self> {
        let kept = session.vectors().allocate()?;
        session.vectors().copy(Vector::PARAMETERS, kept)?;
        let state = BudgetState { kept: kept.0, kept_at: 0, is_kept: true, returns: 0 };
        Ok(Account { budget, every, terms, state })
    }

    /// The budget of an interrupted stage.
    pub(crate) fn again(budget: Budget, terms: Vec<Term>, every: usize, state: BudgetState) -> Self {
        Account { budget, every, terms, state }
    }

    /// Whether a measurement is due after `step` of `total` training steps.
    pub(crate) fn due(&self, step: usize, total: usize) -> bool {
        step == total || step.is_multiple_of(self.every)
    }

    /// Measures the rise on the calibration rows; infinite if the model's numbers are not finite.
    pub(crate) fn calibrate(&self, session: &mut dyn Session, lower: &mut [PlannedTerm]) -> Result<Rise> {
        let terms = self.terms.iter().zip(lower);
        match total(terms.map(|(term, of)| term.calibration.rise(session, &mut *of.objective))) {
            Err(Error::NonFinite(_)) => Ok(Rise { mean: f64::INFINITY, standard_error: 0.0 }),
            rise => rise,
        }
    }

    /// Does to the parameters what the step has decided after `step` training steps.
    pub(crate) fn follow(&mut self, session: &mut dyn Session, ruling: Ruling, step: usize) -> Result<()> {
        match ruling {
            Ruling::Keep => {
                session.vectors().copy(Vector::PARAMETERS, Vector(self.state.kept))?;
                (self.state.kept_at, self.state.is_kept) = (step, true);
            }
            Ruling::GoOn => self.state.is_kept = false,
            Ruling::GoBack | Ruling::End => {
                self.go_back(session)?;
                self.state.returns += 1;
            }
        }
        Ok(())
    }

    /// Records that the parameters have moved on.
    pub(crate) fn moved(&mut self) {
        self.state.is_kept = false;
    }

    /// At the end of a stage: parameters that were not good enough to keep give way to the last kept ones.
    pub(crate) fn settle(&mut self, session: &mut dyn Session) -> Result<()> {
        if self.state.is_kept { Ok(()) } else { self.go_back(session) }
    }

    fn go_back(&mut self, session: &mut dyn Session) -> Result<()> {
        session.vectors().copy(Vector(self.state.kept), Vector::PARAMETERS)?;
        self.state.is_kept = true;
        Ok(())
    }

    /// The training step whose parameters are kept.
    pub(crate) fn kept_at(&self) -> usize {
        self.state.kept_at
    }

    /// Judges the current parameters on rows that the step was told nothing about.
    pub(crate) fn verdict(
        &self,
        session: &mut dyn Session,
        lower: &mut [PlannedTerm],
        steps: usize,
    ) -> Result<Verdict> {
        let terms = self.terms.iter().zip(lower);
        let Rise { mean, standard_error } =
            total(terms.map(|(term, of)| term.verdict.rise(session, &mut *of.objective)))?;
        let Budget { nats: budget, strict, .. } = self.budget;
        let rows = self.terms.iter().map(|term| term.verdict.data.examples.len()).sum();
        let BudgetState { kept_at, returns, .. } = self.state;
        let kept = mean <= budget;
        Ok(Verdict { budget, rise: mean, standard_error, rows, kept, kept_at, steps, returns, strict })
    }

    /// The scores from the start of the stage, by their names in a checkpoint.
    pub(crate) fn scores(&self) -> impl Iterator<Item = (String, &Scores)> {
        self.terms.iter().enumerate().flat_map(|(i, term)| {
            [(calibration_name(i), &term.calibration.start), (verdict_name(i), &term.verdict.start)]
        })
    }

    /// Releases the kept parameters.
    pub(crate) fn release(self, session: &mut dyn Session) {
        session.vectors().release(Vector(self.state.kept));
    }
}

/// The checkpoint's name for the scores of a term's calibration rows.
pub(crate) fn calibration_name(term: usize) -> String {
    format!("budget/calibration{term}")
}

/// The checkpoint's name for the scores of the rows of the verdict.
pub(crate) fn verdict_name(term: usize) -> String {
    format!("budget/verdict{term}")
}

/// What became of a budget.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Verdict {
    /// What was allowed, nats per token.
    pub(crate) budget: f64,
    /// How much the lower level has risen on the rows of the verdict, nats per token.
    pub(crate) rise: f64,
    /// Its standard error over rows.
    pub(crate) standard_error: f64,
    /// The number of rows.
    pub(crate) rows: usize,
    /// Whether the rise is within the budget.
    pub(crate) kept: bool,
    /// The training step whose parameters the stage ends with.
    pub(crate) kept_at: usize,
    /// Training steps of the stage.
    pub(crate) steps: usize,
    /// How often the parameters went back to an earlier step during training.
    pub(crate) returns: usize,
    /// Whether the run fails if the budget was not kept.
    pub(crate) strict: bool,
}

impl Verdict {
    /// The verdict as held-out metrics.
    pub(crate) fn metrics(&self) -> Metrics {
        let figures = [
            ("eval_budget/nats", self.budget),
            ("eval_budget/rise", self.rise),
            ("eval_budget/standard_error", self.standard_error),
            ("eval_budget/kept", f64::from(self.kept)),
            ("eval_budget/step", self.kept_at as f64),
            ("eval_budget/returns", self.returns as f64),
        ];
        figures.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdict { budget, rise, standard_error, kept, kept_at, steps, returns, .. } = self;
        let moved = if *rise < 0.0 { "fell" } else { "rose" };
        let (rise, verdict) = (rise.abs(), if *kept { "kept" } else { "NOT KEPT" });
        write!(
            f,
            "held-out SFT loss {moved} by {rise:.3} ± {standard_error:.3}; the budget is {budget} nats per token: {verdict}"
        )?;
        if *returns > 0 {
            let times = if *returns == 1 { "once".to_owned() } else { format!("{returns} times") };
            write!(f, " (went back {times})")?;
        }
        if kept_at < steps {
            write!(f, " (the model is that of step {kept_at} of {steps})")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict() -> Verdict {
        Verdict {
            budget: 0.05,
            rise: 0.0312,
            standard_error: 0.0081,
            rows: 100,
            kept: true,
            kept_at: 200,
            steps: 200,
            returns: 0,
            strict: false,
        }
    }

    #[test]
    fn a_verdict_says_what_was_asked_and_what_was_done() {
        let broken = Verdict { rise: 0.06, kept: false, kept_at: 160, returns: 2, ..verdict() };
        let fell = Verdict { rise: -0.01, ..verdict() };
        insta::assert_snapshot!([verdict(), broken, fell].map(|v| v.to_string()).join("\n"), @"
        held-out SFT loss rose by 0.031 ± 0.008; the budget is 0.05 nats per token: kept
        held-out SFT loss rose by 0.060 ± 0.008; the budget is 0.05 nats per token: NOT KEPT (went back 2 times) (the model is that of step 160 of 200)
        held-out SFT loss fell by 0.010 ± 0.008; the budget is 0.05 nats per token: kept
        ");
    }

    #[test]
    fn a_rise_is_paired_by_rows() {
        let rise = paired(&[(&[1], 0.1), (&[2], 0.3), (&[3], 0.2), (&[4], 0.2)]);
        assert!((rise.mean - 0.2).abs() < 1e-15);
        // s^2 = 0.02 / 3, and s / 2 is the standard error of four rows.
        assert!((rise.standard_error - (0.02_f64 / 3.0).sqrt() / 2.0).abs() < 1e-15);
        let sum = total([Ok(rise), Ok(Rise { mean: -0.1, standard_error: 0.0 })]).unwrap();
        assert!((sum.mean - 0.1).abs() < 1e-15 && (sum.standard_error - rise.standard_error).abs() < 1e-15);
    }

    #[test]
    fn rows_that_say_the_same_of_a_prompt_say_it_once() {
        let once = paired(&[(&[1], 0.1), (&[2], 0.3), (&[3], 0.2)]);
        let repeated = [(&[1][..], 0.1), (&[2], 0.3), (&[3], 0.2)].into_iter().cycle().take(12);
        let repeated = paired(&repeated.collect::<Vec<_>>());
        assert!((once.mean - repeated.mean).abs() < 1e-15);
        assert!((once.standard_error - repeated.standard_error).abs() < 1e-15, "{once:?} {repeated:?}");
        // Prompts of unequal size: sums of deviations -0.1 and 0.1 of three rows, 2 / 9 * 0.01 * 2.
        let unequal = paired(&[(&[1], 0.1), (&[2], 0.2), (&[2], 0.3)]);
        assert!((unequal.standard_error - (0.04_f64 / 9.0).sqrt()).abs() < 1e-15, "{unequal:?}");
        let one_prompt = paired(&[(&[1], 0.1), (&[1], 0.3)]);
        assert!((one_prompt.standard_error - 0.1).abs() < 1e-15, "{one_prompt:?}");
    }
}
