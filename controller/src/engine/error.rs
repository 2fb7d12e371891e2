//! One form for everything that goes wrong with a host.

use std::fmt;

use crate::report::Phase;

/// What state a host is in when something went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostState {
    /// The old system runs and nothing on it changed.
    Untouched,
    /// It can't be told from here.
    Unknown,
}

impl fmt::Display for HostState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Untouched => "the old system is up and as it was",
            Self::Unknown => "the host's state is not known",
        })
    }
}

/// What went wrong with a host: where, what, why, how the host is now, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The phase in which it happened.
    pub phase: Phase,
    /// What failed.
    pub what: String,
    /// Why.
    pub why: String,
    /// How the host is now.
    pub state: HostState,
    /// What to do about it, or empty.
    pub hint: String,
}

impl Trouble {
    /// Trouble before anything changed on the host.
    #[allow(clippy::needless_pass_by_value, reason = "errors and texts alike")]
    pub fn before(phase: Phase, what: impl Into<String>, why: impl fmt::Display) -> Self {
        Self { phase, what: what.into(), why: why.to_string(), state: HostState::Untouched, hint: String::new() }
    }

    /// With advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// What and why, for a summary, which says the rest.
    pub fn reason(&self) -> String {
        let Self { phase, what, why, hint, .. } = self;
        if hint.is_empty() { format!("{phase}: {what}: {why}") } else { format!("{phase}: {what}: {why} ({hint})") }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}; {}", self.phase, self.what, self.why, self.state)?;
        if self.hint.is_empty() { Ok(()) } else { write!(f, ". {}", self.hint) }
    }
}

impl std::error::Error for Trouble {}
