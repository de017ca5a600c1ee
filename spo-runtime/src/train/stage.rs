//! One stage of a run: its reference, its held-out rows and its steps.

mod calibration;
mod held_out;
mod in_flight;
mod order;
mod references;
mod steps;
mod training;

use crate::train::keeper::Within;
use crate::train::summary::{StageSummary, StoppedEarly};

use in_flight::InFlight;
pub(super) use training::Training;

/// Trains a stage to its end, from the beginning or from where it was interrupted.
pub(super) fn run(mut training: Training<'_>, within: Option<Within>) -> anyhow::Result<StageSummary> {
    training.reporter.begin(&training.stage.recipe.name, training.stage.steps);
    let mut work = match within {
        Some(within) => InFlight::again(&mut training, within)?,
        None => InFlight::begin(&mut training)?,
    };
    training.steps(&mut work)?;
    let verdict = training.verdict(&mut work)?;
    let early = work.progress.patience.over;
    let steps = if early { work.progress.done } else { training.stage.steps };
    let mut after = training.evaluate(&mut work.evaluator, steps, &mut work.progress)?;
    if let (Some(verdict), Some(after)) = (&verdict, &mut after) {
        after.extend(verdict.metrics());
    }
    training.reporter.end();
    let (progress, clock) = work.end(&mut training)?;
    Ok(StageSummary {
        name: training.stage.recipe.name.clone(),
        from: training.stage.from.clone(),
        bilevel: training.stage.step_name().to_owned(),
        steps,
        seconds: clock.elapsed,
        data_seconds: clock.data,
        step_seconds: clock.steps.median(),
        tokens: progress.tokens,
        tokens_per_second: Some(progress.tokens as f64 / clock.steps.sum),
        reference_rows: progress.reference_rows,
        skipped: progress.skipped,
        train: progress.metrics,
        before: progress.before,
        after,
        budget: verdict,
        stopped_early: training
            .stage
            .recipe
            .early_stopping
            .clone()
            .filter(|_| early)
            .map(|rule| StoppedEarly { planned: training.stage.steps, best: progress.patience.best, rule }),
    })
}
