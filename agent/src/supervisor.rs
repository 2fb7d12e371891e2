//! What init decides about the agent: whether it hangs, when it is started again, and when init goes back to the old
//! system by itself. Without I/O and without a clock; times are milliseconds of the same clock throughout.

use anemos_proto::config::Deadlines;

use crate::heart::Beat;
use crate::watchdog::Care;

/// What init goes by where run.bin can't be read.
const UNKNOWN: Deadlines = Deadlines { dead_man_s: 600, payload_s: 7200, ack_s: 120, start_s: 600, hang_s: 120 };
/// What the agent needs to leave after its dead-man's clock struck, besides the deadline `ack`: to make sure that
/// nothing was written, to say goodbye, to unmount, and to reboot.
const LEAVING_S: u32 = 300;
/// Init wakes every second. If it didn't for so long, the machine stood still as a whole, as a paused VM does.
const STANDSTILL: u64 = 10_000;
/// The pauses before the agent is started again grow from the first to the last.
const PAUSES: [u64; 2] = [1000, 30_000];

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The agent's heart beat.
    Beat(Beat),
    /// The agent has ended, or could not be started: how, in words.
    Ended(String),
    /// The kernel has counted a write.
    Written,
    /// Time passed. To be told every second.
    Tick,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start the agent: held, if there is a reason.
    Start(Option<String>),
    /// Kill the agent.
    Kill,
    /// Tell whoever is at the screen.
    Say(String),
    /// End every process, and reboot into the old system if no write is counted then.
    GoBack(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Agent {
    /// Not there; to be started then.
    Down { until: u64 },
    /// Started then, and heard of last then.
    Up { since: u64, heard: u64 },
    /// It was silent, and was sent SIGKILL then.
    Killed { since: u64, at: u64, told: bool },
}

/// What init knows of the agent, over all of the agents that it has started.
#[derive(Debug)]
pub struct Supervisor {
    deadlines: Deadlines,
    agent: Agent,
    /// Whether a disk was written. It stays so.
    written: bool,
    /// Whether the agent is about to call reboot(2).
    leaving: bool,
    /// Whether init goes back by itself.
    going_back: bool,
    /// When somebody was there last, or the payload ran.
    alone_since: u64,
    /// Why the agent broke first, and when: later failures may only follow from that one.
    broke: Option<(String, u64)>,
    /// Pause before the next start.
    pause: u64,
    /// When init was awake last.
    awake: u64,
}

impl Supervisor {
    /// Knows of no agent yet, and wants one. `deadlines` are those of run.bin, if it can be read.
    pub fn new(deadlines: Option<Deadlines>, now: u64) -> Self {
        Self {
            deadlines: deadlines.unwrap_or(UNKNOWN),
            agent: Agent::Down { until: now },
            written: false,
            leaving: false,
            going_back: false,
            alone_since: now,
            broke: None,
            pause: PAUSES[0],
            awake: now,
        }
    }

    /// Deadline `hang` in seconds.
    pub fn hang_s(&self) -> u32 {
        self.deadlines.hang_s
    }

    /// Whether a disk was written.
    pub fn is_written(&self) -> bool {
        self.written
    }

    /// What the watchdogs are to be told.
    pub fn care(&self) -> Care {
        if self.leaving || self.going_back {
            Care::LetGo
        } else if self.written {
            Care::Spare
        } else {
            Care::Guard { well: !matches!(self.agent, Agent::Killed { .. }) }
        }
    }

    /// Takes an input; returns what to do, in order.
    pub fn handle(&mut self, now: u64, input: Input) -> Vec<Action> {
        let mut actions = Vec::new();
        match input {
            Input::Beat(beat) => self.beat(now, beat),
            Input::Ended(how) => self.ended(now, how, &mut actions),
            Input::Written => (self.written, self.going_back) = (true, false),
            Input::Tick => self.tick(now, &mut actions),
        }
        actions
    }

    fn beat(&mut self, now: u64, beat: Beat) {
        if let Agent::Up { heard, .. } = &mut self.agent {
            *heard = now;
        }
        match beat {
            Beat::Alone => {}
            Beat::Busy => self.alone_since = now,
            Beat::Written => self.written = true,
            Beat::Leaving => self.leaving = true,
        }
    }

    fn ended(&mut self, now: u64, how: String, actions: &mut Vec<Action>) {
        let (since, text) = match self.agent {
            Agent::Killed { since, .. } => (since, format!("{}, and was killed", self.silence())),
            Agent::Up { since, .. } => (since, how),
            Agent::Down { .. } => (now, how),
        };
        self.leaving = false;
        // A failure that comes after a life as long as init's patience is another one.
        let earlier = self.broke.take().filter(|_| now - since <= self.patience());
        if earlier.is_none() {
            self.pause = PAUSES[0];
        }
        let first = earlier.unwrap_or_else(|| (text.clone(), now));
        let breaking = now - first.1;
        self.broke = Some(first);
        self.agent = Agent::Down { until: now + self.pause };
        self.pause = (2 * self.pause).min(PAUSES[1]);
        actions.push(Action::Say(text));
        if breaking >= self.patience() {
            self.go_back("the agent breaks again and again".into(), actions);
        }
    }

    fn tick(&mut self, now: u64, actions: &mut Vec<Action>) {
        let asleep = now.saturating_sub(self.awake);
        self.awake = now;
        if asleep >= STANDSTILL {
            self.alone_since = (self.alone_since + asleep).min(now);
            match &mut self.agent {
                Agent::Up { heard: at, .. } | Agent::Killed { at, .. } => *at = (*at + asleep).min(now),
                Agent::Down { .. } => {}
            }
        }
        let hang = seconds(self.deadlines.hang_s);
        match &mut self.agent {
            Agent::Down { until } if *until <= now && !self.going_back => {
                self.agent = Agent::Up { since: now, heard: now };
                actions.push(Action::Start(self.broke.as_ref().map(|(reason, _)| reason.clone())));
            }
            Agent::Up { since, heard } if now - *heard >= hang => {
                self.agent = Agent::Killed { since: *since, at: now, told: false };
                actions.push(Action::Kill);
            }
            Agent::Killed { at, told, .. } if now - *at >= hang && !*told => {
                *told = true;
                let text = format!("{}, and can't be killed", self.silence());
                actions.push(Action::Say(text.clone()));
                self.go_back(text, actions);
            }
            _ => {}
        }
        let (dead_man, ack) = (self.deadlines.dead_man_s, self.deadlines.ack_s);
        if now - self.alone_since >= seconds(dead_man) + seconds(ack) + seconds(LEAVING_S) {
            let text = format!(
                "nobody was there within deadline `dead_man` ({dead_man} s), and the agent did not go back by itself"
            );
            self.go_back(text, actions);
        }
    }

    fn go_back(&mut self, why: String, actions: &mut Vec<Action>) {
        if !self.written && !self.going_back {
            self.going_back = true;
            actions.push(Action::GoBack(why));
        }
    }

    fn silence(&self) -> String {
        format!("the agent gave no sign of life within deadline `hang` ({} s)", self.deadlines.hang_s)
    }

    /// How long the agent may break again and again before init goes back.
    fn patience(&self) -> u64 {
        seconds(self.deadlines.dead_man_s)
    }
}

fn seconds(seconds: u32) -> u64 {
    u64::from(seconds) * 1000
}

#[cfg(test)]
mod tests;
