use crate::ConfigError;

/// An error from a part or from the code behind the traits of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A part's configuration is wrong; the user can fix the recipe.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The batch is malformed, or lacks something that the objective declared in its requirements.
    #[error("{0}")]
    Batch(String),
    /// A number is not finite. The message says which one, and where.
    #[error("{0}")]
    NonFinite(String),
    /// A model folder or weight file cannot be used as it is; the user can fix it.
    #[error("{0}")]
    Model(String),
    /// The engine failed: out of memory, a missing device, or an unsupported operation.
    #[error("{0}")]
    Engine(String),
    /// Reading or writing a file failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: std::path::PathBuf,
        /// The error from the operating system.
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
