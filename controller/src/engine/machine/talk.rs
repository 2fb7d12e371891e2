//! The conversation with the agent: what it says, what is acknowledged, and what is wished of it.

use std::time::Duration;

use anemos_proto::agent::{AgentReply, AgentRequest, Leaving};
use anemos_proto::config::Finish;
use anemos_proto::event::{AgentState, Event, EventKind, Level};

use super::leave::is_past_beginning;
use super::{Action, Contact, LEAST, Machine, Mark, PAUSE, SOON, Wished};
use crate::config::format_duration;
use crate::engine::verdict::{Goal, LeaveTo};
use crate::engine::wish::Wish;
use crate::journal::last_seq;
use crate::report::{Ending, Phase};

/// Facts are acknowledged after so many, or after [`ACK_AFTER`].
const ACK_EVERY: u64 = 64;

/// See [`ACK_EVERY`].
const ACK_AFTER: Duration = Duration::from_secs(2);

/// How long the agent may take to answer that somebody attaches.
pub(super) const ANSWER: Duration = Duration::from_secs(60);

/// One link to the agent.
#[derive(Debug)]
pub(super) struct Talk {
    /// Seq of the newest fact when the agent answered, up to which it repeats what it said before; `None` until it has
    /// answered.
    replay_until: Option<u64>,
    /// What the agent is doing, as far as it has said on this link.
    state: Option<AgentState>,
    /// When the agent said something last.
    heard: Duration,
    /// Seq of the newest fact that was acknowledged on this link. Whether the agent heard the acknowledgements on
    /// earlier links is not known.
    acked: u64,
    /// Seq of the newest fact that was given to be made safe.
    securing: u64,
    /// When what is new must be made safe and acknowledged.
    ack_due: Option<Duration>,
    /// The agent was asked the oldest wish, and has not answered.
    asked: bool,
    /// That it answered what it was not asked was told.
    unasked: bool,
    /// The agent has accepted a payload that is on its way, and the retry has not begun.
    sending: bool,
}

/// Why a conversation ends for now, once what was told last is safe.
#[derive(Debug)]
pub(super) enum Farewell {
    /// The agent waits for a person, because …
    Held(String),
    /// The agent leaves.
    Leaving(Leaving),
}

impl Talk {
    /// When the machine must be told of the time.
    pub(super) fn deadline(&self, silence: Duration) -> Duration {
        let silent = self.heard + self.patience(silence);
        self.ack_due.map_or(silent, |due| due.min(silent))
    }

    /// How long the agent may say nothing.
    fn patience(&self, silence: Duration) -> Duration {
        if self.replay_until.is_some() { silence } else { ANSWER }
    }
}

impl Machine {
    /// Without a word for so long, the agent itself has failed: by then its own clock should have ended the payload.
    pub(super) fn silence(&self) -> Duration {
        Duration::from_secs(self.setup.entry.build_s + 10 * self.setup.entry.ack_s) + LEAST
    }

    pub(super) fn opened(&mut self, now: Duration, out: &mut Vec<Action>) {
        self.contact = Contact::Talking(Talk {
            replay_until: None,
            state: None,
            heard: now,
            acked: 0,
            securing: 0,
            ack_due: None,
            asked: false,
            unasked: false,
            sending: false,
        });
        if std::mem::take(&mut self.link_lost) {
            out.push(Action::LinkBack);
        }
        out.push(Action::Send(AgentRequest::Attach { after: self.last }));
    }

    pub(super) fn reply(&mut self, now: Duration, reply: AgentReply, out: &mut Vec<Action>) {
        let Contact::Talking(talk) = &mut self.contact else { return };
        talk.heard = now;
        self.heard = Some((now, Duration::ZERO));
        match reply {
            AgentReply::Attached { boot_id, state, last } => self.attached(boot_id, state, last, out),
            AgentReply::Event(event) => self.event(now, event, out),
            AgentReply::Progress(progress) => out.push(Action::Progress(progress)),
            AgentReply::Accepted => self.accepted(out),
            AgentReply::Refused(why) => self.refused(now, why, out),
            AgentReply::Leaving(leaving) => self.part(Farewell::Leaving(leaving), out),
        }
        self.hold(out);
    }

