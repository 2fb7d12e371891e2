//! The agent's state machine: what happened goes in, what to do comes out. No I/O and no clock; times are
//! milliseconds of the same clock throughout.
//!
//! The states (`Phase`), and what leads from one to the next:
//!
//! ```text
//!           Ready          Attached         Acked          Ended(Ok)          Sealed
//! Starting -------> Waiting -------> Arming -----> Running ---------> Sealing -------> Succeeded
//!  | fail            | fail           ^ | fail      | fail                          Acked |  | Acked
//!  | leave           | leave          | | leave                                           |  | leave
//!                                     |                                      told to hold |
//!                                     |                Retry                              v
//!                                     +------------------------------------------------- Held
//!                                                                                         | fail
//!                                                                                         | leave
//!
//!          a disk was written
//!  fail ----------------------> Held
//!   |                            ^ ^ a disk was written since
//!   |            a write is found| +---------------------------+
//!   |   else                     |     nothing                 |       Acked
//!   +-----------------------> Judging -------------------> Returning --------> Gone
//!                                                              | leave
//!          a disk was written
//!  leave ---------------------------------> Gone
//!   |   else                     finished    ^
//!   +-----------------------> Judging -------+
//! ```
//!
//! - **fail** is [`Input::NotReady`] in Starting, and the deadline `start`, which runs from the beginning, whether or
//!   not somebody is there; [`Input::Ended`] with an error in Running; [`Input::Abort`] in Starting, Waiting, Arming
//!   and Held; the dead-man's clock in the same four; in Arming also the end of the time in which the attempt must be
//!   acknowledged. The dead-man's clock runs while nobody is there and no disk was written. In Running an abort and the
//!   deadline `build` only stop the payload, and the payload's end is what fails. In Held an abort is refused once a
//!   disk was written.
//! - **leave** is [`Input::Finish`] in Starting, Waiting, Arming, Held, Succeeded and Returning, and in Succeeded
//!   also the acknowledgement. Where the finish is to hold, the next state is Held instead.
//! - **Acked** in Arming means that the announcement of the attempt is acknowledged. Elsewhere it means that the
//!   terminal event is, or that the deadline `ack` has passed. Returning doesn't wait for it after a clock struck
//!   with nobody there.
//! - **Ready** leads to Arming at once if a controller has attached before. **Retry** is refused where the RAM system
//!   was never ready.
//! - [`Input::Broken`] leads to Held from every state but Returning and Gone. An agent that init had to start again
//!   begins in Held ([`Machine::held`]). Nothing leads out of Gone.
//!
//! A request in a state for which it is not named here is refused, and changes nothing.

use anemos_proto::agent::Leaving;
use anemos_proto::config::{Deadlines, Finish};
use anemos_proto::event::{AgentState, EventKind, Level, Outcome};

use crate::heart::Beat;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Base unpacked, disks found and locked.
    Ready,
    /// Getting ready failed, because …
    NotReady(String),
    /// Somebody attached.
    Attached,
    /// Somebody who had attached is gone.
    Detached,
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
    /// The new system is finished: see [`Action::Seal`].
    Sealed,
    /// The fact that [`Action::Announce`] or [`Action::Conclude`] asked for has this seq in the log.
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
    /// An attempt was announced. It starts once the controller has the announcement in its journal. So no journal can
    /// ever miss that a payload was started.
    Arming {
        /// Seq of the announcement.
        announced: Option<u64>,
        /// Until when it must be acknowledged.
        until: u64,
    },
    Running,
    /// The payload succeeded, and the new system is being finished.
    Sealing,
    Held(String),
    /// No write has been counted so far. The agent makes sure that none went uncounted, before `then`.
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

