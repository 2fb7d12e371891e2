//! After the boot: the state machine that follows one host. What happened goes in, what to do comes out. No I/O and no
//! clock; times are durations since one moment, which is the stage's last word where this process heard it.
//!
//! A machine has a *goal*, where the host is thought to go, and a *contact*, how far it has come with whoever is at the
//! other end. The goal says what it means that somebody answers ([`verdict`]), and until when nobody may answer.
//!
//! ```text
//! goal    Boot ──(lost)──► Run ──(leaving; lost after success)──► Leave
//!           └──────────────(leaving; lost after success)───────────►┘
//!
//!   lost     the link was lost on which the agent had answered; Run begins anew with each loss
//!   leaving  the agent has said its last word; Leave begins anew with each one that says otherwise or was wished
//!   Leave becomes Run only where the agent did not leave after all, and then refused the payload of a retry
//! ```
//!
//! ```text
//! contact    ┌──────────────────────────── Pausing ◄─────────────┐
//!            ▼                                                   │ whatever it was: look again
//!        Knocking ──► Proving ─┬─(the agent's key)─► Entering ─► Opening ─► Talking ─► Parting
//!                              │
//!                              └─(a system's key)──► Entering ─► Looking ─► Checking ─► Withdrawing
//!
//!   Knocking  a server is waited for to speak at one of the host's addresses
//!   Proving   the server proves that it holds a host key
//!   Entering  a login
//!   Opening   the agent's subsystem is started, and hellos are exchanged
//!   Talking   the agent tells facts; they are made safe and then acknowledged; wishes are made
//!   Parting   the agent holds or leaves; what it told last is made safe
//!   Looking   a system is asked what it is
//!   Checking  the new system must pass the user's check before deadline `verify`
//!   Withdrawing  the run's key, which opened the new system so far, is taken away from it
//!   Pausing   nobody is talked to for a moment
//! ```
//!
//! Any contact may lead to the end (`Over`): by what happens there, by the goal's deadline, after which nobody is
//! looked for again, or because the user detaches. Whoever wants to leave stays until a payload has begun: the agent
//! begins one only once somebody has attached and has its number in the journal. After the end nothing follows but the
//! answer `Err` to whoever still wishes something.

mod leave;
mod meet;
mod talk;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use anemos_proto::agent::{AgentReply, AgentRequest};
use anemos_proto::config::Finish;
use anemos_proto::event::{Event, EventKind, Level, Progress};
use anemos_proto::ids::RunId;

use super::Blob;
use super::known::Known;
use super::look::Look;
use super::verdict::{self, Goal, LeaveTo, Seen};
use super::wish::Wish;
use crate::journal::{Digested, HostEntry, OldSystem, Told};
use crate::report::{Ending, Phase, Speaker, Update};
use crate::ssh::{Address, HostKey};
use leave::is_past_beginning;
use meet::Checking;
use talk::{Farewell, Talk};

#[cfg(test)]
use talk::ANSWER;

/// Time between two looks at a server that is not what is waited for.
const PAUSE: Duration = Duration::from_secs(3);

/// The same where nobody answered, or where the old system is about to end.
const SOON: Duration = Duration::from_millis(200);

/// A handshake or a login may take as long as has been waited for the host, between these two. A machine that goes down
/// in the middle of one says no word about it.
const LOGIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));

/// Whoever comes back later than the deadlines allow still gets this long to find the host.
const LEAST: Duration = Duration::from_secs(60);

/// What does not change while a host is followed.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The run.
    pub run: RunId,
    /// The host, and its deadlines.
    pub entry: HostEntry,
    /// The old system, as it was met.
    pub old: OldSystem,
    /// How much longer a login may take where a person may have to type a passphrase.
    pub typing: Duration,
}

/// Whom a login is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whom {
    /// The agent: as root, with the run's key.
    Agent,
    /// A system that proved this host key: as the user, with the user's keys.
    System(HostKey),
}

