use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Where a row came from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The file, or the name of the generated task.
    pub file: Arc<Path>,
    /// The position in the file or task.
    pub at: At,
}

/// A position in a file. Lines, columns and rows are counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
pub enum At {
    /// The file as a whole.
    File,
    /// A line of a text file.
    Line(usize),
    /// A line and a column (in bytes) of a text file.
    Column(usize, usize),
    /// A row of a file that is not line-based, or of a generated task.
    Row(usize),
}

impl Place {
    /// The file as a whole.
    pub fn file(path: &Path) -> Self {
        Place { file: path.into(), at: At::File }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        match self.at {
            At::File => Ok(()),
            At::Line(line) => write!(f, ":{line}"),
            At::Column(line, column) => write!(f, ":{line}:{column}"),
            At::Row(row) => write!(f, " row {row}"),
        }
    }
}

/// An error in the data or the tokenizer: what is wrong, where, and the nearest valid choice.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{}{message}{}",
    place.as_ref().map(|p| format!("{p}: ")).unwrap_or_default(),
    suggestion.as_ref().map(|s| format!("; did you mean `{s}`?")).unwrap_or_default()
)]
pub struct DataError {
    /// The file, line or row; `None` when no single file is at fault.
    pub place: Option<Place>,
    /// What is wrong and what was expected.
    pub message: String,
    /// The nearest valid name, if a name was misspelled.
    pub suggestion: Option<String>,
    /// Whether the machine failed, such as a disk that is full, and not the data.
    pub failed: bool,
}

/// A result whose error is a [`DataError`].
pub type Result<T, E = DataError> = std::result::Result<T, E>;

impl DataError {
    /// An error without a place.
    pub fn new(message: impl Into<String>) -> Self {
        DataError { place: None, message: message.into(), suggestion: None, failed: false }
    }

    pub(crate) fn in_file(path: &Path, message: impl Into<String>) -> Self {
        DataError::new(message).at(&Place::file(path))
    }

    pub(crate) fn io(path: &Path, error: &std::io::Error) -> Self {
        DataError::in_file(path, error.to_string())
    }

    /// Sets the place unless a more precise one is already set.
    pub fn at(mut self, place: &Place) -> Self {
        self.place.get_or_insert_with(|| place.clone());
        self
    }

    pub(crate) fn suggest(mut self, suggestion: Option<&str>) -> Self {
        self.suggestion = suggestion.map(str::to_owned);
        self
    }
}
