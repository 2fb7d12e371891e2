//! Which hosts of a run are told to boot, and when, so that one bad payload costs one host.
//!
//! [`Fleet`] is pure: it is told what happens, and says who may go on. A [`Seat`] is one host's place in it.

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use tokio::sync::watch as signal;
use tokio::time::{Instant, timeout_at};

use crate::text::quoted;

/// More hosts than these are not named in a command that is shown.
const NAMED: usize = 8;

/// How a fleet goes about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Hosts at once, from their preparation to their end.
    pub parallel: usize,
    /// One host goes alone until one is deployed.
    pub canary: bool,
    /// Hosts that may end otherwise than deployed, once they were told to boot, before no other is told to.
    pub max_failures: usize,
}

impl Limits {
    /// The order in which these hosts go, for people; `None` for a single one.
    pub fn order(&self, hosts: &[String]) -> Option<String> {
        let [first, rest @ ..] = hosts else { return None };
        let together = |count: usize| count <= self.parallel;
        let mut text = match rest {
            [] => return None,
            [second] if self.canary => format!("first {first} alone, then {second}"),
            _ if self.canary && together(rest.len()) => format!("first {first} alone, then {} at once", rest.len()),
            _ if self.canary => format!("first {first} alone, then {} at a time", self.parallel),
            _ if together(hosts.len()) => format!("all {} at once", hosts.len()),
            _ => format!("{} at a time", self.parallel),
        };
        // Writing to a String can't fail.
        let _ = match self.max_failures {
            0 => write!(text, "; should one fail once it is told to boot, no other is told to"),
            count => write!(text, "; should more than {count} fail once they are told to boot, no other is told to"),
        };
        Some(text)
    }
}

/// Where a host stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing is decided yet.
    Undecided,
    /// To be deployed, but not yet.
    Waiting,
    /// Being prepared for its boot.
    Preparing,
    /// Told to boot.
    Booted,
    /// Over, as it should be.
    Proved,
    /// Over, or left, or never begun with.
    Out,
}

/// What became of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// It is deployed, or held as it was told to be.
    Proved,
    /// It ended otherwise, in words that follow its name. That counts only if it was told to boot.
    Failed(String),
    /// The user turned away from it.
    Left,
}

/// Where a host stood when the process that followed it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stood {
    /// It was to be deployed, and was not told to boot.
    Waiting,
    /// It was told to boot, and goes on.
    Booted,
    /// It was told to boot, and has ended so.
    Over(How),
    /// It was never begun with, or left.
    Out,
}

/// What a host may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Wait; what for.
    Wait(String),
    /// Go on.
    Go,
    /// It will not be told to boot; why, and what to do.
    Never(String),
}

/// The hosts of a run.
#[derive(Debug)]
pub struct Fleet {
    limits: Limits,
    hosts_file: String,
    hosts: Vec<(String, State)>,
    /// Those that are to be deployed are several.
    several: bool,
    failures: Vec<String>,
    /// Why no other is told to boot.
    halted: Option<String>,
    /// Of those that were met, the boot ids.
    met: Vec<Option<String>>,
}

impl Fleet {
    /// Of these hosts, none of which may go yet. `hosts_file` is how the user names it.
    pub fn new(hosts: &[String], limits: Limits, hosts_file: &str) -> Self {
        Self {
            limits,
            hosts_file: quoted(hosts_file),
            hosts: hosts.iter().map(|host| (host.clone(), State::Undecided)).collect(),
            several: false,
            failures: Vec::new(),
            halted: None,
            met: vec![None; hosts.len()],
        }
    }

    /// The host was met, and this is its boot id.
    pub fn met(&mut self, host: usize, boot_id: &str) {
        self.met[host] = Some(boot_id.to_owned());
    }

    /// The other host that was met with this boot id.
    fn twin(&self, host: usize, boot_id: &str) -> Option<&str> {
        let same = |(other, met): &(usize, &Option<String>)| *other != host && met.as_deref() == Some(boot_id);
        self.met.iter().enumerate().find(same).map(|(other, _)| self.hosts[other].0.as_str())
    }

    /// These of them are to be deployed, unless they are over already.
    pub fn begin(&mut self, going: &[String]) {
        for (name, state) in self.hosts.iter_mut().filter(|(_, state)| *state == State::Undecided) {
            *state = if going.contains(name) { State::Waiting } else { State::Out };
        }
        self.several = self.count(|state| state == State::Waiting) > 1;
        self.settle();
    }

    /// Puts a host where it stood when an earlier process ended. To be followed by [`Fleet::resume`].
    pub fn stand(&mut self, host: usize, stood: Stood) {
        match stood {
            Stood::Waiting => self.hosts[host].1 = State::Waiting,
            Stood::Booted => self.hosts[host].1 = State::Booted,
            Stood::Over(how) => {
                self.hosts[host].1 = State::Booted;
                self.end(host, how);
            }
            Stood::Out => self.hosts[host].1 = State::Out,
        }
    }

    /// Goes on, when every host has its place again; `several` were to be deployed, or one.
    pub fn resume(&mut self, several: bool) {
        self.several = several;
        self.settle();
    }

    /// What the host may do now.
    pub fn verdict(&self, host: usize) -> Verdict {
        match (self.hosts[host].1, &self.halted) {
            (State::Waiting, Some(why)) => Verdict::Never(why.clone()),
            (State::Waiting | State::Undecided, _) => Verdict::Wait(self.waits_for()),
            _ => Verdict::Go,
        }
    }

