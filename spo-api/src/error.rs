use crate::ConfigError;

/// What can go wrong behind the contracts of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A part's configuration is wrong; the user can mend the recipe.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The batch lacks something that the objective declared in its requirements, or is malformed.
    #[error("{0}")]
    Batch(String),
    /// A number stopped being finite. The message says which, and where.
    #[error("{0}")]
    NonFinite(String),
    /// A model folder or weight file cannot be used as it is; the user can mend it.
    #[error("{0}")]
    Model(String),
    /// The engine failed: out of memory, a missing device, an operation it lacks.
    #[error("{0}")]
    Engine(String),
    /// Reading or writing a file failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: std::path::PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The run was asked to stop.
    #[error("{0}")]
    Stopped(String),
}

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Shorthand for the error of an operation on `path`.
    pub fn io(path: impl Into<std::path::PathBuf>, source: std::io::Error) -> Self {
        Error::Io { path: path.into(), source }
    }
}
