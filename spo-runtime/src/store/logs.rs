//! The files that grow while a run goes. They hold no times, so that equal runs give equal files.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};
use spo_api::Metrics;

use crate::store::lines::JsonLines;

/// The names of the files.
pub(crate) const FILES: [&str; 3] = ["metrics.jsonl", "held_out.jsonl", "diagnostics.jsonl"];

/// How long each file was at some moment, by name.
pub(crate) type Lengths = BTreeMap<String, u64>;

/// What a run logs.
pub(crate) struct Logs {
    metrics: JsonLines,
    /// Every held-out row at both ends of a stage.
    pub(crate) held_out: JsonLines,
    /// What the recipe's diagnostics see; `None` where it has none.
    pub(crate) diagnostics: Option<JsonLines>,
}

impl Logs {
    /// Opens the files of a run, to go on where they had these lengths; from nothing where none is given.
    pub(crate) fn open(folder: &Path, lengths: &Lengths, diagnostics: bool) -> anyhow::Result<Self> {
        let open = |name: &str| JsonLines::open(&folder.join(name), lengths.get(name).copied().unwrap_or(0));
        let [metrics, held_out, evolution] = FILES;
        Ok(Logs {
            metrics: open(metrics)?,
            held_out: open(held_out)?,
            diagnostics: diagnostics.then(|| open(evolution)).transpose()?,
        })
    }

    fn all(&mut self) -> impl Iterator<Item = (&'static str, &mut JsonLines)> {
        let files = [Some(&mut self.metrics), Some(&mut self.held_out), self.diagnostics.as_mut()];
        FILES.into_iter().zip(files).filter_map(|(name, file)| Some((name, file?)))
    }

    /// Makes sure that everything is on disk.
    pub(crate) fn sync(&mut self) -> anyhow::Result<Lengths> {
        self.all().map(|(name, file)| Ok((name.to_owned(), file.sync()?))).collect()
    }

    /// What a stage has logged, by file.
    pub(crate) fn of_stage(&mut self, stage: &str) -> anyhow::Result<BTreeMap<String, String>> {
        self.all().map(|(name, file)| Ok((name.to_owned(), file.of_stage(stage)?))).collect()
    }

    /// Adds what a stage logged elsewhere.
    pub(crate) fn append(&mut self, lines: &BTreeMap<String, String>) -> anyhow::Result<()> {
        self.all().try_for_each(|(name, file)| lines.get(name).map_or(Ok(()), |lines| file.append(lines)))
    }

    /// Adds the metrics of a step, counted from 1; those of step 0 were taken before training.
    pub(crate) fn metrics(&mut self, stage: &str, step: usize, metrics: &Metrics) -> anyhow::Result<()> {
        let mut line =
            Map::from_iter([("stage".to_owned(), Value::from(stage)), ("step".to_owned(), step.into())]);
        line.extend(metrics.iter().map(|(name, value)| (name.clone(), Value::from(*value))));
        self.metrics.write(&line)
    }
}