/// How far the journal and its second file are to be safe, or are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Seq of the newest fact in the journal.
    pub seq: u64,
    /// The attempt that the journal's second file is to name; `None`: the file stays as it is.
    pub attempt: Option<u32>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A server speaks at one of the host's addresses.
    Spoke,
    /// Nobody speaks, or a handshake failed, because …
    Unreached(String),
    /// The server proved that it holds one of the keys that it was to hold.
    Proved(HostKey),
    /// The server holds another key. It was shown nothing.
    Stranger {
        /// Which.
        key: HostKey,
        /// Where.
        address: Address,
    },
    /// The login succeeded.
    Admitted,
    /// The login failed, because …
    LockedOut(String),
    /// What the system says of itself, or why it said nothing.
    Looked(Result<Look, String>),
    /// What the check came to.
    Checked {
        /// Success, or why not.
        result: Result<(), String>,
        /// The connection is gone.
        closed: bool,
    },
    /// The run's key does not open the new system any more, or why that is not known.
    Withdrawn(Result<(), String>),
    /// The agent's subsystem runs, and its hello was right.
    Opened,
    /// The agent says something.
    Reply(AgentReply),
    /// The link to the agent was lost, because …
    Lost(String),
    /// The agent can't be talked to, and trying again won't help, because …
    Broken(String),
    /// Everything up to the mark is safe.
    Safe(Mark),
    /// It could not be made safe.
    NotSafe,
    /// A person wishes something.
    Wished(Wish),
    /// [`Machine::deadline`] has come.
    Clock,
    /// The user wants to leave, as soon as the host goes on alone.
    Leave,
    /// The user leaves.
    LeaveNow,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Knock at the host's addresses until a server speaks. Answer: [`Input::Spoke`] or [`Input::Unreached`].
    Knock {
        /// Knock as at a system that boots, and not as at the agent.
        calm: bool,
        /// How long the host has been waited for.
        waited: Duration,
        /// How long to knock at most.
        patience: Duration,
    },
    /// Have the server that spoke prove that it holds one of these keys. Answer: [`Input::Proved`], [`Input::Stranger`]
    /// or [`Input::Unreached`].
    Prove {
        /// The keys.
        keys: Vec<HostKey>,
        /// How long it may take.
        patience: Duration,
    },
    /// Log in. Answer: [`Input::Admitted`] or [`Input::LockedOut`].
    LogIn {
        /// Whom to show which key.
        whom: Whom,
        /// How long it may take.
        patience: Duration,
    },
    /// Ask the system what it is. Answer: [`Input::Looked`].
    Look {
        /// How long it may take.
        patience: Duration,
    },
    /// Run the user's check. Answer: [`Input::Checked`].
    Check {
        /// The command.
        command: String,
        /// How long it may take.
        patience: Duration,
    },
    /// Record that the new system, which calls itself so, is in order.
    Verified(String),
    /// Take the run's key away from the new system. Answer: [`Input::Withdrawn`].
    Withdraw {
        /// How long it may take.
        patience: Duration,
    },
    /// Start the agent's subsystem. Answer: [`Input::Opened`], then each [`Input::Reply`]; or [`Input::Lost`] or
    /// [`Input::Broken`], which may also come later.
    Open,
    /// Send the agent a request.
    Send(AgentRequest),
    /// Send the agent the payload that a retry has announced.
    SendPayload(Blob),
    /// Let go of whoever is there. What was sent before still goes out.
    HangUp,
    /// Make what was told safe. Answer: [`Input::Safe`] or [`Input::NotSafe`].
    MakeSafe(Mark),
    /// Tell a fact of the agent's.
    Fact(Event),
    /// Tell progress of the agent's.
    Progress(Progress),
    /// Say something of the controller's own.
    Say(Level, String),
    /// Tell that the link was lost, because …
    LinkLost(String),
    /// Tell that the link is back.
    LinkBack,
    /// Begin a phase.
    Phase(Phase),
    /// The agent's first event came so long after the stage's last word.
    FirstEvent(Duration),
    /// Record the boot id of the RAM system.
    Ram(String),
    /// Record the agent's last word.
    Left {
        /// Where to; `None` for the old system.
        finish: Option<Finish>,
        /// Why, for the old system.
        reason: String,
    },
    /// Answer the oldest wish that has no answer yet.
    Answer(Result<(), String>),
    /// It is over.
    End {
        /// How.
        ending: Ending,
        /// Why.
        reason: String,
        /// The payload succeeded, whatever became of the host.
        succeeded: bool,
    },
    /// It is over here; the host goes on.
    Detach,
}

