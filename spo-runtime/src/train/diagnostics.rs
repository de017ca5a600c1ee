//! Probability evolution: how the log-probs of a few probe pairs change during training.
//!
//! Measurements do not change the model, the optimizer or the data order. A run with diagnostics has
//! bit-identical metrics to one without, unless its guard intervenes.

mod geometry;
mod probes;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use spo_api::{Error, Metrics, Session};
use spo_data::{Dataset, Tokenizer};

use crate::recipe::{Action, Diagnostics, Guard};
use crate::store::lines::JsonLines;
use crate::train::evaluate::answers::spread;
use geometry::{Before, Geometry, Prediction, geometry};
use probes::{Probe, ProbeText, Snapshot};

/// A line of `diagnostics.jsonl`.
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Record<'a> {
    /// The probes of a stage. All other lists of the stage are in this order.
    Probes { stage: &'a str, held_out: bool, probes: Vec<ProbeText> },
    /// Log-probs after `step` steps.
    Evolution {
        stage: &'a str,
        step: usize,
        displaced: f64,
        #[serde(skip_serializing_if = "Option::is_none")]
        constraint: Option<f64>,
        #[serde(flatten)]
        now: &'a Snapshot,
    },
    /// Gradients of some probes after `step` steps, and the effect of the following step.
    Geometry {
        stage: &'a str,
        step: usize,
        /// Indices into the probes.
        probes: &'a [usize],
        #[serde(flatten)]
        geometry: &'a Geometry,
        #[serde(flatten)]
        prediction: Option<&'a Prediction>,
    },
    /// The guard intervened.
    Guard { stage: &'a str, step: usize, displaced: f64, limit: f64, lr_factor: f64 },
}

/// What the diagnostics need to know about a stage.
pub(crate) struct StageFacts<'a> {
    pub(crate) name: &'a str,
    pub(crate) steps: usize,
    /// The rows that probes are taken from.
    pub(crate) data: &'a Dataset,
    /// Whether these rows are held out.
    pub(crate) held_out: bool,
    /// Rows scored at a time.
    pub(crate) at_once: usize,
    /// Seed of the run.
    pub(crate) seed: u64,
}

/// Tracks the probes of a stage.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Evolution {
    recipe: Diagnostics,
    stage: String,
    steps: usize,
    at_once: usize,
    probes: Vec<Probe>,
    /// Probes whose gradients are measured.
    near: Vec<usize>,
    start: Snapshot,
    /// The parameters before a step whose effect is to be compared with its prediction.
    #[serde(skip)]
    before: Option<Before>,
    /// The safe set's constraint value from the last step.
    constraint: Option<f64>,
    lr_factor: f64,
}

impl Evolution {
    /// Chooses the probes at the start of a stage.
    pub(crate) fn begin(
        recipe: &Diagnostics,
        stage: &StageFacts<'_>,
        session: &mut dyn Session,
        tokenizer: &Tokenizer,
        log: &mut JsonLines,
    ) -> anyhow::Result<Self> {
        let (stop, context) = (tokenizer.stop_tokens(), session.info().context);
        let rows = spread(stage.data, recipe.probes);
        let mut probes = probes::with_leakage(stage.data, &rows, stop, context, stage.seed)?;
        probes::add_own(session, &mut probes, stop, stage.seed).context("the model's own answers")?;
        let texts = probes.iter().map(|probe| probe.text(tokenizer)).collect();
        log.write(&Record::Probes { stage: stage.name, held_out: stage.held_out, probes: texts })?;
        let near = recipe.geometry.min(probes.len());
        Ok(Evolution {
            recipe: recipe.clone(),
            stage: stage.name.to_owned(),
            steps: stage.steps,
            at_once: stage.at_once,
            start: Snapshot::take(session, &probes, stage.at_once)?,
            near: (0..near).map(|i| i * probes.len() / near).collect(),
            probes,
            before: None,
            constraint: None,
            lr_factor: 1.0,
        })
    }

    /// Called before each step; takes a measurement if one is due.
    ///
    /// # Errors
    /// Errors of the session and of the disk; [`Error::Stopped`] if the guard stops the run.
    pub(crate) fn before_step(
        &mut self,
        session: &mut dyn Session,
        log: &mut JsonLines,
        step: usize,
        note: &dyn Fn(&str),
    ) -> anyhow::Result<()> {
        if step.is_multiple_of(self.recipe.every) {
            self.measure(session, log, step, note)?;
            if !self.near.is_empty() {
                self.before = Some(Before::keep(session)?);
            }
        }
        Ok(())
    }