/// What the agent does once it knows whether a disk was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// Back to the old system, once that is acknowledged.
    Return,
    /// Back to the old system at once if nobody is attached.
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
    /// Controllers attached.
    attached: u32,
    /// People in shells.
    people: u32,
    /// Whether a controller has ever been attached.
    ever_attached: bool,
    /// When the last controller or person left, or when the agent last began to wait for one. The dead-man's clock
    /// counts from here.
    alone_since: u64,
    /// The attempt in which certainly nothing was written, until a controller has acknowledged that.
    unheard: Option<u32>,
    /// When the deadline `start` passes.
    start_until: u64,
    /// When the deadline `build` ends the payload.
    payload_until: Option<u64>,
    /// Seq of the terminal event, and when it was recorded.
    terminal: Option<(u64, u64)>,
    shown: AgentState,
}

impl Machine {
    /// A machine in the state in which the first agent of a boot begins.
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
            start_until: now + u64::from(deadlines.start_s) * 1000,
            payload_until: None,
            terminal: None,
            shown: AgentState::Starting,
        }
    }

    /// Begins in Held instead, in an agent that init had to start again because of `reason`. `ready` says whether the
    /// agent before was ready for a payload, and `attempt` which attempt was its last.
    pub fn held(mut self, reason: String, ready: bool, attempt: u32) -> Self {
        self.phase = Phase::Held(reason);
        self.ready = ready;
        self.attempt = attempt;
        self.shown = self.state();
        self
    }

    /// The state as controllers are told it.
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

    /// Whether processes must be refused now, because the agent is making sure that nothing was written, or has said
    /// so.
    pub fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Judging { .. } | Phase::Returning(_) | Phase::Gone)
    }

    /// What init is told with each beat of the agent's heart. Init goes back to the old system by itself if the
    /// dead-man's clock should have struck here and the agent stays.
    pub fn beat(&self) -> Beat {
        let busy = matches!(self.phase, Phase::Running | Phase::Sealing | Phase::Succeeded);
        if self.written {
            Beat::Written
        } else if busy || self.attached > 0 || self.people > 0 {
            Beat::Busy
        } else {
            Beat::Alone
        }
    }

    /// The attempt in which certainly nothing was written, while no controller has acknowledged that.
    pub fn unheard(&self) -> Option<u32> {
        self.unheard.filter(|_| !self.written)
    }

    /// When the machine wants the next [`Input::Tick`].
    pub fn deadline(&self) -> Option<u64> {
        let all = [self.unready(), self.dead_man(), self.payload_until, self.unannounced(), self.unacknowledged()];
        all.into_iter().flatten().min()
    }

    /// When the agent stops waiting for the RAM system to become ready.
    fn unready(&self) -> Option<u64> {
        (self.phase == Phase::Starting).then_some(self.start_until)
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
        // A controller that is attached but doesn't acknowledge gets ten times as long as one that has yet to come
        // back.
        Some(if self.attached == 0 { recorded.max(self.alone_since) + ack } else { recorded + 10 * ack })
    }

    /// Takes an input; returns the actions to carry out, in order. An error is the reason why a request is refused;
    /// nothing has changed then.
    pub fn handle(&mut self, now: u64, input: Input) -> Result<Vec<Action>, String> {
        let mut actions = Vec::new();
        self.step(now, input, &mut actions)?;
        let state = self.state();
        if state != self.shown {
            // Reports the new state after the facts that led to it and before the other actions. Held is reported after
            // the outcome as well, since a controller hangs up when it hears of Held.
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
            Input::Attached => {
                self.attached += 1;
                self.ever_attached = true;
                if self.phase == Phase::Waiting {
                    self.announce(now, actions);
                }
            }
            Input::Detached => {
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

    /// Leaves as told. If no write was counted, the old system may come up again, so the agent first makes sure that
    /// nothing was written.
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
        if passed(self.unready()) {
            let limit = self.deadlines.start_s;
            let reason = format!("the RAM system did not become ready within deadline `start` ({limit} s)");
            self.fail(reason, Then::ReturnAtOnce, actions);
        } else if passed(self.unannounced()) {
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
                // A person's shell wrote to a disk after the payload's end, so the old system is not what it was.
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

    /// Reports the current state now, because Gone shows the state that was reported last: a state that is entered and
    /// left within one step would never be reported.
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