    /// Time passed.
    pub(super) fn tick(&mut self, now: Duration, out: &mut Vec<Action>) {
        let silence = self.silence();
        let Contact::Talking(talk) = &self.contact else { return };
        if talk.ack_due.is_some_and(|due| now >= due) {
            self.secure(out);
        }
        let Contact::Talking(talk) = &self.contact else { return };
        if talk.replay_until.is_none() {
            if now >= talk.heard + ANSWER {
                let why = format!("the agent said hello and then nothing for {}", format_duration(ANSWER));
                self.lost(now, why, out);
            }
        } else if now >= talk.heard + silence {
            let silence = format_duration(silence);
            self.broken(
                &format!("it has said nothing for {silence}, though its deadline `build` has passed since"),
                out,
            );
        }
    }

    fn attached(&mut self, boot_id: String, state: AgentState, last: u64, out: &mut Vec<Action>) {
        let Contact::Talking(talk) = &mut self.contact else { return };
        if talk.replay_until.is_some() {
            // It was asked once.
            return;
        }
        if self.known.ram_boot_id.as_ref().is_some_and(|known| *known != boot_id) {
            return self.broken("the RAM system was booted anew: its boot id changed", out);
        }
        talk.replay_until = Some(last);
        self.begun |= is_past_beginning(&state);
        talk.state = Some(state);
        self.left = false;
        self.known.ram_boot_id = Some(boot_id.clone());
        out.push(Action::Ram(boot_id));
        self.ask(out);
        self.secure(out);
    }

    fn event(&mut self, now: Duration, event: Event, out: &mut Vec<Action>) {
        let Contact::Talking(talk) = &mut self.contact else { return };
        if event.seq <= self.last {
            return;
        }
        self.last = last_seq(&event);
        talk.ack_due.get_or_insert(now + ACK_AFTER);
        let many = self.last - talk.securing >= ACK_EVERY;
        match &event.kind {
            // `Attached` carried the state after the replay; older states must not overwrite it.
            EventKind::State(state) if talk.replay_until.is_some_and(|until| event.seq > until) => {
                // With the payload there, the agent goes on to the retry.
                talk.sending &= matches!(state, AgentState::Held(_));
                talk.state = Some(state.clone());
            }
            _ => {}
        }
        // The agent waits for these to be acknowledged.
        let waits = matches!(event.kind, EventKind::Attempt(_) | EventKind::Outcome(_));
        if std::mem::take(&mut self.first_due) {
            out.push(Action::FirstEvent(now));
        }
        self.begin_phase(Phase::Build, out);
        self.learn(&event.kind);
        out.push(Action::Fact(event));
        if waits || many {
            self.secure(out);
        }
        self.ask(out);
    }

    fn accepted(&mut self, out: &mut Vec<Action>) {
        let Contact::Talking(talk) = &mut self.contact else { return };
        if !std::mem::take(&mut talk.asked) {
            return;
        }
        self.granted = true;
        // An accepted wish has its answer: after a lost link it is not made again.
        match self.wishes.pop_front().map(|wished| wished.wish) {
            Some(Wish::Retry(Some(payload))) => {
                (talk.sending, self.begun) = (true, false);
                out.push(Action::SendPayload(payload));
            }
            Some(Wish::Finish(Finish::Hold)) | None => {}
            // The agent is about to do something else than it did when it said its state.
            Some(wish @ (Wish::Retry(None) | Wish::Abort | Wish::Finish(_))) => {
                talk.state = None;
                self.begun &= !matches!(wish, Wish::Retry(_));
            }
        }
        out.push(Action::Answer(Ok(())));
        self.ask(out);
    }

