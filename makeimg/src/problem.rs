//! What is wrong, with somebody's files or with a build.

use std::fmt;
use std::path::{Path, PathBuf};

/// Something wrong: where, what, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, if it is about one.
    pub path: Option<PathBuf>,
    /// Its line, from 1.
    pub line: Option<u32>,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub hint: Option<String>,
    /// What the build was doing.
    pub step: Option<String>,
}

impl Problem {
    /// A problem of a file, without a hint.
    pub fn new(path: &Path, line: Option<u32>, what: impl Into<String>) -> Self {
        Self { path: Some(path.to_owned()), line, what: what.into(), hint: None, step: None }
    }

    /// A problem of no file.
    pub fn build(what: impl Into<String>) -> Self {
        Self { path: None, line: None, what: what.into(), hint: None, step: None }
    }

    /// With what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.path {
            write!(f, "{}:", path.display())?;
            if let Some(line) = self.line {
                write!(f, "{line}:")?;
            }
            f.write_str(" ")?;
        }
        f.write_str(&self.what)?;
        if let Some(hint) = &self.hint {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}

/// Says what was being done when something of the system failed.
pub trait Doing<T> {
    /// `doing` is in the form "writing the table".
    ///
    /// # Errors
    /// The problem.
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T, Problem>;
}

impl<T, E: fmt::Display> Doing<T> for Result<T, E> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T, Problem> {
        self.map_err(|e| Problem::build(format!("{} failed: {e}", doing())))
    }
}
