//! JSON Lines files that grow during a run.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde::Serialize;
use serde_json::Value;
use spo_api::read_whole;

use crate::store::LARGE;

/// A JSON Lines file. Every line is flushed, so a run that dies loses none.
pub(crate) struct JsonLines {
    path: PathBuf,
    file: BufWriter<File>,
}

impl JsonLines {
    /// Opens the file and truncates it to this many bytes, to continue from there.
    pub(crate) fn open(path: &Path, bytes: u64) -> anyhow::Result<Self> {
        let open = || -> anyhow::Result<File> {
            let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
            let found = file.metadata()?.len();
            ensure!(found >= bytes, "it has {found} bytes, the checkpoint was written after {bytes}");
            file.set_len(bytes)?;
            file.seek(SeekFrom::End(0))?;
            Ok(file)
        };
        let file = open().with_context(|| format!("cannot write {}", path.display()))?;
        Ok(JsonLines { path: path.to_owned(), file: BufWriter::new(file) })
    }

    /// Syncs the file to disk and returns its length in bytes.
    pub(crate) fn sync(&mut self) -> anyhow::Result<u64> {
        let file = self.file.get_ref();
        let synced = file.sync_all().and_then(|()| Ok(file.metadata()?.len()));
        synced.with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Appends lines verbatim.
    pub(crate) fn append(&mut self, lines: &str) -> anyhow::Result<()> {
        let written = self.file.write_all(lines.as_bytes()).and_then(|()| self.file.flush());
        written.with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// All lines.
    pub(crate) fn text(&self) -> anyhow::Result<String> {
        let text =
            read_whole(&self.path, LARGE).and_then(|text| String::from_utf8(text).map_err(io::Error::other));
        text.with_context(|| format!("cannot read {}", self.path.display()))
    }

    /// The lines of a stage, verbatim.
    pub(crate) fn of_stage(&self, stage: &str) -> anyhow::Result<String> {
        let text = self.text()?;
        let is_of =
            |line: &&str| serde_json::from_str::<Value>(line).is_ok_and(|line| line["stage"] == stage);
        Ok(text.split_inclusive('\n').filter(is_of).collect())
    }

    /// Appends a line.
    pub(crate) fn write(&mut self, line: &impl Serialize) -> anyhow::Result<()> {
        let written = serde_json::to_writer(&mut self.file, line)
            .map_err(std::io::Error::from)
            .and_then(|()| self.file.write_all(b"\n"))
            .and_then(|()| self.file.flush());
        written.with_context(|| format!("cannot write {}", self.path.display()))
    }
}