    fn refused(&mut self, now: Duration, why: String, out: &mut Vec<Action>) {
        let Contact::Talking(talk) = &mut self.contact else { return };
        if talk.replay_until.is_none() {
            self.broken(&why, out);
        } else if std::mem::take(&mut talk.asked) {
            self.wishes.pop_front();
            out.push(Action::Answer(Err(why)));
            self.secure(out);
            self.ask(out);
        } else if talk.sending {
            // The agent refuses each further piece of the payload too. A new link has no such pieces on it.
            out.push(Action::Say(Level::Error, format!("the agent did not take the new payload: {why}")));
            self.set_goal(now, Goal::Run, Duration::ZERO, out);
            self.look_again(now, SOON, out);
        } else if !std::mem::replace(&mut talk.unasked, true) {
            out.push(Action::Say(Level::Warning, format!("the agent refused what it was not asked: {why}")));
        }
    }

    /// Makes what is new safe. Only then may it be acknowledged: that lets a payload start, and the host leave.
    fn secure(&mut self, out: &mut Vec<Action>) {
        let Contact::Talking(talk) = &mut self.contact else { return };
        talk.ack_due = None;
        if self.last > talk.securing {
            talk.securing = self.last;
            self.make_safe(Some(self.known.attempt), out);
        }
    }

    pub(super) fn make_safe(&self, attempt: Option<u32>, out: &mut Vec<Action>) {
        let attempt = attempt.filter(|attempt| *attempt != self.noted);
        out.push(Action::MakeSafe(Mark { seq: self.last, attempt }));
    }

    pub(super) fn safe(&mut self, now: Duration, mark: Mark, out: &mut Vec<Action>) {
        if let Some(attempt) = mark.attempt {
            self.noted = self.noted.max(attempt);
        }
        // An attempt may start once it is acknowledged, so the second file has to name it first.
        if self.noted < self.known.attempt {
            return;
        }
        match &mut self.contact {
            Contact::Talking(talk) if mark.seq > talk.acked => {
                talk.acked = mark.seq;
                out.push(Action::Send(AgentRequest::Ack { seq: mark.seq }));
            }
            Contact::Parting(_) if mark.seq == self.last => {
                out.push(Action::Send(AgentRequest::Ack { seq: mark.seq }));
                self.parted(now, out);
            }
            _ => {}
        }
    }

    /// Ends the conversation if the agent waits for a person and nobody wishes anything. The replay comes first: it
    /// tells what has become of the host.
    fn hold(&mut self, out: &mut Vec<Action>) {
        if let Contact::Talking(talk) = &self.contact
            && let Some(AgentState::Held(reason)) = &talk.state
            && talk.replay_until.is_some_and(|until| self.last >= until)
            && !talk.sending
            && self.wishes.is_empty()
        {
            let farewell = Farewell::Held(reason.clone());
            self.part(farewell, out);
        }
    }

    fn part(&mut self, farewell: Farewell, out: &mut Vec<Action>) {
        self.make_safe(Some(self.known.attempt), out);
        self.contact = Contact::Parting(farewell);
    }

    /// What was told last is safe, or can't be made safe.
    pub(super) fn parted(&mut self, now: Duration, out: &mut Vec<Action>) {
        match &self.contact {
            Contact::Parting(Farewell::Held(reason)) => {
                let host = &self.setup.entry.name;
                let hint = if self.known.succeeded {
                    format!("`anemos finish {host}` goes on to the new system, `anemos shell {host}` looks around")
                } else {
                    format!(
                        "look around with `anemos shell {host}`, then `anemos retry {host}`, with a mended --payload \
                         if need be, or leave RAM with `anemos finish {host}`"
                    )
                };
                let reason = format!("{reason}; {hint}");
                self.end(Ending::Held, reason, out);
            }
            Contact::Parting(Farewell::Leaving(leaving)) => {
                let leaving = leaving.clone();
                self.leaves(now, leaving, out);
            }
            _ => {}
        }
    }