/// How far it has come with whoever is at the other end. The diagram above has the moves.
#[derive(Debug)]
enum Contact {
    /// Until then.
    Pausing(Duration),
    Knocking,
    Proving,
    Entering(Whom),
    /// The system that holds this key.
    Looking(HostKey),
    Checking(Checking),
    /// The new system is in order, or is not, because …
    Withdrawing(Ending, String),
    Opening,
    Talking(Talk),
    Parting(Farewell),
    /// The end; `Some`: what whoever still wishes something is told.
    Over(Option<String>),
}

/// The waiting for the goal.
#[derive(Debug)]
struct Wait {
    /// When this machine began to wait.
    began: Duration,
    /// How long others had waited before.
    before: Duration,
    /// When the host is no longer looked for.
    until: Duration,
}

/// The machine.
#[derive(Debug)]
pub struct Machine {
    setup: Setup,
    known: Known,
    goal: Goal,
    wait: Wait,
    contact: Contact,
    /// Who answered last, on the way to this goal.
    seen: Option<Seen>,
    /// Why nobody answers.
    why: String,
    /// Seq of the agent's newest fact in the journal.
    last: u64,
    /// The attempt that the journal's second file is known to name.
    noted: u32,
    /// Wishes without an answer, the oldest first.
    wishes: VecDeque<Wished>,
    /// The agent has said its last word, and has not been met since.
    left: bool,
    /// That the link was lost was told, and that it is back was not.
    link_lost: bool,
    /// The agent has said that its newest attempt at the payload has begun, so that it goes on alone.
    begun: bool,
    /// The user wants to leave.
    leaving: bool,
    /// The agent has accepted a wish since it said its last word.
    granted: bool,
    /// When the agent was heard of last: then, and so much before.
    heard: Option<(Duration, Duration)>,
    /// The agent's first event is still to come.
    first_due: bool,
    /// The phase that was begun last.
    phase: Option<Phase>,
    /// Strangers that were told of.
    strangers: Vec<HostKey>,
    /// Once a new system has been met: until when one has to pass the check.
    verify_until: Option<Duration>,
    /// A new system, which calls itself so, was in order.
    verified: Option<String>,
}

/// A wish without an answer.
#[derive(Debug)]
struct Wished {
    wish: Wish,
    /// The agent was asked. It may have heard that even if the link was lost before the answer.
    made: bool,
}

impl Machine {
    /// Follows a host from the stage's last word, since which `now` has passed. Returns what to do first.
    pub fn booted(setup: Setup, now: Duration) -> (Self, Vec<Action>) {
        let mut machine = Self::new(setup);
        machine.first_due = true;
        machine.begin(now, Goal::Boot, Duration::ZERO)
    }

    /// Follows a host from what its journal says. `wall_ms`: milliseconds since the Unix epoch, by the workstation's
    /// clock.
    pub fn again(setup: Setup, journal: &Digested, wall_ms: u64) -> (Self, Vec<Action>) {
        let mut machine = Self::new(setup);
        machine.last = journal.last_agent_seq;
        machine.known.damaged.clone_from(&journal.damaged);
        machine.verified.clone_from(&journal.verified);
        machine.known.untold = journal.untold;
        machine.known.ram_boot_id.clone_from(&journal.ram_boot_id);
        let mut first = None;
        for Told { wall_ms: told_ms, update, .. } in &journal.told {
            if let Update::Event(Speaker::Agent, event) = update {
                machine.learn(&event.kind);
                first.get_or_insert(*told_ms);
                machine.heard = Some((Duration::ZERO, Duration::from_millis(wall_ms.saturating_sub(*told_ms))));
            }
        }
        let ago = |ms: u64| Duration::from_millis(wall_ms.saturating_sub(ms));
        let sent_ago = journal.boot_sent_ms.map_or(Duration::ZERO, ago);
        let (goal, waited) = match &journal.left {
            Some((when, Some(finish), _)) => (Goal::Leave(LeaveTo::New(*finish)), ago(*when)),
            Some((when, None, reason)) => (Goal::Leave(LeaveTo::Old(reason.clone())), ago(*when)),
            None if journal.ram_boot_id.is_some() => (Goal::Run, sent_ago),
            None => (Goal::Boot, sent_ago),
        };
        machine.left = journal.left.is_some();
        let (machine, mut actions) = machine.begin(Duration::ZERO, goal, waited);
        if let (Some(first), Some(sent)) = (first, journal.boot_sent_ms) {
            actions.insert(0, Action::FirstEvent(Duration::from_millis(first.saturating_sub(sent))));
        }
        (machine, actions)
    }

