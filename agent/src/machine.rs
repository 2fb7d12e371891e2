//! The agent's state machine: what happened goes in, what to do comes out. No I/O and no clock; times are
//! milliseconds of the same clock throughout.

use anemos_proto::agent::{AgentState, Leaving};
use anemos_proto::config::{Deadlines, Finish};
use anemos_proto::event::{EventKind, Level, Outcome};

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
    /// What [`Action::Announce`] or [`Action::Conclude`] appended has this seq.
    Recorded(u64),
    /// All processes are ended, every disk is read-only, and the counters were read again. If a disk was written,
    /// [`Input::Written`] came before. An error says why writes may have gone uncounted.
    Judged(Result<(), String>),
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
    /// Append that this attempt is about to start, and say so with [`Input::Recorded`].
    Announce(u32),
    /// Append the terminal event, and say so with [`Input::Recorded`].
    Conclude(Outcome),
    /// End every process, set every disk read-only, and answer with [`Input::Judged`].
    Judge,
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
    /// An attempt was announced. It starts when the controller has its announcement in its journal, so that nobody can
    /// ever take a host whose payload ran for one whose payload did not.
    Arming {
        /// Seq of the announcement.
        announced: Option<u64>,
        /// Until when it must be acknowledged.
        until: u64,
    },
    Running,
    /// The payload is done and what follows its success is going on.
    Sealing,
    Held(String),
    /// No write has been counted so far; whether that is all is being made sure of, before …
    Judging {
        reason: String,
        then: Then,
    },
    /// Succeeded; leaves once acknowledged.
    Succeeded,
    /// Leaves for the old system once acknowledged.
    Returning(String),
    Gone,
}

