//! The reference log-probs of a stage. They are computed before training, with the parameters the stage
//! starts from, those of the model as opened, or another model; or the reference moves during training.

use std::sync::Arc;

use anyhow::Context;
use spo_data::Dataset;

use crate::plan::external;
use crate::plan::provenance::ScoredRows;
use crate::plan::view::View;
use crate::recipe::Reference;
use crate::store::scores::{self as scores_file, Scores};
use crate::train::progress::StageProgress;
use crate::train::reference::{MovingReference, Scoring};
use crate::train::start_check;
use crate::train::starts::MODEL;
use crate::train::step::rows::Batch;

use super::order::Order;
use super::training::Training;

/// The name of the scores in a cache entry.
const CACHED: &str = "reference";

/// Reference log-probs of a stage's rows.
pub(super) struct References {
    pub(super) train: Option<Scores>,
    /// For each term of the lower level, the scores of its own demonstrations.
    pub(super) lower: Vec<Option<Scores>>,
    pub(super) moving: Option<MovingReference>,
}

impl Training<'_> {
    /// Computes the reference log-probs that the objective and the step need.
    pub(super) fn references(&mut self, progress: &mut StageProgress) -> anyhow::Result<References> {
        let recipe = &self.stage.recipe;
        let (batch_size, how) = (recipe.batch_size, recipe.reference.clone());
        let of_lower = self.stage.step.needs().reference_lower;
        let shares = self.stage.lower.iter().any(|term| term.data.is_none());
        let of_train = self.stage.objective.requirements().reference || (of_lower && shares);
        let train = match of_train {
            true => {
                let data = self.stage.train.clone();
                // A short stage does not see all rows.
                let seen = self.stage.steps.saturating_mul(batch_size).min(data.examples.len());
                let rows = Order::of_training_rows(self.stage, self.plan.recipe.run.seed).take(seen);
                Some(self.scores(&data, self.stage.view, rows, progress)?)
            }
            false => None,
        };
        let own: Vec<_> =
            self.stage.lower.iter().map(|term| term.data.clone().filter(|_| of_lower)).collect();
        let mut lower = Vec::new();
        for data in own {
            lower.push(match data {
                Some(data) => {
                    let all = (0..data.examples.len()).collect();
                    Some(self.scores(&data, View::DEMONSTRATIONS, all, progress)?)
                }
                None => None,
            });
        }
        let moving = match how {
            Reference::Moving(how) if of_train => Some(MovingReference::new(&mut *self.plan.session, how)?),
            _ => None,
        };
        Ok(References { train, lower, moving })
    }

    /// The reference log-probs of at least these rows.
    pub(super) fn scores(
        &mut self,
        data: &Arc<Dataset>,
        view: View,
        rows: Vec<usize>,
        progress: &mut StageProgress,
    ) -> anyhow::Result<Scores> {
        let mut scores = self.known.remove(&self.key(data, view)).unwrap_or_else(|| Scores::empty(data));
        let mut missing: Vec<usize> = rows.into_iter().filter(|&row| !scores.knows(row)).collect();
        if missing.is_empty() {
            return Ok(scores);
        }
        // Sorted, so that runs with other seeds can share the cached scores.
        missing.sort_unstable();
        let at_once = self.plan.recipe.evaluation.batch_size;
        let by = self.reference_by();
        let stages = self.keeper.finished.iter().position(|stage| stage.name == by).map_or(0, |i| i + 1);
        let slot = match self.provenance {
            Some(known) => {
                let of = ScoredRows {
                    data: data.hash(),
                    view,
                    rows: &missing,
                    at_once,
                    external: self.external(),
                };
                let key = known.log_probs(stages, &of);
                self.cache.slot(&key, self.stop, self.reporter)?
            }
            None => None,
        };
        let file = "scores.safetensors";
        if let Some(slot) = &slot
            && let Some(found) = slot.read(self.reporter, |folder| {
                let found = scores_file::read(&folder.join(file))?.remove(CACHED);
                found.filter(|found| found.chosen.len() == scores.chosen.len()).context("it is of other rows")
            })
        {
            scores.merge(&found, &missing);
            let rows = missing.len();
            self.reporter.note(&format!("reference: the log-probs of {rows} rows are taken from the cache"));
            return Ok(scores);
        }
        if let (Some(other), None) = (self.external(), &self.other) {
            self.other = Some(self.plan.backend.open(&external::spec(&self.plan.recipe, other))?);
        }
        let (reporter, stop) = (&mut *self.reporter, self.stop);
        let session = self.other.as_deref_mut().unwrap_or(&mut *self.plan.session);
        let scoring = Scoring { data, view, rows: &missing, at_once, parameters: self.opened };
        scoring.fill(&mut scores, session, &mut |done, total| {
            reporter.scoring("the reference", done, total);
            Ok(stop.check()?)
        })?;
        progress.reference_rows += missing.len();
        if let Some(slot) = &slot {
            let mut made = Scores::empty(data);
            made.merge(&scores, &missing);
            slot.write(self.reporter, |folder| {
                scores_file::write(&folder.join(file), [(CACHED.to_owned(), &made)])
            });
        }
        Ok(scores)
    }

    /// If the policy starts as the reference, checks that their log-probs agree on the first batch.
    pub(super) fn check_start(&mut self, references: &References) -> anyhow::Result<()> {
        let (Some(reference), data) = (&references.train, self.stage.train.clone()) else { return Ok(()) };
        if self.external().is_some() || self.opened.is_some() && self.stage.from != MODEL {
            return Ok(());
        }
        let recipe = &self.stage.recipe;
        let rows = Order::of_training_rows(self.stage, self.plan.recipe.run.seed).take(recipe.batch_size);
        let batch = Batch::new(&data, &rows, self.stage.view, recipe.micro_batch)?;
        start_check::check(&mut *self.plan.session, &batch, &data, reference)
    }

    /// The key under which later stages find these scores.
    pub(super) fn key(&self, data: &Dataset, view: View) -> String {
        format!("{} {} {:?} {:?}", self.reference_by(), data.hash(), view.layout, view.mismatched)
    }
}
