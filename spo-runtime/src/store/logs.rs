//! The log files of a run. They contain no times, so equal runs produce equal files.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};
use spo_api::Metrics;

use crate::recipe::Recipe;
use crate::store::events::Events;
use crate::store::lines::JsonLines;

/// The names of the log files.
pub(crate) const FILES: [&str; 3] = ["metrics.jsonl", "held_out.jsonl", "diagnostics.jsonl"];

/// The length of each file at some point, by name.
pub(crate) type Lengths = BTreeMap<String, u64>;

/// The logs of a run.
pub(crate) struct Logs {
    metrics: JsonLines,
    /// Results for every held-out row at the start and end of a stage.
    pub(crate) held_out: JsonLines,
    /// `None` if the recipe has no diagnostics.
    pub(crate) diagnostics: Option<JsonLines>,
    /// The metrics once more, for TensorBoard; `None` if the recipe does not ask for it.
    events: Option<Events>,
}

impl Logs {
    /// Opens a run's files and truncates them to these lengths. A file without a length starts empty.
    pub(crate) fn open(folder: &Path, lengths: &Lengths, recipe: &Recipe) -> anyhow::Result<Self> {
        let open = |name: &str| JsonLines::open(&folder.join(name), lengths.get(name).copied().unwrap_or(0));
        let [metrics, held_out, evolution] = FILES;
        let metrics = open(metrics)?;
        Ok(Logs {
            events: recipe.run.tensorboard.then(|| Events::open(folder, &metrics.text()?)).transpose()?,
            metrics,
            held_out: open(held_out)?,
            diagnostics: recipe.diagnostics.as_ref().map(|_| open(evolution)).transpose()?,
        })
    }

    fn all(&mut self) -> impl Iterator<Item = (&'static str, &mut JsonLines)> {
        let files = [Some(&mut self.metrics), Some(&mut self.held_out), self.diagnostics.as_mut()];
        FILES.into_iter().zip(files).filter_map(|(name, file)| Some((name, file?)))
    }

    /// Syncs all files to disk.
    pub(crate) fn sync(&mut self) -> anyhow::Result<Lengths> {
        self.all().map(|(name, file)| Ok((name.to_owned(), file.sync()?))).collect()
    }

    /// The lines that a stage has logged, by file.
    pub(crate) fn of_stage(&mut self, stage: &str) -> anyhow::Result<BTreeMap<String, String>> {
        self.all().map(|(name, file)| Ok((name.to_owned(), file.of_stage(stage)?))).collect()
    }

    /// Appends lines that a stage logged in another run.
    pub(crate) fn append(&mut self, lines: &BTreeMap<String, String>) -> anyhow::Result<()> {
        let mut all = self.all();
        all.try_for_each(|(name, file)| lines.get(name).map_or(Ok(()), |lines| file.append(lines)))?;
        drop(all);
        match (&mut self.events, lines.get(FILES[0])) {
            (Some(events), Some(lines)) => events.append(lines),
            _ => Ok(()),
        }
    }

    /// Logs the metrics of a step. Steps count from 1; step 0 holds metrics from before training.
    pub(crate) fn metrics(&mut self, stage: &str, step: usize, metrics: &Metrics) -> anyhow::Result<()> {
        let mut line =
            Map::from_iter([("stage".to_owned(), Value::from(stage)), ("step".to_owned(), step.into())]);
        line.extend(metrics.iter().map(|(name, value)| (name.clone(), Value::from(*value))));
        self.metrics.write(&line)?;
        self.events.as_mut().map_or(Ok(()), |events| events.write(&line))
    }
}
