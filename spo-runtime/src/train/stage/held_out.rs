//! Evaluation of a stage on its held-out rows: before, during and after training.

use anyhow::Context;
use spo_api::{Metrics, nearest};
use spo_data::{Dataset, MicroBatch};

use crate::error::{BadInput, bad};
use crate::plan::view::View;
use crate::store::bundle;
use crate::store::scores::Scores;
use crate::train::card;
use crate::train::diagnostics::{Evolution, StageFacts};
use crate::train::evaluate::answers::{HeldOutLine, Wanted};
use crate::train::evaluate::mass::{Ledger, ledgers};
use crate::train::evaluate::{HeldOut, HeldOutRows, held_out};
use crate::train::model_folder::{export, save};
use crate::train::progress::StageProgress;
use crate::train::step::rows::Batch;

use super::training::Training;

/// The held-out rows of a stage, with their scores at its start.
pub(super) struct Evaluator {
    /// `None` when the recipe has no held-out rows.
    pub(super) held_out: Option<HeldOutRows>,
    pub(super) start: Option<Scores>,
}

impl Training<'_> {
    pub(super) fn evaluator(&mut self, progress: &mut StageProgress) -> anyhow::Result<Evaluator> {
        let reference =
            match self.stage.eval.clone().filter(|_| self.opened.is_some() || self.external().is_some()) {
                Some(data) => {
                    let all = (0..data.examples.len()).collect();
                    Some(self.scores(&data, self.held_out_view(&data), all, progress)?)
                }
                None => None,
            };
        self.evaluator_against(reference)
    }

    fn held_out_view(&self, data: &Dataset) -> View {
        View { layout: data.layout, mismatched: self.stage.view.mismatched }
    }

    pub(super) fn evaluator_against(&self, reference: Option<Scores>) -> anyhow::Result<Evaluator> {
        let rows = MicroBatch::Rows(self.plan.recipe.evaluation.batch_size);
        let held_out = match self.stage.eval.clone() {
            Some(data) => {
                let batch = Batch::whole(&data, self.held_out_view(&data), rows)?;
                Some(HeldOutRows { data, batch, reference })
            }
            None => None,
        };
        Ok(Evaluator { held_out, start: None })
    }

    /// Starts the diagnostics, if the recipe asks for them.
    pub(super) fn evolution(&mut self) -> anyhow::Result<Option<Evolution>> {
        let (Some(recipe), Some(log)) = (&self.plan.recipe.diagnostics, &mut self.logs.diagnostics) else {
            return Ok(None);
        };
        let facts = StageFacts {
            name: &self.stage.recipe.name,
            steps: self.stage.steps,
            data: self.stage.eval.as_ref().unwrap_or(&self.stage.train),
            held_out: self.stage.eval.is_some(),
            at_once: self.plan.recipe.evaluation.batch_size,
            seed: self.plan.recipe.run.seed,
        };
        Evolution::begin(recipe, &facts, &mut *self.plan.session, &self.plan.tokenizer, log).map(Some)
    }

    /// Evaluates, logs and prints the held-out metrics after `step` steps. At the start and the end of a
    /// stage, this also generates answers and logs every row.
    pub(super) fn evaluate(
        &mut self,
        evaluator: &mut Evaluator,
        step: usize,
        progress: &mut StageProgress,
    ) -> anyhow::Result<Option<Metrics>> {
        let answer = step == 0 || step == self.stage.steps || progress.patience.over;
        let Some(rows) = &evaluator.held_out else { return Ok(None) };
        let data = &rows.data;
        let (session, objective) = (&mut *self.plan.session, &mut *self.stage.objective);
        let HeldOut { mut metrics, scores, .. } =
            held_out(session, objective, rows, evaluator.start.as_ref())?;
        let name = &self.stage.recipe.name;
        if answer {
            let mut line = HeldOutLine::new(name, step, data, &scores);
            let wanted = Wanted {
                exact_match: self.stage.exact_match,
                judge: self.stage.judge,
                samples: self.plan.recipe.evaluation.samples,
            };
            metrics.extend(line.answer(session, data, &self.plan.tokenizer, &wanted)?);
            self.logs.held_out.write(&line)?;
        }
        if self.plan.recipe.evaluation.mass {
            metrics.extend(Ledger::mean(&ledgers(session, data)?).metrics());
        }
        if progress.patience.over {
            metrics.insert("eval_stopped_early".into(), 1.0);
        }
        evaluator.start.get_or_insert(scores);
        self.logs.metrics(name, step, &metrics)?;
        self.reporter.evaluation(step, &metrics);
        self.keep_best(step, &metrics, progress)?;
        self.lose_patience(step, &metrics, progress)?;
        Ok(Some(metrics))
    }

    /// Decides whether the stage ends early. The evaluation before the first step only shows whether there is such a figure.
    fn lose_patience(
        &self,
        step: usize,
        metrics: &Metrics,
        progress: &mut StageProgress,
    ) -> anyhow::Result<()> {
        let Some(rule) = &self.stage.recipe.early_stopping else { return Ok(()) };
        let figure = figure(metrics, "early_stopping.metric", &rule.metric)?;
        let patience = &mut progress.patience;
        if step == 0 || patience.over {
            return Ok(());
        }
        if rule.goal.improves(figure, patience.best) {
            (patience.best, patience.waited) = (Some(figure), 0);
            return Ok(());
        }
        patience.waited += 1;
        patience.over = patience.waited >= rule.patience && step < self.stage.steps;
        Ok(())
    }

    /// Saves the model if it is the best of the stage so far. The model that the stage started with does not
    /// count.
    fn keep_best(
        &mut self,
        step: usize,
        metrics: &Metrics,
        progress: &mut StageProgress,
    ) -> anyhow::Result<()> {
        let plan = &mut *self.plan;
        let Some(best) = &plan.recipe.checkpoint.best else { return Ok(()) };
        let figure = figure(metrics, "checkpoint.best.metric", &best.metric)?;
        if step == 0 || !best.goal.improves(figure, progress.best) {
            return Ok(());
        }
        let folder = self.output.stage(&self.stage.recipe.name);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let what = export(plan);
        let figures = [("held out, at the best step", metrics)];
        let card = card::of_stage(plan, self.output.planned(), &self.stage.recipe, &figures)?;
        bundle::write(&folder.join("best"), |aside| {
            save(&mut *plan.session, aside, what, &plan.tokenizer, &card)?;
            let about = serde_json::json!({ "step": step, &best.metric: figure });
            Ok(std::fs::write(aside.join("best.json"), format!("{about:#}\n"))?)
        })?;
        progress.best = Some(figure);
        Ok(())
    }
}

/// The held-out figure that a key of the recipe names.
fn figure(metrics: &Metrics, key: &str, name: &str) -> Result<f64, BadInput> {
    metrics.get(name).copied().ok_or_else(|| {
        let names = || metrics.keys().map(String::as_str);
        let hint = nearest(name, names()).map_or(String::new(), |n| format!("; did you mean `{n}`?"));
        let listed = names().collect::<Vec<_>>().join(", ");
        bad(format!("{key}: no held-out figure is called `{name}`{hint} There are {listed}"))
    })
}
