//! The agent's state machine: what happened goes in, what to do comes out. No I/O and no clock; times are
//! milliseconds of the same clock throughout.

use anemos_proto::agent::{AgentState, Leaving};
use anemos_proto::config::{Deadlines, Finish};
use anemos_proto::event::{EventKind, Outcome};

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Base unpacked, disks found and locked.
    Ready,
    /// Getting ready failed, because …
    NotReady(String),
    /// Somebody attached.
    Attached {
        /// Only to look.
        watch: bool,
    },
    /// Somebody who had attached is gone.
    Detached {
        /// Only looked.
        watch: bool,
    },
    /// Somebody has got a shell on a terminal.
    PersonCame,
    /// Somebody's shell has ended.
    PersonWent,
    /// Facts up to here are safe with the controller.
    Acked(u64),
    /// The controller wants the payload to end.
    Abort,
    /// The controller wants another attempt; its payload is in place.
    Retry,
    /// The controller wants the agent to leave.
    Finish(Finish),
    /// A disk was written.
    Written,
    /// The payload ended: well, or badly because …
    Ended(Result<(), String>),
    /// What follows a payload's success is done.
    Sealed,
    /// The terminal event has this seq.
    Recorded(u64),
    /// Something of the agent's own broke.
    Broken(String),
    /// Time passed.
    Tick,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Append to the log.
    Record(EventKind),
    /// Append the terminal event, and say so with [`Input::Recorded`].
    Conclude(Outcome),
    /// Start the payload.
    Start(u32),
    /// End the payload, because …
    Stop(String),
    /// Collect host keys, seed the cache, unmount.
    Seal,
    /// Leave.
    Leave(Leaving),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Starting,
    Waiting,
    Running,
    /// The payload is done and what follows its success is going on.
    Sealing,
    Held(String),
    /// Succeeded; leaves once acknowledged.
    Succeeded,
    /// Leaves for the old system once acknowledged.
    Returning(String),
    Gone,
}

/// The machine.
#[derive(Debug)]
pub struct Machine {
    deadlines: Deadlines,
    finish: Finish,
    phase: Phase,
    ready: bool,
    written: bool,
    attempt: u32,
    /// Controllers attached, without those who only watch.
    attached: u32,
    /// People in shells.
    people: u32,
    /// Whether a controller ever was.
    ever_attached: bool,
    /// Since when nobody is there and something might be waiting for them.
    alone_since: u64,
    /// When the payload is ended.
    payload_until: Option<u64>,
    /// Seq of the terminal event, and when it was recorded.
    terminal: Option<(u64, u64)>,
    shown: AgentState,
}

impl Machine {
    /// At boot.
    pub fn new(deadlines: Deadlines, finish: Finish, now: u64) -> Self {
        Self {
            deadlines,
            finish,
            phase: Phase::Starting,
            ready: false,
            written: false,
            attempt: 0,
            attached: 0,
            people: 0,
            ever_attached: false,
            alone_since: now,
            payload_until: None,
            terminal: None,
            shown: AgentState::Starting,
        }
    }

    /// After the agent itself broke and was started again.
    pub fn held(mut self, reason: String, ready: bool, attempt: u32) -> Self {
        self.phase = Phase::Held(reason);
        self.ready = ready;
        self.attempt = attempt;
        self.shown = self.state();
        self
    }

    /// The state, for others.
    pub fn state(&self) -> AgentState {
        match &self.phase {
            Phase::Starting => AgentState::Starting,
            Phase::Waiting => AgentState::Waiting,
            Phase::Running | Phase::Sealing => AgentState::Running,
            Phase::Held(reason) => AgentState::Held(reason.clone()),
            Phase::Succeeded => AgentState::Succeeded,
            Phase::Returning(reason) => AgentState::Returning(reason.clone()),
            Phase::Gone => self.shown.clone(),
        }
    }

    /// When to [`Input::Tick`] next.
    pub fn deadline(&self) -> Option<u64> {
        [self.dead_man(), self.payload_until, self.unacknowledged()].into_iter().flatten().min()
    }

    /// When the dead-man's clock strikes.
    fn dead_man(&self) -> Option<u64> {
        let waits = matches!(self.phase, Phase::Starting | Phase::Waiting | Phase::Held(_));
        let runs = waits && !self.written && self.attached == 0 && self.people == 0;
        runs.then(|| self.alone_since + u64::from(self.deadlines.dead_man_s) * 1000)
    }