/// What follows once it is known whether anything was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// Back to the old system, once that is acknowledged.
    Return,
    /// The same at once: nobody is there.
    ReturnAtOnce,
    /// Leave as told.
    Leave(Finish),
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
    /// The attempt of which nobody has acknowledged yet that nothing was written.
    unheard: Option<u32>,
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
            unheard: None,
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
            Phase::Waiting | Phase::Arming { .. } => AgentState::Waiting,
            Phase::Running | Phase::Sealing => AgentState::Running,
            Phase::Held(reason) => AgentState::Held(reason.clone()),
            Phase::Succeeded => AgentState::Succeeded,
            Phase::Returning(reason) => AgentState::Returning(reason.clone()),
            Phase::Judging { .. } | Phase::Gone => self.shown.clone(),
        }
    }

    /// Whether nobody may start a process any more: the agent is making sure that nothing was written, or has said so.
    pub fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Judging { .. } | Phase::Returning(_) | Phase::Gone)
    }

    /// The attempt of which it is certain that nothing was written, while nobody has acknowledged that.
    pub fn unheard(&self) -> Option<u32> {
        self.unheard.filter(|_| !self.written)
    }

    /// When to [`Input::Tick`] next.
    pub fn deadline(&self) -> Option<u64> {
        [self.dead_man(), self.payload_until, self.unannounced(), self.unacknowledged()].into_iter().flatten().min()
    }

    /// When the agent stops waiting for the acknowledgement that lets an attempt start.
    fn unannounced(&self) -> Option<u64> {
        match self.phase {
            Phase::Arming { until, .. } => Some(until),
            _ => None,
        }
    }

    /// When the dead-man's clock strikes.
    fn dead_man(&self) -> Option<u64> {
        let waits = matches!(self.phase, Phase::Starting | Phase::Waiting | Phase::Arming { .. } | Phase::Held(_));
        let runs = waits && !self.written && self.attached == 0 && self.people == 0;
        runs.then(|| self.alone_since + self.dead_man_ms())
    }

    fn dead_man_ms(&self) -> u64 {
        u64::from(self.deadlines.dead_man_s) * 1000
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
                        self.announce(now, actions);
                    }
                }
            }
            Input::NotReady(reason) => {
                if self.phase == Phase::Starting {
                    self.fail(reason, Then::Return, actions);
                }
            }
            Input::Attached { watch: true } | Input::Detached { watch: true } => {}
            Input::Attached { watch: false } => {
                self.attached += 1;
                self.ever_attached = true;
                if self.phase == Phase::Waiting {
                    self.announce(now, actions);
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
                if let Phase::Arming { announced: Some(announced), .. } = self.phase
                    && seq >= announced
                {
                    self.start(now, actions);
                } else if self.terminal.is_some_and(|(terminal, _)| seq >= terminal) {
                    self.unheard = None;
                    self.leave(actions);
                }
            }
            Input::Recorded(seq) => match &mut self.phase {
                Phase::Arming { announced, .. } => *announced = Some(seq),
                _ => self.terminal = Some((seq, now)),
            },
            Input::Judged(result) => self.judged(result, now, actions),
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
                            self.fail(reason, Then::Return, actions);
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
                self.announce(now, actions);
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

    fn announce(&mut self, now: u64, actions: &mut Vec<Action>) {
        self.attempt += 1;
        self.terminal = None;
        self.phase = Phase::Arming { announced: None, until: now + self.dead_man_ms() };
        actions.push(Action::Announce(self.attempt));
    }

    fn start(&mut self, now: u64, actions: &mut Vec<Action>) {
        self.phase = Phase::Running;
        self.payload_until = Some(now + u64::from(self.deadlines.payload_s) * 1000);
        actions.push(Action::Start(self.attempt));
    }

    fn fail(&mut self, reason: String, then: Then, actions: &mut Vec<Action>) {
        if self.written {
            self.hold_failed(reason, actions);
        } else {
            self.judge(reason, then, actions);
        }
    }

    fn hold_failed(&mut self, reason: String, actions: &mut Vec<Action>) {
        actions.push(Action::Conclude(Outcome::Failed { reason: reason.clone(), written: true }));
        self.phase = Phase::Held(reason);
    }

    fn judge(&mut self, reason: String, then: Then, actions: &mut Vec<Action>) {
        self.phase = Phase::Judging { reason, then };
        actions.push(Action::Judge);
    }

    fn judged(&mut self, result: Result<(), String>, now: u64, actions: &mut Vec<Action>) {
        let Phase::Judging { reason, then } = &self.phase else { return };
        let (reason, then) = (reason.clone(), *then);
        if !self.written {
            self.unheard = result.is_ok().then_some(self.attempt);
            actions.push(Action::Record(match result {
                Ok(()) => EventKind::NothingWritten { attempt: self.attempt },
                Err(why) => EventKind::Note {
                    level: Level::Warning,
                    text: format!("no write was counted, but whether a disk was written is not certain: {why}"),
                },
            }));
        }
        match then {
            Then::Leave(finish) => {
                self.phase = Phase::Gone;
                actions.push(Action::Leave(Leaving::Finish(finish)));
            }
            Then::Return | Then::ReturnAtOnce if self.written => {
                self.alone_from(now);
                self.hold_failed(reason, actions);
            }
            Then::Return | Then::ReturnAtOnce => {
                actions.push(Action::Conclude(Outcome::Failed { reason: reason.clone(), written: false }));
                self.phase = Phase::Returning(reason);
                if then == Then::ReturnAtOnce && self.attached == 0 {
                    self.leave(actions);
                }
            }
        }
    }

    fn alone_from(&mut self, now: u64) {
        if self.attached == 0 {
            self.alone_since = now;
        }
    }

    fn abort(&mut self, actions: &mut Vec<Action>) -> Result<(), String> {
        match self.phase {
            Phase::Running => actions.push(Action::Stop("aborted by the controller".into())),
            Phase::Starting | Phase::Waiting | Phase::Arming { .. } => {
                self.fail("aborted by the controller".into(), Then::Return, actions);
            }
            Phase::Held(_) if !self.written => self.fail("aborted by the controller".into(), Then::Return, actions),
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
            Phase::Gone | Phase::Judging { .. } => Err("the agent is leaving already".into()),
            _ if finish == Finish::Hold => {
                self.alone_from(now);
                if !matches!(self.phase, Phase::Held(_)) {
                    self.phase = Phase::Held("told to hold by the controller".into());
                }
                Ok(())
            }
            _ => {
                self.leave_as(finish, actions);
                Ok(())
            }
        }
    }

    /// Leaves as told. Where no write was counted, the old system may come up, so first it is made sure of.
    fn leave_as(&mut self, finish: Finish, actions: &mut Vec<Action>) {
        if self.written {
            self.phase = Phase::Gone;
            actions.push(Action::Leave(Leaving::Finish(finish)));
        } else {
            self.judge(String::new(), Then::Leave(finish), actions);
        }
    }

    fn tick(&mut self, now: u64, actions: &mut Vec<Action>) {
        let passed = |deadline: Option<u64>| deadline.is_some_and(|at| at <= now);
        if passed(self.payload_until) {
            self.payload_until = None;
            let limit = self.deadlines.payload_s;
            actions.push(Action::Stop(format!("the payload did not end within deadline `build` ({limit} s)")));
        }
        if passed(self.unannounced()) {
            let (attempt, limit) = (self.attempt, self.deadlines.dead_man_s);
            let reason = format!(
                "no controller acknowledged attempt {attempt} within deadline `dead_man` ({limit} s), so it was not \
                 started"
            );
            self.alone_from(now);
            self.fail(reason, Then::ReturnAtOnce, actions);
        } else if passed(self.dead_man()) {
            let limit = self.deadlines.dead_man_s;
            let mut reason = format!("nobody attached within deadline `dead_man` ({limit} s)");
            if let Phase::Held(held) = &self.phase {
                reason = format!("{held}; {reason}");
            }
            self.fail(reason, Then::ReturnAtOnce, actions);
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
            Phase::Succeeded => self.leave_as(self.finish, actions),
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
            Phase::Arming { .. } => "waiting for a controller to acknowledge the attempt",
            Phase::Judging { .. } => "making sure that nothing was written",
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