    fn new(setup: Setup) -> Self {
        let known = Known {
            run: setup.run.to_string(),
            old_boot_id: setup.old.boot_id.clone(),
            old_identity: setup.old.identity.clone(),
            ..Known::default()
        };
        Self {
            setup,
            known,
            goal: Goal::Boot,
            wait: Wait { began: Duration::ZERO, before: Duration::ZERO, until: Duration::ZERO },
            contact: Contact::Knocking,
            seen: None,
            why: "nothing answers".into(),
            last: 0,
            noted: 0,
            wishes: VecDeque::new(),
            left: false,
            link_lost: false,
            begun: false,
            leaving: false,
            granted: false,
            heard: None,
            first_due: false,
            phase: None,
            strangers: Vec::new(),
            verify_until: None,
            verified: None,
        }
    }

    fn begin(mut self, now: Duration, goal: Goal, waited: Duration) -> (Self, Vec<Action>) {
        let mut actions = Vec::new();
        self.set_goal(now, goal, waited, &mut actions);
        self.knock(now, &mut actions);
        (self, actions)
    }

    /// When to say [`Input::Clock`] next.
    pub fn deadline(&self) -> Option<Duration> {
        match &self.contact {
            Contact::Pausing(until) => Some(*until),
            Contact::Checking(checking) => checking.pause,
            Contact::Talking(talk) => Some(talk.deadline(self.silence())),
            _ => None,
        }
    }

    /// Takes an input. One that comes too late for what is being done is ignored.
    pub fn step(&mut self, now: Duration, input: Input) -> Vec<Action> {
        let mut out = Vec::new();
        self.take(now, input, &mut out);
        if self.leaving && self.goes_on_alone() && !matches!(self.contact, Contact::Over(_)) {
            self.detach(&mut out);
        }
        out
    }

    fn take(&mut self, now: Duration, input: Input, out: &mut Vec<Action>) {
        match (&mut self.contact, input) {
            (Contact::Over(Some(why)), Input::Wished(_)) => out.push(Action::Answer(Err(why.clone()))),
            (Contact::Over(_), _) => {}
            (_, Input::Leave) => self.leave(out),
            (_, Input::LeaveNow) => self.detach(out),
            (_, Input::Wished(wish)) => self.wished(wish, out),
            (_, Input::Safe(mark)) => self.safe(now, mark, out),
            (Contact::Parting(_), Input::NotSafe) => self.parted(now, out),

            (Contact::Pausing(until), Input::Clock) if now >= *until => self.knock(now, out),
            (Contact::Knocking, Input::Spoke) => {
                self.contact = Contact::Proving;
                out.push(Action::Prove { keys: self.keys(), patience: self.patience(now) });
            }
            (Contact::Knocking | Contact::Proving, Input::Unreached(why)) => {
                self.why = why;
                self.look_again(now, SOON, out);
            }
            (Contact::Proving, Input::Stranger { key, address }) => self.stranger(now, key, &address, out),
            (Contact::Proving, Input::Proved(key)) => self.proved(now, key, out),
            (Contact::Entering(Whom::Agent), Input::Admitted) => {
                self.contact = Contact::Opening;
                out.push(Action::Open);
            }
            (Contact::Entering(Whom::Agent), Input::LockedOut(why)) => {
                self.why = format!("the agent did not let us in: {why}");
                self.look_again(now, PAUSE, out);
            }
            (Contact::Entering(Whom::System(key)), Input::Admitted) => {
                self.contact = Contact::Looking(key.clone());
                out.push(Action::Look { patience: self.patience(now) });
            }
            (Contact::Entering(Whom::System(key)), Input::LockedOut(why)) => {
                let key = key.clone();
                self.locked_out(now, why, &key, out);
            }
            (Contact::Looking(_), Input::Looked(Err(why))) => {
                self.seen = Some(Seen::LockedOut(why));
                self.look_again(now, PAUSE, out);
            }
            (Contact::Looking(key), Input::Looked(Ok(look))) => {
                let key = key.clone();
                self.looked(now, &look, &key, out);
            }
            (Contact::Checking(_), Input::Checked { result, closed }) => self.checked(now, result, closed, out),
            (Contact::Checking(checking), Input::Clock) if checking.pause.is_some_and(|until| now >= until) => {
                self.check(now, out);
            }
            (Contact::Withdrawing(..), Input::Withdrawn(result)) => self.withdrawn(result, out),
            (Contact::Opening, Input::Opened) => self.opened(now, out),
            (Contact::Opening | Contact::Talking(_), Input::Lost(why)) => self.lost(now, why, out),
            (Contact::Opening | Contact::Talking(_), Input::Broken(why)) => self.broken(&why, out),
            (Contact::Talking(_), Input::Reply(reply)) => self.reply(now, reply, out),
            (Contact::Talking(_), Input::Clock) => self.tick(now, out),
            _ => {}
        }
    }