    /// Whether all but this host were met, or are over.
    fn others_are_met(&self, host: usize) -> bool {
        let mut others = self.hosts.iter().zip(&self.met).enumerate().filter(|(other, _)| *other != host);
        others.all(|(_, ((_, state), met))| met.is_some() || *state == State::Out)
    }

    /// The host is prepared and wants to boot. An error says why it must not.
    pub fn boot(&mut self, host: usize) -> Result<(), String> {
        if let Some(why) = &self.halted {
            return Err(why.clone());
        }
        self.hosts[host].1 = State::Booted;
        Ok(())
    }

    /// The host is over.
    pub fn ended(&mut self, host: usize, how: How) {
        self.end(host, how);
        self.settle();
    }

    fn end(&mut self, host: usize, how: How) {
        let (name, state) = &mut self.hosts[host];
        let booted = std::mem::replace(state, State::Out) == State::Booted;
        match how {
            How::Proved if booted => *state = State::Proved,
            How::Failed(why) if booted => self.failures.push(format!("{name} was and {why}")),
            How::Left => self.halted = Some("it was not told to boot, because the run was left".into()),
            // Nothing is known of the payload.
            How::Proved | How::Failed(_) => {}
        }
        if self.halted.is_none() && self.failures.len() > self.limits.max_failures {
            self.halted = Some(self.reason());
        }
    }

    fn count(&self, is: impl Fn(State) -> bool) -> usize {
        self.hosts.iter().filter(|(_, state)| is(*state)).count()
    }

    /// Whether the payload has yet to show that it does what it should.
    fn proving(&self) -> bool {
        self.limits.canary && self.several && self.count(|state| state == State::Proved) == 0
    }

    /// Lets go whoever may.
    fn settle(&mut self) {
        if self.halted.is_some() {
            return;
        }
        let at_once = if self.proving() { 1 } else { self.limits.parallel };
        let busy = self.count(|state| matches!(state, State::Preparing | State::Booted));
        let waiting = self.hosts.iter_mut().filter(|(_, state)| *state == State::Waiting);
        for (_, state) in waiting.take(at_once.saturating_sub(busy)) {
            *state = State::Preparing;
        }
    }

    fn waits_for(&self) -> String {
        let busy = self.hosts.iter().find(|(_, state)| matches!(state, State::Preparing | State::Booted));
        match busy {
            Some((name, _)) if self.proving() => {
                format!("waits for {name}, which goes alone until one host is deployed")
            }
            _ => format!("waits for its turn: {} at a time", self.limits.parallel),
        }
    }

    /// Why those that were not told to boot are not, and what to do about it.
    fn reason(&self) -> String {
        let left = self.hosts.iter().filter(|(_, state)| matches!(state, State::Waiting | State::Preparing));
        let left: Vec<&str> = left.map(|(name, _)| &**name).collect();
        let hosts = if left.len() > NAMED { "HOST…".to_owned() } else { left.join(" ") };
        let (file, count) = (&self.hosts_file, self.failures.len());
        format!(
            "it was not told to boot, because {}; once that is mended, `anemos up {file} {hosts}` deploys what is left \
             (`--max-failures {count}` would have gone on)",
            self.failures.join(", ")
        )
    }
}

/// A host's place in a fleet. Where it is dropped without a word about its end, the host is taken for one that failed
/// if it was told to boot.
#[derive(Debug)]
pub struct Seat {
    fleet: signal::Sender<Fleet>,
    changes: signal::Receiver<Fleet>,
    host: usize,
    over: bool,
}

impl Seat {
    /// The place of the host with this number.
    pub fn new(fleet: &signal::Sender<Fleet>, host: usize) -> Self {
        Self { fleet: fleet.clone(), changes: fleet.subscribe(), host, over: false }
    }

    /// What the host may do now.
    pub fn verdict(&mut self) -> Verdict {
        self.changes.borrow_and_update().verdict(self.host)
    }

    /// Returns when something has happened since the last verdict.
    pub async fn changed(&mut self) {
        // It has a sender itself.
        let _ = self.changes.changed().await;
    }

    /// See [`Fleet::met`].
    pub fn met(&self, boot_id: &str) {
        self.fleet.send_modify(|fleet| fleet.met(self.host, boot_id));
    }

    /// The other host that was met with this boot id, or is so before the deadline.
    pub async fn twin(&self, boot_id: &str, deadline: Instant) -> Option<String> {
        let mut changes = self.fleet.subscribe();
        let known = |fleet: &Fleet| fleet.twin(self.host, boot_id).is_some() || fleet.others_are_met(self.host);
        let met = changes.wait_for(known);
        let fleet = timeout_at(deadline, met).await.ok()?.ok()?;
        fleet.twin(self.host, boot_id).map(str::to_owned)
    }

    /// See [`Fleet::boot`].
    pub fn boot(&self) -> Result<(), String> {
        let mut answer = Ok(());
        self.fleet.send_modify(|fleet| answer = fleet.boot(self.host));
        answer
    }

    /// See [`Fleet::ended`].
    pub fn ended(mut self, how: How) {
        self.over = true;
        self.fleet.send_modify(|fleet| fleet.ended(self.host, how));
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if !self.over {
            let how = How::Failed("is not followed any more".into());
            self.fleet.send_modify(|fleet| fleet.ended(self.host, how));
        }
    }
}

#[cfg(test)]
#[path = "fleet_tests.rs"]
mod tests;
