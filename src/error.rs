//! One error type for the whole house.
//!
//! Every message says what failed, where (file, line, flag or shape), what was expected and, where
//! there is one, what to do about it. [`Error::exit_code`] maps each kind to the exit code that
//! the command line promises.

use std::panic::Location;
use std::path::{Path, PathBuf};

/// The result of everything here that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong. The text of each variant is written for the person who has to act on it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An operation was given shapes, dtypes or numbers that it cannot work with.
    #[error("{op}: {message}\n  at {location}")]
    Op {
        /// The operation, by the name it has in `ops/`.
        op: &'static str,
        /// What was given and what was expected, shapes spelled out.
        message: String,
        /// The caller's source line.
        location: &'static Location<'static>,
    },
    /// A flag, a configuration key or a combination of them makes no sense (exit code 2).
    #[error("{0}")]
    Usage(String),
    /// A data file, checkpoint or model folder is missing, damaged or does not fit (exit code 3).
    #[error("{0}")]
    Data(String),
    /// The operating system refused a file operation (exit code 3).
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried: "read", "write", "create the folder".
        action: &'static str,
        /// The system's own words.
        source: std::io::Error,
    },
    /// A bench comparison found a regression (exit code 4).
    #[error("{0}")]
    Regression(String),
    /// The numbers went wrong: a loss or gradient that is not finite (exit code 5).
    #[error("{0}")]
    Diverged(String),
    /// The user stopped the run; what was saved and how to go on (exit code 130).
    #[error("{0}")]
    Interrupted(String),
    /// Anything else that could not be done (exit code 1).
    #[error("{0}")]
    Failed(String),
}

impl Error {
    /// An [`Error::Op`] that carries the caller's source line.
    #[track_caller]
    pub fn op(op: &'static str, message: impl Into<String>) -> Error {
        Error::Op { op, message: message.into(), location: Location::caller() }
    }

    /// An [`Error::Io`]: `action` completes the sentence "cannot …".
    pub fn io(path: impl AsRef<Path>, action: &'static str, source: std::io::Error) -> Error {
        Error::Io { path: path.as_ref().to_path_buf(), action, source }
    }

    /// The process exit code for this error: 1 failed, 2 usage, 3 bad data or checkpoint,
    /// 4 bench regression, 5 diverged, 130 interrupted.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Op { .. } | Error::Failed(_) => 1,
            Error::Usage(_) => 2,
            Error::Data(_) | Error::Io { .. } => 3,
            Error::Regression(_) => 4,
            Error::Diverged(_) => 5,
            Error::Interrupted(_) => 130,
        }
    }
}
