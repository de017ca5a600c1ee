//! TensorBoard event files that grow with `metrics.jsonl`: one for each stage.
//!
//! They say what the lines of that file say, and nothing else. So they need no checkpoints: when a run goes on, they are
//! made anew of the lines that are left, and a reader that follows them finds the bytes that it knows.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::{Map, Value};
use spo_report::tensorboard;

use crate::store::bundle;
use crate::store::write::write_bytes;

/// The folder of a run's event files. Each stage has a folder in it.
pub(crate) const FOLDER: &str = "tensorboard";

/// The event files of a run.
pub(super) struct Events {
    folder: PathBuf,
    files: BTreeMap<String, File>,
}

impl Events {
    /// Writes the files of a run anew, from the lines of its metrics.
    pub(super) fn open(run: &Path, lines: &str) -> anyhow::Result<Self> {
        let folder = run.join(FOLDER);
        bundle::remove_all(&folder, &[tensorboard::FILE])
            .with_context(|| format!("cannot write {}", folder.display()))?;
        let mut events = Events { folder, files: BTreeMap::new() };
        events.append(lines)?;
        Ok(events)
    }

    /// Appends lines of metrics.
    pub(super) fn append(&mut self, lines: &str) -> anyhow::Result<()> {
        lines.lines().try_for_each(|line| self.write(&serde_json::from_str(line)?))
    }

    /// Appends a line of metrics.
    pub(super) fn write(&mut self, line: &Map<String, Value>) -> anyhow::Result<()> {
        let of = |key: &str| line.get(key).unwrap_or(&Value::Null);
        let (Some(stage), Some(step)) = (of("stage").as_str(), of("step").as_u64()) else {
            return Ok(());
        };
        let path = self.folder.join(stage).join(tensorboard::FILE);
        let file = match self.files.remove(stage) {
            Some(file) => file,
            None => begin(&path)?,
        };
        let file = self.files.entry(stage.to_owned()).or_insert(file);
        let scalars = line.iter().filter(|(name, _)| *name != "step");
        let scalars = scalars.filter_map(|(name, value)| Some((name, value.as_f64()?)));
        let records: Vec<u8> =
            scalars.flat_map(|(name, value)| tensorboard::scalar(step, name, value as f32)).collect();
        file.write_all(&records).with_context(|| format!("cannot write {}", path.display()))
    }
}

fn begin(path: &Path) -> anyhow::Result<File> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    write_bytes(path, &tensorboard::version())?;
    OpenOptions::new().append(true).open(path).with_context(|| format!("cannot write {}", path.display()))
}
