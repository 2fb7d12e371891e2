//! What a build tells while it goes on.

use std::io::Write;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::problem::Problem;

/// One thing that a build tells. As JSON it is one line, and `type` says which it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// The step before is over, and this one begins.
    Step {
        /// For people.
        name: String,
    },
    /// How far the step is.
    Progress {
        /// Of `total`.
        done: u64,
        /// 0 if nobody knows.
        total: u64,
        /// What is being done.
        what: String,
    },
    /// A line that a tool or a function printed.
    Output {
        /// Without its end; bytes that are no UTF-8 are replaced.
        line: String,
    },
    /// Something worth knowing.
    Warning {
        /// For people.
        text: String,
    },
    /// The end: it did not work.
    Failed {
        /// Where, if it is about a file.
        path: Option<String>,
        /// From 1.
        line: Option<u32>,
        /// What and why.
        text: String,
        /// What to do.
        hint: Option<String>,
        /// The step that failed, if one had begun.
        step: Option<String>,
    },
    /// The end: it is there.
    Built {
        /// The image, archive or directory; nothing with `format=custom`.
        output: Option<String>,
    },
}

impl From<&Problem> for Event {
    fn from(problem: &Problem) -> Self {
        Self::Failed {
            path: problem.path.as_ref().map(|path| path.display().to_string()),
            line: problem.line,
            text: problem.what.clone(),
            hint: problem.hint.clone(),
            step: problem.step.clone(),
        }
    }
}

type Each = Box<dyn FnMut(&Event) + Send>;

/// Where events go.
pub struct Report {
    each: Mutex<Each>,
    step: Mutex<Option<String>>,
}

impl Report {
    /// To a function.
    pub fn new(each: impl FnMut(&Event) + Send + 'static) -> Self {
        Self { each: Mutex::new(Box::new(each)), step: Mutex::new(None) }
    }

    /// To a stream, as lines of JSON. That nobody listens is no reason to fail.
    pub fn json(mut to: impl Write + Send + 'static) -> Self {
        Self::new(move |event| {
            let Ok(mut line) = serde_json::to_vec(event) else { return };
            line.push(b'\n');
            let _ = to.write_all(&line).and_then(|()| to.flush());
        })
    }

    /// Tells it.
    pub fn tell(&self, event: &Event) {
        self.each.lock().unwrap_or_else(PoisonError::into_inner)(event);
    }

    /// Begins a step.
    pub fn step(&self, name: impl Into<String>) {
        let name = name.into();
        *self.step.lock().unwrap_or_else(PoisonError::into_inner) = Some(name.clone());
        self.tell(&Event::Step { name });
    }

    /// The step that goes on.
    pub fn current(&self) -> Option<String> {
        self.step.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says how far it is.
    pub fn progress(&self, done: u64, total: u64, what: impl Into<String>) {
        self.tell(&Event::Progress { done, total, what: what.into() });
    }

    /// Passes on a line.
    pub fn output(&self, line: impl Into<String>) {
        self.tell(&Event::Output { line: line.into() });
    }

    /// Says something worth knowing.
    pub fn warn(&self, text: impl Into<String>) {
        self.tell(&Event::Warning { text: text.into() });
    }
}
