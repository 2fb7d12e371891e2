//! Reports what the stage is doing: numbered facts, steps, and progress a few times a second.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anemos_proto::event::{Event, EventKind, Level, Progress, StepOutcome, Unit};
use anemos_proto::stage::StageReply;
use rustix::time::{ClockId, clock_gettime};

use crate::wire::Output;

/// Progress goes out at most this often.
const PACE: Duration = Duration::from_millis(200);

/// Where facts and progress go.
#[derive(Clone)]
pub struct Report(Arc<Inner>);

struct Inner {
    output: Output,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    seq: u64,
    steps: u32,
    /// Names of the steps that are open, the innermost last.
    open: Vec<(u32, String)>,
    /// What the innermost step is working on.
    what: Option<String>,
    sent: Option<Instant>,
}

impl Report {
    /// Reports to `output`.
    pub fn new(output: Output) -> Self {
        Self(Arc::new(Inner { output, state: Mutex::default() }))
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn fact(&self, state: &mut State, kind: EventKind) {
        state.seq += 1;
        let boot = clock_gettime(ClockId::Boottime);
        let event = Event {
            seq: state.seq,
            uptime_ms: boot.tv_sec as u64 * 1000 + boot.tv_nsec as u64 / 1_000_000,
            wall_ms: wall_ms(),
            kind,
        };
        // Sends while the state is locked, so that facts leave in the order of their numbers.
        self.0.output.send(&StageReply::Event(event));
    }

    /// Reports a note.
    pub fn note(&self, level: Level, text: impl Into<String>) {
        let text = text.into();
        self.with(|state| self.fact(state, EventKind::Note { level, text }));
    }

    /// Starts a step. If the step is dropped before [`Step::finish`], it is reported as failed.
    pub fn step(&self, name: &str) -> Step {
        let id = self.with(|state| {
            state.steps += 1;
            let step = state.steps;
            let parent = state.open.last().map(|(id, _)| *id);
            state.open.push((step, name.to_owned()));
            state.what = None;
            state.sent = None;
            self.fact(state, EventKind::StepStarted { step, parent, name: name.to_owned() });
            step
        });
        Step { report: self.clone(), id, ended: false }
    }

    fn end(&self, step: u32, outcome: StepOutcome) {
        self.with(|state| {
            state.open.retain(|(id, _)| *id != step);
            state.what = None;
            self.fact(state, EventKind::StepFinished { step, outcome });
        });
    }

    /// The innermost open step and what it is working on, for the error of a deadline.
    pub fn current(&self) -> Option<String> {
        self.with(|state| {
            let (_, name) = state.open.last()?;
            Some(state.what.as_ref().map_or_else(|| name.clone(), |what| format!("{name} ({what})")))
        })
    }
}

/// A step under way.
pub struct Step {
    report: Report,
    id: u32,
    ended: bool,
}

impl Step {
    /// Reports progress. Only a few calls a second are sent, but the last, in which `done` is `total`, always is.
    pub fn progress(&self, done: u64, total: Option<u64>, unit: Unit, what: Option<&str>) {
        self.report.with(|state| {
            if what.is_some() && state.what.as_deref() != what {
                state.what = what.map(str::to_owned);
            }
            let due = state.sent.is_none_or(|sent| sent.elapsed() >= PACE);
            if due || total == Some(done) {
                state.sent = Some(Instant::now());
                let progress = Progress { step: self.id, done, total, unit, what: state.what.clone() };
                self.report.0.output.send(&StageReply::Progress(progress));
            }
        });
    }

    /// Ends the step as done.
    pub fn finish(mut self) {
        self.ended = true;
        self.report.end(self.id, StepOutcome::Done);
    }

    /// Ends the step as failed.
    pub fn fail(mut self, why: impl Into<String>) {
        self.ended = true;
        self.report.end(self.id, StepOutcome::Failed(why.into()));
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.ended {
            self.report.end(self.id, StepOutcome::Failed("it did not get to its end".into()));
        }
    }
}

/// Milliseconds since the Unix epoch.
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