    /// Called after step number `steps_done`. Compares it with its prediction if it was measured.
    pub(crate) fn after_step(
        &mut self,
        session: &mut dyn Session,
        log: &mut JsonLines,
        steps_done: usize,
        metrics: &Metrics,
    ) -> anyhow::Result<()> {
        self.constraint = metrics.get("bilevel/constraint").copied();
        if let Some(before) = self.before.take() {
            let (geometry, prediction) = before.measure(session, &self.near())?;
            self.log_geometry(log, steps_done - 1, &geometry, Some(&prediction))?;
        }
        Ok(())
    }

    /// Called after the last step.
    pub(crate) fn finish(
        mut self,
        session: &mut dyn Session,
        log: &mut JsonLines,
        note: &dyn Fn(&str),
    ) -> anyhow::Result<()> {
        let step = self.steps;
        self.measure(session, log, step, note)?;
        if !self.near.is_empty() {
            let geometry = geometry(session, &self.near())?;
            self.log_geometry(log, step, &geometry, None)?;
        }
        Ok(())
    }

    /// The factor that the guard applies to the learning rate.
    pub(crate) fn lr_factor(&self) -> f64 {
        self.lr_factor
    }

    fn near(&self) -> Vec<&Probe> {
        self.near.iter().map(|&i| &self.probes[i]).collect()
    }

    fn log_geometry(
        &self,
        log: &mut JsonLines,
        step: usize,
        geometry: &Geometry,
        prediction: Option<&Prediction>,
    ) -> anyhow::Result<()> {
        let (stage, probes) = (&*self.stage, &*self.near);
        log.write(&Record::Geometry { stage, step, probes, geometry, prediction })
    }

    fn measure(
        &mut self,
        session: &mut dyn Session,
        log: &mut JsonLines,
        step: usize,
        note: &dyn Fn(&str),
    ) -> anyhow::Result<()> {
        let now = Snapshot::take(session, &self.probes, self.at_once)?;
        let (stage, constraint) = (&*self.stage, self.constraint);
        let displaced = now.displaced(&self.start, 0.0);
        log.write(&Record::Evolution { stage, step, displaced, constraint, now: &now })?;
        self.hold(log, step, &now, note)
    }

    /// Checks a measurement against the guard's limit, if there is one.
    fn hold(
        &mut self,
        log: &mut JsonLines,
        step: usize,
        now: &Snapshot,
        note: &dyn Fn(&str),
    ) -> anyhow::Result<()> {
        let Some(guard) = self.recipe.guard else { return Ok(()) };
        let (displaced, limit) = (now.displaced(&self.start, guard.by), guard.displaced);
        if displaced <= limit {
            return Ok(());
        }
        self.lr_factor *= match guard.action {
            Action::Stop => 0.0,
            Action::BackOff(factor) => factor,
        };
        let (stage, lr_factor) = (&*self.stage, self.lr_factor);
        log.write(&Record::Guard { stage, step, displaced, limit, lr_factor })?;
        let diagnosis = self.diagnosis(guard, step, now);
        match guard.action {
            Action::Stop => Err(Error::Stopped(format!(
                "{diagnosis}. The stage's model was not saved. Lower the learning rate or take fewer steps; or hold the \
                 preferred answers in place: `bilevel = {{ step = \"penalty\", lambda = 10.0 }}`"
            ))
            .into()),
            Action::BackOff(_) if step < self.steps => {
                note(&format!("{diagnosis}. From here on the learning rate is scaled by {lr_factor}"));
                Ok(())
            }
            Action::BackOff(_) => {
                note(&diagnosis);
                Ok(())
            }
        }
    }

    fn diagnosis(&self, guard: Guard, step: usize, now: &Snapshot) -> String {
        let count = self.probes.len();
        let mean = |now: &[f64], start: &[f64]| {
            now.iter().zip(start).map(|(now, start)| now - start).sum::<f64>() / now.len() as f64
        };
        let both = now.rejected.iter().zip(&self.start.rejected);
        let (now_l, start_l): (Vec<f64>, Vec<f64>) = both.filter_map(|(now, start)| now.zip(*start)).unzip();
        let rejected = match now_l.is_empty() {
            true => String::new(),
            false => format!(", that of the dispreferred ones by {:+.3}", mean(&now_l, &start_l)),
        };
        format!(
            "displacement passed its limit: after {step} of {} steps, {:.1}% of {count} preferred answers have lost more than \
             {} nats since the stage began (limit {:.1}%); their mean log-prob changed by {:+.3} nats{rejected}",
            self.steps,
            100.0 * now.displaced(&self.start, guard.by),
            guard.by,
            100.0 * guard.displaced,
            mean(&now.chosen, &self.start.chosen),
        )
    }
}
