//! The one error of the stage: what goes over the wire as a [`Failure`].

use std::fmt;

use anemos_proto::stage::Failure;

/// What failed, why, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault(Failure);

/// A result with a [`Fault`].
pub type Result<T, E = Fault> = std::result::Result<T, E>;

impl Fault {
    /// A fault without a hint.
    pub fn new(what: impl Into<String>, why: impl fmt::Display) -> Self {
        Self(Failure { what: what.into(), why: why.to_string(), hint: String::new() })
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = hint.into();
        self
    }

    /// Why it failed.
    pub fn why(&self) -> &str {
        &self.0.why
    }

    /// As it goes over the wire.
    pub fn into_failure(self) -> Failure {
        self.0
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.what, self.0.why)?;
        if self.0.hint.is_empty() { Ok(()) } else { write!(f, " ({})", self.0.hint) }
    }
}

impl std::error::Error for Fault {}

/// Says what was being done when an error came.
pub trait Doing<T> {
    /// `what` is a participle: `reading /boot/vmlinuz`.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: fmt::Display> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Fault::new(what(), error))
    }
}
