//! What is wrong with a template, or with what it is given.

/// An error with the line of the template.
#[derive(Debug)]
pub(crate) struct Error {
    /// What is wrong.
    pub(crate) message: String,
    /// The line of the template, from 1; 0 until it is known.
    pub(crate) line: usize,
    /// The column that a row does not have, if that is what is wrong.
    pub(crate) unknown: Option<String>,
}

pub(super) type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Error { message: message.into(), line: 0, unknown: None }
    }

    /// Jinja or Python has it, this program does not.
    pub(super) fn unsupported(what: impl std::fmt::Display) -> Self {
        Error::new(format!("{what} is not supported here: rewrite this line of the template"))
    }

    /// Sets the line unless a more precise one is set.
    pub(super) fn at(mut self, line: usize) -> Self {
        if self.line == 0 {
            self.line = line;
        }
        self
    }
}

/// Shorthand for an `Err` with a message.
pub(super) fn fail<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::new(message))
}
