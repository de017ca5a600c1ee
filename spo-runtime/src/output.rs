//! The folder of a run, and how files get there: whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;
use serde_json::{Map, Value};
use spo_api::Metrics;

use crate::error::BadInput;
use crate::lines::JsonLines;
use crate::plan::Plan;
use crate::summary::Summary;

/// The folder a run writes into.
pub struct Output {
    folder: PathBuf,
}

impl Output {
    /// Makes the folder and writes what is known before training: the resolved recipe, versions and
    /// hashes of the data.
    ///
    /// # Errors
    /// [`BadInput`] when the folder holds an earlier run that the recipe does not allow to be replaced.
    pub fn create(plan: &Plan) -> anyhow::Result<Self> {
        let folder = plan.output.clone();
        let output = Output { folder };
        let folder = &output.folder;
        if folder.join("run.json").exists() {
            if !plan.recipe.run.overwrite {
                return Err(BadInput(format!(
                    "error: {} already holds a run: choose another `run.output`, or set `run.overwrite = true`",
                    folder.display()
                ))
                .into());
            }
            // Only what a run writes is removed: the folder may hold more.
            for name in [
                "run.json",
                "metrics.jsonl",
                "held_out.jsonl",
                "diagnostics.jsonl",
                "summary.json",
                "recipe.toml",
            ] {
                let _ = std::fs::remove_file(folder.join(name));
            }
        }
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let recipe =
            toml::to_string_pretty(&plan.recipe).context("cannot write the resolved recipe as TOML")?;
        write(&folder.join("recipe.toml"), recipe.as_bytes())?;
        output.json("run.json", &plan.record())?;
        Ok(output)
    }

    /// Where a stage's model goes.
    pub fn stage(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Opens the run's metrics.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub fn metrics(&self) -> anyhow::Result<MetricsLog> {
        let path = self.folder.join("metrics.jsonl");
        let file = OpenOptions::new().create(true).write(true).truncate(true).open(&path);
        let file = file.with_context(|| format!("cannot create {}", path.display()))?;
        Ok(MetricsLog { path, file: BufWriter::new(file) })
    }

    /// Opens what is kept of every held-out row at both ends of a stage.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub fn held_out(&self) -> anyhow::Result<JsonLines> {
        JsonLines::create(&self.folder.join("held_out.jsonl"))
    }

    /// Opens the run's diagnostics.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub fn diagnostics(&self) -> anyhow::Result<JsonLines> {
        JsonLines::create(&self.folder.join("diagnostics.jsonl"))
    }

    /// Writes the run's summary: its presence says that the run came to its end.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn finish(&self, summary: &Summary) -> anyhow::Result<()> {
        self.json("summary.json", summary)
    }

    fn json(&self, name: &str, value: &impl Serialize) -> anyhow::Result<()> {
        let mut text = serde_json::to_string_pretty(value)?;
        text.push('\n');
        write(&self.folder.join(name), text.as_bytes())
    }
}

/// `metrics.jsonl`: one object a line. It holds no times, so that equal runs give equal files.
pub struct MetricsLog {
    path: PathBuf,
    file: BufWriter<File>,
}

impl MetricsLog {
    /// Adds the metrics of a step, counted from 1; those of step 0 were taken before training.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn write(&mut self, stage: &str, step: usize, metrics: &Metrics) -> anyhow::Result<()> {
        let mut line =
            Map::from_iter([("stage".to_owned(), Value::from(stage)), ("step".to_owned(), step.into())]);
        line.extend(metrics.iter().map(|(name, value)| (name.clone(), Value::from(*value))));
        let written = serde_json::to_writer(&mut self.file, &line)
            .map_err(std::io::Error::from)
            .and_then(|()| self.file.write_all(b"\n"))
            .and_then(|()| self.file.flush());
        written.with_context(|| format!("cannot write {}", self.path.display()))
    }
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let all = spo_api::write_whole(path, |out| out.write_all(bytes).map_err(|e| spo_api::Error::io(path, e)));
    all.with_context(|| format!("cannot write {}", path.display()))
}
