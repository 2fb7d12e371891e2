//! Why a run can't be begun or taken up.

use crate::journal::JournalError;

/// Whose doing it is, which is what the exit status of a command tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// What was asked for can't be done as it was asked.
    BadInput,
    /// Something that should not happen.
    Internal,
    /// Some host could not be followed, or would not do what was wished.
    NotAll,
}

/// Why a run can't be begun or taken up, or not for all of its hosts.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct RunError {
    /// Whose doing it is.
    pub kind: Kind,
    /// What the user is told.
    pub message: String,
}

impl RunError {
    #[allow(clippy::needless_pass_by_value, reason = "so that it can be given to map_err")]
    pub(super) fn bad_input(message: impl ToString) -> Self {
        Self { kind: Kind::BadInput, message: message.to_string() }
    }

    #[allow(clippy::needless_pass_by_value, reason = "so that it can be given to map_err")]
    pub(super) fn internal(message: impl ToString) -> Self {
        Self { kind: Kind::Internal, message: message.to_string() }
    }

    #[allow(clippy::needless_pass_by_value, reason = "so that it can be given to map_err")]
    pub(super) fn not_all(message: impl ToString) -> Self {
        Self { kind: Kind::NotAll, message: message.to_string() }
    }
}

impl From<JournalError> for RunError {
    fn from(error: JournalError) -> Self {
        let kind = match error {
            JournalError::NoRun(_)
            | JournalError::NoRuns(_)
            | JournalError::NoHome
            | JournalError::Ambiguous { .. }
            | JournalError::Unwritable { .. } => Kind::BadInput,
            _ => Kind::Internal,
        };
        Self { kind, message: error.to_string() }
    }
}