    /// When the agent leaves though nobody has acknowledged the terminal event.
    fn unacknowledged(&self) -> Option<u64> {
        let (_, recorded) = self.terminal?;
        if !matches!(self.phase, Phase::Succeeded | Phase::Returning(_)) {
            return None;
        }
        let ack = u64::from(self.deadlines.ack_s) * 1000;
        // A controller that is there but says nothing gets ten times as long as one that isn't.
        Some(if self.attached == 0 { recorded.max(self.alone_since) + ack } else { recorded + 10 * ack })
    }

    /// Takes an input. An error is the reason why a request can't be done; nothing has changed then.
    pub fn handle(&mut self, now: u64, input: Input) -> Result<Vec<Action>, String> {
        let mut actions = Vec::new();
        self.step(now, input, &mut actions)?;
        let state = self.state();
        if state != self.shown {
            // The state comes before what is done about it, but after the facts that led to it. Who hears that the agent
            // holds hangs up, so that comes last of all.
            let holds = matches!(state, AgentState::Held(_));
            let before = |action: &Action| match action {
                Action::Record(_) => true,
                Action::Conclude(_) => holds,
                _ => false,
            };
            let at = actions.iter().position(|action| !before(action)).unwrap_or(actions.len());
            actions.insert(at, Action::Record(EventKind::State(state.clone())));
            self.shown = state;
        }
        Ok(actions)
    }

    fn step(&mut self, now: u64, input: Input, actions: &mut Vec<Action>) -> Result<(), String> {
        match input {
            Input::Written => self.written = true,
            Input::Ready => {
                self.ready = true;
                if self.phase == Phase::Starting {
                    self.phase = Phase::Waiting;
                    if self.ever_attached {
                        self.start(now, actions);
                    }
                }
            }
            Input::NotReady(reason) => {
                if self.phase == Phase::Starting {
                    self.fail(reason, actions);
                }
            }
            Input::Attached { watch: true } | Input::Detached { watch: true } => {}
            Input::Attached { watch: false } => {
                self.attached += 1;
                self.ever_attached = true;
                if self.phase == Phase::Waiting {
                    self.start(now, actions);
                }
            }
            Input::Detached { watch: false } => {
                self.attached = self.attached.saturating_sub(1);
                self.alone_from(now);
            }
            Input::PersonCame => self.people += 1,
            Input::PersonWent => {
                self.people = self.people.saturating_sub(1);
                self.alone_from(now);
            }
            Input::Acked(seq) => {
                if self.terminal.is_some_and(|(terminal, _)| seq >= terminal) {
                    self.leave(actions);
                }
            }
            Input::Recorded(seq) => self.terminal = Some((seq, now)),
            Input::Ended(result) => {
                self.payload_until = None;
                if self.phase == Phase::Running {
                    match result {
                        Ok(()) => {
                            self.phase = Phase::Sealing;
                            actions.push(Action::Seal);
                        }
                        Err(reason) => {
                            self.alone_from(now);
                            self.fail(reason, actions);
                        }
                    }
                }
            }
            Input::Sealed => {
                if self.phase == Phase::Sealing {
                    self.phase = Phase::Succeeded;
                    actions.push(Action::Conclude(Outcome::Succeeded));
                }
            }
            Input::Broken(reason) => {
                if !matches!(self.phase, Phase::Gone | Phase::Returning(_)) {
                    if self.phase == Phase::Running {
                        actions.push(Action::Stop(reason.clone()));
                    }
                    self.alone_from(now);
                    self.phase = Phase::Held(reason);
                }
            }
            Input::Abort => self.abort(actions)?,
            Input::Retry => {
                self.check_retry()?;
                self.start(now, actions);
            }
            Input::Finish(finish) => self.finish(finish, now, actions)?,
            Input::Tick => self.tick(now, actions),
        }
        Ok(())
    }

    /// Whether a retry would be accepted.
    pub fn check_retry(&self) -> Result<(), String> {
        match &self.phase {
            Phase::Held(_) if self.ready => Ok(()),
            Phase::Held(reason) => Err(format!("the RAM system never became ready for a payload ({reason})")),
            _ => Err(format!("a payload can be run again only when the agent is held; it is {}", self.word())),
        }
    }

    fn start(&mut self, now: u64, actions: &mut Vec<Action>) {
        self.attempt += 1;
        self.phase = Phase::Running;
        self.terminal = None;
        self.payload_until = Some(now + u64::from(self.deadlines.payload_s) * 1000);
        actions.push(Action::Record(EventKind::Attempt(self.attempt)));
        actions.push(Action::Start(self.attempt));
    }

