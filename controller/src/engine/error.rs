//! One form for everything that goes wrong with a host before it boots into RAM.

use std::fmt;

use crate::report::Phase;

/// What went wrong with a host: where, what, why, and what to do. It does not say that nothing on the host changed: the
/// outcome `untouched`, in which every trouble before the boot ends, means that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The phase in which it happened.
    pub phase: Phase,
    /// What failed.
    pub what: String,
    /// Why.
    pub why: String,
    /// What to do about it, or empty.
    pub hint: String,
}

impl Trouble {
    /// Trouble before anything changed on the host.
    #[allow(clippy::needless_pass_by_value, reason = "errors and texts alike")]
    pub fn before(phase: Phase, what: impl Into<String>, why: impl fmt::Display) -> Self {
        Self { phase, what: what.into(), why: why.to_string(), hint: String::new() }
    }

    /// With advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// The reason in a summary.
    pub fn reason(&self) -> String {
        let Self { phase, what, why, hint } = self;
        if hint.is_empty() { format!("{phase}: {what}: {why}") } else { format!("{phase}: {what}: {why} ({hint})") }
    }
}
