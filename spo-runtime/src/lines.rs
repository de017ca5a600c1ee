//! Files of one JSON object a line that grow while a run goes.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

/// A file of JSON lines. Every line is flushed, so that a run that dies leaves all it said.
pub struct JsonLines {
    path: PathBuf,
    file: BufWriter<File>,
}

impl JsonLines {
    /// Creates the file, or empties it.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(JsonLines { path: path.to_owned(), file: BufWriter::new(file) })
    }

    /// Adds a line.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn write(&mut self, line: &impl Serialize) -> anyhow::Result<()> {
        let written = serde_json::to_writer(&mut self.file, line)
            .map_err(std::io::Error::from)
            .and_then(|()| self.file.write_all(b"\n"))
            .and_then(|()| self.file.flush());
        written.with_context(|| format!("cannot write {}", self.path.display()))
    }
}
