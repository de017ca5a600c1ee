//! Evaluation on held-out rows.

pub(crate) mod answers;
pub(crate) mod choices;
pub(crate) mod figures;
pub(crate) mod mass;

use std::sync::Arc;

use spo_api::{Evaluation, LogProbs, Metrics, Objective, Result, Session, Statistics};
use spo_data::Dataset;

use crate::store::scores::Scores;
use crate::train::step::loss::{evaluate, score};
use crate::train::step::observation::Observation;
use crate::train::step::rows::{Assembled, Batch};

/// Held-out metrics at one point of training, and the scores they were computed from.
pub(crate) struct HeldOut {
    /// Metrics, each named `eval_...`.
    pub(crate) metrics: Metrics,
    /// Log-probs of every row.
    pub(crate) scores: Scores,
    /// Rewards of every row's answers, the chosen one first; `None` if there is no such answer, or the objective has no
    /// rewards.
    pub(crate) rewards: Vec<[Option<f64>; 2]>,
}

pub(crate) struct HeldOutRows {
    pub(crate) data: Arc<Dataset>,
    pub(crate) batch: Batch,
    /// Reference log-probs, where the reference is not the model at the start of the stage.
    pub(crate) reference: Option<Scores>,
}

/// Scores held-out rows. `start` holds the scores from the start of the stage, which also serve as the
/// reference unless another is given. At the start itself `start` is `None`, and the new scores are used.
pub(crate) fn held_out(
    session: &mut dyn Session,
    objective: &mut dyn Objective,
    rows: &HeldOutRows,
    start: Option<&Scores>,
) -> Result<HeldOut> {
    let scored = score(session, &rows.batch.passes, statistics(objective))?;
    measured(objective, rows, scored, start)
}

/// What is measured of every token.
pub(crate) fn statistics(objective: &dyn Objective) -> Statistics {
    Statistics { entropy: true, greedy: true, collision: objective.requirements().collision }
}

/// Like [`held_out`], from what was scored of the rows' passes.
pub(crate) fn measured(
    objective: &mut dyn Objective,
    HeldOutRows { data, batch, reference }: &HeldOutRows,
    scored: Vec<LogProbs>,
    start: Option<&Scores>,
) -> Result<HeldOut> {
    let mut scores = Scores::empty(data);
    batch.store(&scored, &mut scores);
    let start = start.unwrap_or(&scores);
    let assembled = Assembled::new(
        batch,
        batch.passes.iter().zip(&scored),
        Some(reference.as_ref().unwrap_or(start)),
        data,
    );
    // Evaluation must not change an objective's running values.
    let state = objective.state();
    let evaluation = evaluate(objective, &assembled, data)?;
    objective.restore(&state)?;
    let mut observation = Observation::default();
    observation.add(&assembled, &evaluation)?;

    let mut metrics: Metrics =
        observation.metrics().into_iter().map(|(k, v)| (format!("eval_{k}"), v)).collect();
    metrics.extend(displacement(&scores, start));
    let rewards = rewards(&evaluation, &assembled, data.examples.len());
    Ok(HeldOut { metrics, scores, rewards })
}

/// The rewards by row.
fn rewards(evaluation: &Evaluation, assembled: &Assembled, rows: usize) -> Vec<[Option<f64>; 2]> {
    let mut rewards = vec![[None; 2]; rows];
    let sides = [(true, &evaluation.rewards.chosen), (false, &evaluation.rewards.rejected)];
    for (side, (chosen, values)) in sides.into_iter().enumerate() {
        for (i, reward) in values.iter().enumerate() {
            rewards[assembled.row(chosen, i)][side] = Some(*reward);
        }
    }
    rewards
}

/// Whether a pair is ranked right by these scores. A tie counts half, as a coin would decide it.
pub(crate) fn ranked_right(chosen: f64, rejected: f64) -> f64 {
    if chosen == rejected { 0.5 } else { f64::from(chosen > rejected) }
}

/// Changes in log-probs since `start`.
fn displacement(now: &Scores, start: &Scores) -> Metrics {
    let sum = |tokens: &[f64]| tokens.iter().sum::<f64>();
    let mean = |tokens: &[f64]| sum(tokens) / tokens.len() as f64;
    let share = |count: usize, of: usize| count as f64 / of as f64;
    let rows: Vec<usize> = (0..now.chosen.len()).filter(|&i| !now.chosen[i].is_empty()).collect();
    let lost = rows.iter().filter(|&&i| sum(&now.chosen[i]) < sum(&start.chosen[i])).count();
    let mut metrics = Metrics::from([("eval_displaced".to_owned(), share(lost, rows.len()))]);
    let tokens: usize = rows.iter().map(|&i| now.chosen[i].len()).sum();
    let log_probs: f64 = rows.iter().map(|&i| sum(&now.chosen[i])).sum();
    metrics.insert("eval_sft_loss".into(), -log_probs / tokens as f64);
    let pairs: Vec<usize> = rows.into_iter().filter(|&i| !now.rejected[i].is_empty()).collect();
    if !pairs.is_empty() {
        let ranked = |score: &dyn Fn(&[f64]) -> f64| {
            let right = pairs.iter().map(|&i| ranked_right(score(&now.chosen[i]), score(&now.rejected[i])));
            right.sum::<f64>() / pairs.len() as f64
        };
        let tokens: usize = pairs.iter().map(|&i| now.rejected[i].len()).sum();
        let log_probs: f64 = pairs.iter().map(|&i| sum(&now.rejected[i])).sum();
        metrics.insert("eval_sft_loss/rejected".into(), -log_probs / tokens as f64);
        metrics.insert("eval_pair_accuracy".into(), ranked(&sum));
        metrics.insert("eval_pair_accuracy_per_token".into(), ranked(&mean));
    }
    metrics
}