    fn leaves(&mut self, now: Duration, leaving: Leaving, out: &mut Vec<Action>) {
        out.push(Action::HangUp);
        let (to, finish, reason) = match leaving {
            Leaving::Finish(finish) => (LeaveTo::New(finish), Some(finish), String::new()),
            Leaving::OldSystem(reason) => (LeaveTo::Old(reason.clone()), None, reason),
        };
        out.push(Action::Left { finish, reason });
        self.make_safe(None, out);
        self.answer_all(LEFT, out, |wish| match wish {
            Wish::Finish(wished) => finish == Some(*wished),
            Wish::Abort => finish.is_none(),
            Wish::Retry(_) => false,
        });
        if finish == Some(Finish::PowerOff) {
            let reason = if self.known.succeeded {
                "the payload succeeded and the host was powered off as told, so nobody has seen its new system; \
                 `anemos attach` looks for it once it is on"
            } else {
                "the host was powered off as told, without a new system"
            };
            return self.end(Ending::Held, reason, out);
        }
        self.left = true;
        // One that says so again and again, and stays, is waited for no longer than one that goes.
        if std::mem::take(&mut self.granted) || self.goal != Goal::Leave(to.clone()) {
            self.set_goal(now, Goal::Leave(to), Duration::ZERO, out);
        }
        self.pause(now, PAUSE);
    }

    pub(super) fn lost(&mut self, now: Duration, why: String, out: &mut Vec<Action>) {
        let (heard, sending) = match &self.contact {
            Contact::Talking(talk) => (talk.replay_until.is_some(), talk.sending),
            _ => (false, false),
        };
        if sending {
            let text =
                "the link was lost while the new payload was on its way: if the host is held, it has not arrived";
            out.push(Action::Say(Level::Warning, text.into()));
        }
        if self.known.ram_boot_id.is_none() {
            self.why = why;
        } else if !std::mem::replace(&mut self.link_lost, true) {
            out.push(Action::LinkLost(why));
        }
        if heard {
            // The agent will not hear of it now, but what it told is kept.
            self.make_safe(None, out);
            match self.goal {
                // Its last word may have been lost with the link.
                _ if self.known.succeeded => {
                    let to = LeaveTo::New(self.setup.entry.finish);
                    self.set_goal(now, Goal::Leave(to), Duration::ZERO, out);
                }
                Goal::Boot | Goal::Run => self.set_goal(now, Goal::Run, Duration::ZERO, out),
                Goal::Leave(_) => {}
            }
        }
        self.look_again(now, PAUSE, out);
    }

    pub(super) fn broken(&mut self, why: &str, out: &mut Vec<Action>) {
        self.end(Ending::Held, format!("the agent can't be talked to: {why}"), out);
    }

    pub(super) fn wished(&mut self, wish: Wish, out: &mut Vec<Action>) {
        if self.left {
            return out.push(Action::Answer(Err(LEFT.into())));
        }
        self.wishes.push_back(Wished { wish, made: false });
        self.ask(out);
    }

    /// Asks the agent the oldest wish, once the one before has its answer and the payload of a retry is there.
    fn ask(&mut self, out: &mut Vec<Action>) {
        if let Contact::Talking(talk) = &mut self.contact
            && talk.replay_until.is_some()
            && !talk.asked
            && !talk.sending
            && let Some(Wished { wish, made }) = self.wishes.front_mut()
        {
            (talk.asked, *made) = (true, true);
            out.push(Action::Send(match wish {
                Wish::Abort => AgentRequest::Abort,
                Wish::Finish(finish) => AgentRequest::Finish(*finish),
                // The payload itself follows when the agent has accepted the retry.
                Wish::Retry(payload) => AgentRequest::Retry { payload: payload.as_ref().map(|blob| blob.id) },
            }));
        }
    }

    /// Answers all wishes that have no answer, since the agent will give none: `Ok` to those that the agent was asked
    /// and that came true, `why` not to the others.
    pub(super) fn answer_all(&mut self, why: &str, out: &mut Vec<Action>, came_true: impl Fn(&Wish) -> bool) {
        for Wished { wish, made } in self.wishes.drain(..) {
            out.push(Action::Answer(if made && came_true(&wish) { Ok(()) } else { Err(why.into()) }));
        }
    }
}

/// What whoever wishes something of a host that has left RAM is told.
const LEFT: &str = "the host has left RAM already; `anemos attach` looks where it is now";