    fn fail(&mut self, reason: String, actions: &mut Vec<Action>) {
        actions.push(Action::Conclude(Outcome::Failed { reason: reason.clone(), written: self.written }));
        self.phase = if self.written { Phase::Held(reason) } else { Phase::Returning(reason) };
    }

    fn alone_from(&mut self, now: u64) {
        if self.attached == 0 {
            self.alone_since = now;
        }
    }

    fn abort(&mut self, actions: &mut Vec<Action>) -> Result<(), String> {
        match self.phase {
            Phase::Running => actions.push(Action::Stop("aborted by the controller".into())),
            Phase::Starting | Phase::Waiting => self.fail("aborted by the controller".into(), actions),
            Phase::Held(_) if !self.written => self.fail("aborted by the controller".into(), actions),
            Phase::Held(_) => {
                return Err("a disk has been written, so there is no old system to go back to: retry with a mended \
                            payload, or finish"
                    .into());
            }
            _ => return Err(format!("there is nothing to abort: the agent is {}", self.word())),
        }
        Ok(())
    }

    fn finish(&mut self, finish: Finish, now: u64, actions: &mut Vec<Action>) -> Result<(), String> {
        match self.phase {
            Phase::Running | Phase::Sealing => Err("the payload is running: abort it first".into()),
            Phase::Gone => Err("the agent is leaving already".into()),
            _ if finish == Finish::Hold => {
                self.alone_from(now);
                if !matches!(self.phase, Phase::Held(_)) {
                    self.phase = Phase::Held("told to hold by the controller".into());
                }
                Ok(())
            }
            _ => {
                self.phase = Phase::Gone;
                actions.push(Action::Leave(Leaving::Finish(finish)));
                Ok(())
            }
        }
    }

    fn tick(&mut self, now: u64, actions: &mut Vec<Action>) {
        let passed = |deadline: Option<u64>| deadline.is_some_and(|at| at <= now);
        if passed(self.payload_until) {
            self.payload_until = None;
            let limit = self.deadlines.payload_s;
            actions.push(Action::Stop(format!("the payload did not end within deadline `build` ({limit} s)")));
        }
        if passed(self.dead_man()) {
            let limit = self.deadlines.dead_man_s;
            let mut reason = format!("nobody attached within deadline `dead_man` ({limit} s), and nothing was written");
            if let Phase::Held(held) = &self.phase {
                reason = format!("{held}; {reason}");
            }
            actions.push(Action::Conclude(Outcome::Failed { reason: reason.clone(), written: false }));
            self.phase = Phase::Returning(reason);
            self.leave(actions);
        } else if passed(self.unacknowledged()) {
            self.leave(actions);
        }
    }

    fn leave(&mut self, actions: &mut Vec<Action>) {
        match &self.phase {
            Phase::Returning(_) if self.written => {
                // Written after the payload's end, by somebody's shell: the old system is not what it was.
                self.phase = Phase::Held("a disk was written after the payload had ended".into());
            }
            Phase::Returning(reason) => {
                let reason = reason.clone();
                self.shown_before_leaving(actions);
                self.phase = Phase::Gone;
                actions.push(Action::Leave(Leaving::OldSystem(reason)));
            }
            Phase::Succeeded if self.finish == Finish::Hold => {
                self.phase = Phase::Held("the payload succeeded, and the agent was told to hold".into());
            }
            Phase::Succeeded => {
                self.phase = Phase::Gone;
                actions.push(Action::Leave(Leaving::Finish(self.finish)));
            }
            _ => {}
        }
    }

    /// `Gone` shows the last state shown, so a state that is entered and left in one step must be told here.
    fn shown_before_leaving(&mut self, actions: &mut Vec<Action>) {
        let state = self.state();
        if state != self.shown {
            actions.push(Action::Record(EventKind::State(state.clone())));
            self.shown = state;
        }
    }

    fn word(&self) -> &'static str {
        match self.phase {
            Phase::Starting => "starting",
            Phase::Waiting => "waiting for the first attach",
            Phase::Running | Phase::Sealing => "running the payload",
            Phase::Held(_) => "held",
            Phase::Succeeded => "about to leave for the new system",
            Phase::Returning(_) => "about to go back to the old system",
            Phase::Gone => "leaving",
        }
    }
}

#[cfg(test)]
mod tests;