    /// How long the host has been waited for.
    fn waited(&self, now: Duration) -> Duration {
        self.wait.before + now.saturating_sub(self.wait.began)
    }

    /// How long a handshake or a login may take.
    fn patience(&self, now: Duration) -> Duration {
        self.waited(now).clamp(LOGIN.0, LOGIN.1)
    }

    /// How long the host may be waited for.
    fn allowance(&self) -> Duration {
        let entry = &self.setup.entry;
        Duration::from_secs(match self.goal {
            Goal::Boot => entry.boot_s,
            // The host may finish alone and come up anew before anybody hears of it.
            Goal::Run => entry.build_s + entry.ack_s + entry.reboot_s,
            Goal::Leave(_) => entry.reboot_s,
        })
    }

    fn set_goal(&mut self, now: Duration, goal: Goal, before: Duration, out: &mut Vec<Action>) {
        self.goal = goal;
        let allowance = self.allowance();
        let until = now + allowance.saturating_sub(before).max(LEAST.min(allowance));
        self.wait = Wait { began: now, before, until };
        self.seen = None;
        match self.goal {
            Goal::Boot => self.begin_phase(Phase::Boot, out),
            Goal::Run => {}
            Goal::Leave(_) => self.begin_phase(Phase::Reboot, out),
        }
    }

    fn begin_phase(&mut self, phase: Phase, out: &mut Vec<Action>) {
        if self.phase != Some(phase) {
            self.phase = Some(phase);
            out.push(Action::Phase(phase));
        }
    }

    fn knock(&mut self, now: Duration, out: &mut Vec<Action>) {
        if now >= self.wait.until {
            return self.too_late(now, out);
        }
        self.contact = Contact::Knocking;
        out.push(Action::Knock {
            calm: matches!(self.goal, Goal::Leave(_)),
            waited: self.waited(now),
            patience: self.wait.until.saturating_sub(now),
        });
    }

    /// Whoever is there is not what is waited for, or is gone.
    fn look_again(&mut self, now: Duration, pause: Duration, out: &mut Vec<Action>) {
        if !matches!(self.contact, Contact::Knocking) {
            out.push(Action::HangUp);
        }
        if now >= self.wait.until {
            return self.too_late(now, out);
        }
        self.pause(now, pause);
    }

    fn pause(&mut self, now: Duration, pause: Duration) {
        self.contact = Contact::Pausing((now + pause).min(self.wait.until));
    }

    fn too_late(&mut self, now: Duration, out: &mut Vec<Action>) {
        let heard = self.heard.map(|(at, before)| now.saturating_sub(at) + before);
        let (ending, reason) =
            verdict::too_late(&self.goal, &self.known, (self.seen.as_ref(), heard), &self.why, self.allowance());
        self.end(ending, reason, out);
    }

    /// Takes in a fact of the agent's.
    fn learn(&mut self, fact: &EventKind) {
        self.known.learn(fact);
        match fact {
            EventKind::Attempt(_) => self.begun = false,
            EventKind::State(state) => self.begun |= is_past_beginning(state),
            _ => {}
        }
    }

    fn end(&mut self, ending: Ending, reason: impl Into<String>, out: &mut Vec<Action>) {
        let reason = reason.into();
        out.push(Action::HangUp);
        let why = format!("the host is {ending} already: {reason}");
        self.answer_all(&why, out, |wish| match (wish, ending) {
            (Wish::Finish(finish), Ending::Deployed | Ending::Untouched) => *finish != Finish::Hold,
            (wish, Ending::Untouched) => *wish == Wish::Abort,
            _ => false,
        });
        out.push(Action::End { ending, reason, succeeded: self.known.succeeded });
        self.contact = Contact::Over(Some(why));
    }
}
