//! Whoever answers: who it is, and whether a new system is in order.

use std::time::Duration;

use anemos_proto::event::Level;

use super::{Action, Contact, LOGIN, Machine, PAUSE, SOON, Whom};
use crate::config::format_duration;
use crate::engine::look::Look;
use crate::engine::verdict::{self, Goal, Next, Seen};
use crate::engine::withdraw::comment;
use crate::report::{Ending, Phase};
use crate::ssh::{Address, HostKey};

/// For so long after the stage's last word it is not worth a login to see that it is the old system.
const OLD_SYSTEM: Duration = Duration::from_secs(8);

/// So many strangers are told of, and no more: one may show another key each time.
const STRANGERS: usize = 16;

/// The check of a new system.
#[derive(Debug)]
pub(super) struct Checking {
    /// What the system calls itself.
    os: String,
    command: String,
    until: Duration,
    /// A failure was told.
    told: bool,
    /// Between two tries: until when.
    pub(super) pause: Option<Duration>,
}

impl Machine {
    /// The keys of the systems, old and new; not the agent's.
    fn system_keys(&self) -> Vec<HostKey> {
        let mut keys = vec![self.setup.old.proved.clone()];
        for key in self.setup.old.host_keys.iter().cloned().chain(self.reported_keys()) {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        keys
    }

    /// The keys that the new system has, as the agent reported.
    fn reported_keys(&self) -> Vec<HostKey> {
        self.known.new_keys.iter().filter_map(|line| HostKey::parse(line)).collect()
    }

    pub(super) fn keys(&self) -> Vec<HostKey> {
        let mut keys = vec![self.setup.entry.agent_key.clone()];
        keys.extend(self.system_keys());
        keys
    }

    pub(super) fn stranger(&mut self, now: Duration, key: HostKey, address: &Address, out: &mut Vec<Action>) {
        self.seen = Some(Seen::Stranger(key.to_string()));
        if self.strangers.len() < STRANGERS && !self.strangers.contains(&key) {
            let text = format!(
                "a server at {address} shows the host key {key}, which is neither the agent's nor the host's: it may \
                 be an impostor. Nothing is shown to it; waiting for the right one"
            );
            self.strangers.push(key);
            out.push(Action::Say(Level::Error, text));
        }
        self.look_again(now, PAUSE, out);
    }

    /// Somebody holds a key that we know. Is a login worth it?
    pub(super) fn proved(&mut self, now: Duration, key: HostKey, out: &mut Vec<Action>) {
        let patience = self.patience(now);
        if key == self.setup.entry.agent_key {
            self.seen = Some(Seen::Agent);
            match verdict::decide(&self.goal, &self.known, &Seen::Agent, self.waited(now)) {
                Next::Attach => {
                    self.contact = Contact::Entering(Whom::Agent);
                    out.push(Action::LogIn { whom: Whom::Agent, patience });
                }
                _ => self.look_again(now, PAUSE, out),
            }
        } else if self.goal == Goal::Boot && self.waited(now) < OLD_SYSTEM {
            // The old system, a moment after it was told to boot another.
            self.look_again(now, SOON, out);
        } else {
            let whom = Whom::System(key);
            self.contact = Contact::Entering(whom.clone());
            out.push(Action::LogIn { whom, patience: patience + self.setup.typing });
        }
    }

    pub(super) fn looked(&mut self, now: Duration, look: &Look, key: &HostKey, out: &mut Vec<Action>) {
        let seen = Seen::System(look.clone());
        let next = verdict::decide(&self.goal, &self.known, &seen, self.waited(now));
        self.seen = Some(seen);
        match next {
            Next::Wait | Next::Attach => self.look_again(now, PAUSE, out),
            Next::Verify => self.verify(now, look, key, out),
            Next::End(ending, reason) => self.end(ending, reason, out),
        }
    }

    /// The new system is up, as far as can be told, and holds this key. Is it in order?
    fn verify(&mut self, now: Duration, look: &Look, key: &HostKey, out: &mut Vec<Action>) {
        self.begin_phase(Phase::Verify, out);
        let os = if look.os.is_empty() { "a system without a name".to_owned() } else { look.os.clone() };
        let reported = self.reported_keys();
        if !reported.is_empty() && !reported.contains(key) {
            let reason = format!(
                "{os} came up with the old system's host key {key}, and not with one of those that the payload left: \
                 check which disk the firmware starts"
            );
            return self.end(Ending::Held, reason, out);
        }
        if *key != self.setup.old.proved && !self.setup.old.host_keys.contains(key) {
            let text = format!("the new system has a host key of its own, {key}; known_hosts still has the old one");
            out.push(Action::Say(Level::Warning, text));
        }
        let Some(command) = self.setup.entry.check.clone() else { return self.verified(Ending::Deployed, os, out) };
        let until = *self.verify_until.get_or_insert(now + Duration::from_secs(self.setup.entry.verify_s));
        self.contact = Contact::Checking(Checking { os, command, until, told: false, pause: None });
        self.check(now, out);
    }

    /// The new system, which let us in, is in order, or is not.
    fn verified(&mut self, ending: Ending, reason: String, out: &mut Vec<Action>) {
        if !self.setup.entry.verify_key {
            return self.end(ending, reason, out);
        }
        if ending == Ending::Deployed {
            // Whoever goes on after this process may not be let in any more.
            out.push(Action::Verified(reason.clone()));
            self.verified = Some(reason.clone());
        }
        out.push(Action::Withdraw { patience: LOGIN.1 });
        self.contact = Contact::Withdrawing(ending, reason);
    }

    /// The system that holds this key did not let us in. One that was found to be in order may have had its door shut
    /// since, by an earlier process.
    pub(super) fn locked_out(&mut self, now: Duration, why: String, key: &HostKey, out: &mut Vec<Action>) {
        let reported = self.reported_keys();
        if let Some(os) = self.verified.clone().filter(|_| reported.is_empty() || reported.contains(key)) {
            return self.end(Ending::Deployed, os, out);
        }
        self.seen = Some(Seen::LockedOut(why));
        self.look_again(now, PAUSE, out);
    }

    pub(super) fn withdrawn(&mut self, result: Result<(), String>, out: &mut Vec<Action>) {
        let Contact::Withdrawing(ending, reason) = &mut self.contact else { return };
        let (ending, reason) = (*ending, std::mem::take(reason));
        if let Err(why) = result {
            let text = format!(
                "this run's key was to be removed from the new system: {why}; remove the line that ends with `{}` \
                 wherever that system keeps root's keys",
                comment(&self.setup.run)
            );
            out.push(Action::Say(Level::Warning, text));
        }
        self.end(ending, reason, out);
    }

    pub(super) fn check(&mut self, now: Duration, out: &mut Vec<Action>) {
        if let Contact::Checking(checking) = &mut self.contact {
            checking.pause = None;
            let patience = checking.until.saturating_sub(now);
            out.push(Action::Check { command: checking.command.clone(), patience });
        }
    }

    pub(super) fn checked(&mut self, now: Duration, result: Result<(), String>, closed: bool, out: &mut Vec<Action>) {
        let Contact::Checking(checking) = &mut self.contact else { return };
        let Err(why) = result else {
            let os = std::mem::take(&mut checking.os);
            return self.verified(Ending::Deployed, os, out);
        };
        if !checking.told {
            checking.told = true;
            out.push(Action::Say(Level::Info, format!("the check does not succeed yet: {why}")));
        }
        let Checking { os, command, until, .. } = checking;
        if now >= *until {
            let name = format_duration(Duration::from_secs(self.setup.entry.verify_s));
            let reason =
                format!("{os} is up, but the check `{command}` failed until deadline `verify` ({name}): {why}");
            self.verified(Ending::Held, reason, out);
        } else if closed {
            self.why = format!("the connection was lost during the check `{command}`: {why}");
            // Whoever looks for the system again has until the later of the two deadlines.
            self.wait.until = self.wait.until.max(*until);
            self.look_again(now, PAUSE, out);
        } else {
            // Services may still be starting, the network among them.
            checking.pause = Some((now + PAUSE).min(*until));
        }
    }
}
