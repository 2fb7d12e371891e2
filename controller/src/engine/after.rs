//! After the boot: finds out who answers on the host, talks to the agent while it is there, and ends knowing how the host is.

use std::time::Duration;

use anemos_proto::agent::Leaving;
use anemos_proto::config::Finish;
use anemos_proto::event::Level;
use anemos_proto::ids::RunId;
use tokio::sync::watch as signal;
use tokio::time::{Instant, sleep, timeout_at};

use super::agent::{Attachment, Link, Parting, Wish};
use super::before::TYPING;
use super::known::Known;
use super::look::{exit_text, look};
use super::reporter::{Reporter, now_ms};
use super::verdict::{self, Goal, LeaveTo, Next, Seen};
use super::wish::Wishes;
use crate::journal::{Digested, HostEntry, OldSystem, Record};
use crate::report::{Ending, Phase, Speaker, Summary, Update};
use crate::ssh::{
    self, Address, ConnectError, Connected, Credentials, HostKey, Knocking, Policy, RunKey, Session, Tuning,
};

/// How the following of a host ended.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// It is over, and this is how.
    Over(Box<Summary>),
    /// The user turned away; the host goes on.
    Detached,
}

/// Time between two looks at a server that is not what is waited for.
const PAUSE: Duration = Duration::from_secs(3);

/// How long one handshake or login may take; the less has been waited so far, the less, but never less than the first. A
/// machine that goes down in the middle of one says no word about it.
const LOGIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));

/// For so long after the stage's last word it is not worth a login to see that it is the old system.
const OLD_SYSTEM: Duration = Duration::from_secs(8);

/// Whoever comes back later than the deadlines allow still gets this long to find the host.
const LEAST: Duration = Duration::from_secs(60);

/// What is needed to follow a host.
pub struct Follow<'a> {
    /// The run.
    pub run: RunId,
    /// How to reach the host.
    pub entry: &'a HostEntry,
    /// The old system, as it was met.
    pub old: OldSystem,
    /// The run's key, for the agent.
    pub run_key: RunKey,
    /// The user's keys, for the old and the new system.
    pub user: Credentials,
    /// To tell everything to.
    pub reporter: &'a Reporter,
    /// What people want.
    pub wishes: Wishes,
    /// Turns true when the user wants to leave.
    pub stop: signal::Receiver<bool>,
    /// Our build id.
    pub build: &'a str,
}

/// The state while following.
struct Following<'a> {
    with: Follow<'a>,
    known: Known,
    goal: Goal,
    since: Instant,
    deadline: Instant,
    last: u64,
    last_word: Option<Instant>,
    strangers: Vec<HostKey>,
    link_lost: bool,
    /// Since the new system was first met, until when it has to prove itself.
    verify_until: Option<Instant>,
    seen: Option<Seen>,
    why: String,
}

/// Follows a host from the stage's last word.
pub async fn follow_boot(with: Follow<'_>, last_word: Instant) -> End {
    let mut following = Following::new(with);
    following.last_word = Some(last_word);
    following.set_goal(Goal::Boot, Duration::ZERO);
    following.run().await
}

/// Follows a host from what its journal says.
pub async fn follow_again(with: Follow<'_>, journal: &Digested) -> End {
    let mut following = Following::new(with);
    following.last = journal.last_agent_seq;
    following.known.damaged.clone_from(&journal.damaged);
    following.known.ram_boot_id.clone_from(&journal.ram_boot_id);
    for told in &journal.told {
        if let Update::Event(Speaker::Agent, event) = &told.update {
            following.known.learn(&event.kind);
        }
    }
    let first = journal.told.iter().find(|told| matches!(told.update, Update::Event(Speaker::Agent, _)));
    if let (Some(first), Some(sent)) = (first.map(|told| told.wall_ms), journal.boot_sent_ms) {
        following.with.reporter.first_event(first.saturating_sub(sent) as f64 / 1000.0);
    }
    let ago = |ms: u64| Duration::from_millis(now_ms().saturating_sub(ms));
    match (&journal.left, &journal.ram_boot_id, journal.boot_sent_ms) {
        (Some((when, Some(finish), _)), ..) => following.set_goal(Goal::Leave(LeaveTo::New(*finish)), ago(*when)),
        (Some((when, None, reason)), ..) => following.set_goal(Goal::Leave(LeaveTo::Old(reason.clone())), ago(*when)),
        (None, Some(_), sent) => following.set_goal(Goal::Run, ago(sent.unwrap_or_else(now_ms))),
        (None, None, sent) => following.set_goal(Goal::Boot, ago(sent.unwrap_or_else(now_ms))),
    }
    following.run().await
}

impl<'a> Following<'a> {
    fn new(with: Follow<'a>) -> Self {
        let known = Known {
            run: with.run.to_string(),
            old_boot_id: with.old.boot_id.clone(),
            old_identity: with.old.identity.clone(),
            ..Known::default()
        };
        let now = Instant::now();
        Self {
            with,
            known,
            goal: Goal::Boot,
            since: now,
            deadline: now,
            last: 0,
            last_word: None,
            strangers: Vec::new(),
            link_lost: false,
            verify_until: None,
            seen: None,
            why: "nothing answers".into(),
        }
    }

    fn allowance(&self) -> Duration {
        let entry = self.with.entry;
        Duration::from_secs(match self.goal {
            Goal::Boot => entry.boot_s,
            // It may finish alone and come up anew before anybody hears of it.
            Goal::Run => entry.build_s + entry.ack_s + entry.reboot_s,
            Goal::Leave(_) => entry.reboot_s,
        })
    }

    fn set_goal(&mut self, goal: Goal, ago: Duration) {
        let now = Instant::now();
        self.goal = goal;
        self.since = now.checked_sub(ago).unwrap_or(now);
        self.deadline = now + self.allowance().saturating_sub(ago).max(LEAST.min(self.allowance()));
        self.seen = None;
        let phase = match self.goal {
            Goal::Boot => Phase::Boot,
            Goal::Run => return,
            Goal::Leave(_) => Phase::Reboot,
        };
        self.with.reporter.phase(phase);
    }

    fn say(&mut self, level: Level, text: impl Into<String>) {
        self.with.reporter.say(level, text);
    }

    /// Where the agent and the systems may be.
    fn addresses(&self) -> Vec<Address> {
        let system = self.with.entry.address.clone();
        let agent = Address { host: system.host.clone(), port: self.with.old.agent_port };
        if agent == system { vec![system] } else { vec![agent, system] }
    }

    /// The keys of the systems, old and new; not the agent's.
    fn system_keys(&self) -> Vec<HostKey> {
        let mut keys = vec![self.with.old.proved.clone()];
        let reported = self.known.new_keys.iter().filter_map(|line| HostKey::parse(line));
        for key in self.with.old.host_keys.iter().cloned().chain(reported) {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        keys
    }

    async fn run(mut self) -> End {
        let mut stop = self.with.stop.clone();
        tokio::select! {
            end = self.look_until_over() => return end,
            // The sender lives as long as the process.
            _ = stop.wait_for(|stop| *stop) => {}
        }
        let run = self.with.run.clone();
        self.with.reporter.sync();
        self.say(Level::Info, format!("detached; the host goes on alone. `anemos attach {run}` follows it again"));
        self.with.reporter.sync();
        End::Detached
    }

    async fn look_until_over(&mut self) -> End {
        loop {
            let next = match self.meet().await {
                Ok(connected) if self.is_going_down(&connected) => Duration::from_millis(200),
                Ok(connected) => match self.greet(connected).await {
                    Some(end) => return end,
                    None => PAUSE,
                },
                Err(ConnectError::HostKey { key, address, .. }) => {
                    self.stranger(&key, &address);
                    PAUSE
                }
                Err(error) => {
                    self.why = error.to_string();
                    Duration::from_millis(200)
                }
            };
            if Instant::now() >= self.deadline {
                let allowance = self.allowance();
                let (ending, reason) =
                    verdict::too_late(&self.goal, &self.known, self.seen.as_ref(), &self.why, allowance);
                return self.over(ending, reason);
            }
            sleep(next.min(self.deadline.saturating_duration_since(Instant::now()))).await;
        }
    }

    /// Waits for somebody with a host key that we know.
    async fn meet(&mut self) -> Result<Connected, ConnectError> {
        let mut keys = vec![self.with.entry.agent_key.clone()];
        keys.extend(self.system_keys());
        let knocking = match self.goal {
            Goal::Boot | Goal::Run => Knocking::BRISK,
            Goal::Leave(_) => Knocking::CALM,
        };
        let reached = ssh::reach(&self.addresses(), knocking, self.since, self.deadline).await?;
        let deadline = self.login_deadline();
        let counters = self.with.reporter.counters();
        ssh::handshake(reached, &Policy::pinned(keys), counters, deadline, &Tuning::default()).await
    }

    fn login_deadline(&self) -> Instant {
        Instant::now() + self.since.elapsed().clamp(LOGIN.0, LOGIN.1)
    }

    /// Whether this is the old system, a moment after it was told to boot another.
    fn is_going_down(&self, connected: &Connected) -> bool {
        self.goal == Goal::Boot && connected.host_key != self.with.entry.agent_key && self.since.elapsed() < OLD_SYSTEM
    }

    fn stranger(&mut self, key: &HostKey, address: &Address) {
        self.seen = Some(Seen::Stranger(key.to_string()));
        if !self.strangers.contains(key) {
            self.strangers.push(key.clone());
            let text = format!(
                "a server at {address} shows the host key {key}, which is neither the agent's nor the host's: it may be an \
                 impostor. Nothing is shown to it; waiting for the right one"
            );
            self.say(Level::Error, text);
        }
    }

    /// Finds out who it is, and acts. `None`: look again.
    async fn greet(&mut self, connected: Connected) -> Option<End> {
        let waited = self.since.elapsed();
        if connected.host_key == self.with.entry.agent_key {
            self.seen = Some(Seen::Agent);
            return match verdict::decide(&self.goal, &self.known, &Seen::Agent, waited) {
                Next::Attach => self.attach(connected).await,
                _ => None,
            };
        }
        let host_key = connected.host_key.clone();
        let user = self.with.entry.user.clone();
        let typing = if self.with.user.may_ask() { TYPING } else { Duration::ZERO };
        let login = connected.authenticate(&user, &self.with.user, self.login_deadline() + typing).await;
        let deadline = self.login_deadline();
        let session = match login {
            Ok(session) => session,
            Err(error) => {
                self.seen = Some(Seen::LockedOut(error.to_string()));
                return None;
            }
        };
        let seen = match look(&session, deadline).await {
            Ok(look) => Seen::System(look),
            Err(why) => Seen::LockedOut(why),
        };
        self.seen = Some(seen.clone());
        let next = verdict::decide(&self.goal, &self.known, &seen, waited);
        tracing::debug!(host = self.with.entry.name, goal = ?self.goal, ?seen, ?waited, ?next, "somebody answers");
        let end = match next {
            Next::Wait | Next::Attach => None,
            Next::Verify => self.verify(&session, &seen, &host_key).await,
            Next::End(ending, reason) => Some(self.over(ending, reason)),
        };
        session.close().await;
        end
    }

    /// Talks to the agent for as long as it is there.
    async fn attach(&mut self, connected: Connected) -> Option<End> {
        let deadline = self.login_deadline();
        let key = Credentials::Run(self.with.run_key.clone());
        let session = match connected.authenticate("root", &key, deadline).await {
            Ok(session) => session,
            Err(error) => {
                self.why = format!("the agent did not let us in: {error}");
                return None;
            }
        };
        let link = match Link::open(&session, self.with.build).await {
            Ok(link) => link,
            Err(parting) => return self.part(parting),
        };
        if self.link_lost {
            self.link_lost = false;
            self.with.reporter.tell(Update::LinkBack);
        }
        let silence = Duration::from_secs(self.with.entry.build_s + 10 * self.with.entry.ack_s) + LEAST;
        let asked = tokio::time::timeout(Duration::ZERO, self.with.wishes.next()).await.ok();
        let mut wish = match asked.as_ref().map(|asked| asked.wish.clone()) {
            None => Wish::Follow,
            Some(super::wish::Wish::Retry(p)) => Wish::Retry(p),
            Some(super::wish::Wish::Abort) => Wish::Abort,
            Some(super::wish::Wish::Finish(f)) => Wish::Finish(f),
        };
        let reporter = self.with.reporter;
        let attachment = Attachment {
            reporter,
            known: &mut self.known,
            last: &mut self.last,
            last_word: &mut self.last_word,
            noted: 0,
            silence,
        };
        let parting = attachment.follow(link, &mut wish).await;
        if let Some(asked) = asked {
            let reporter = self.with.reporter;
            match &parting {
                Parting::Refused(why) => {
                    asked.answered(reporter, Err(why.clone()));
                    session.close().await;
                    return None;
                }
                _ => asked.answered(reporter, Ok(())),
            }
        }
        session.close().await;
        self.part(parting)
    }

    fn part(&mut self, parting: Parting) -> Option<End> {
        tracing::debug!(host = self.with.entry.name, ?parting, "the agent's conversation ended");
        match parting {
            Parting::Lost(why) => {
                if self.known.ram_boot_id.is_some() {
                    if !self.link_lost {
                        self.link_lost = true;
                        self.with.reporter.tell(Update::LinkLost(why));
                    }
                    match (&self.goal, self.known.succeeded) {
                        // Its last word may have been lost with the link.
                        (_, true) => self.set_goal(Goal::Leave(LeaveTo::New(self.with.entry.finish)), Duration::ZERO),
                        // Until now it was heard of.
                        (Goal::Boot | Goal::Run, _) => self.set_goal(Goal::Run, Duration::ZERO),
                        _ => {}
                    }
                } else {
                    self.why = why;
                }
                None
            }
            Parting::Leaving(leaving) => {
                let (to, finish, reason) = match leaving {
                    Leaving::Finish(finish) => (LeaveTo::New(finish), Some(finish), String::new()),
                    Leaving::OldSystem(reason) => (LeaveTo::Old(reason.clone()), None, reason),
                };
                self.with.reporter.record(&Record::Left { wall_ms: now_ms(), finish, reason });
                self.with.reporter.sync();
                if to == LeaveTo::New(Finish::PowerOff) {
                    let reason = if self.known.succeeded {
                        "the payload succeeded and the host was powered off as told, so nobody has seen its new system; \
                         `anemos attach` looks for it once it is on"
                    } else {
                        "the host was powered off as told, without a new system"
                    };
                    return Some(self.over(Ending::Held, reason));
                }
                self.set_goal(Goal::Leave(to), Duration::ZERO);
                None
            }
            Parting::Held(reason) => {
                let host = &self.with.entry.name;
                let hint = if self.known.succeeded {
                    format!("`anemos finish {host}` goes on to the new system, `anemos shell {host}` looks around")
                } else {
                    format!(
                        "look around with `anemos shell {host}`, then `anemos retry {host}`, with a mended --payload if need be, or \
                         leave RAM with `anemos finish {host}`"
                    )
                };
                Some(self.over(Ending::Held, format!("{reason}; {hint}")))
            }
            Parting::Refused(_) => None,
            Parting::Broken(why) => {
                let reason = format!("the agent can't be talked to: {why}");
                Some(self.over(Ending::Held, reason))
            }
        }
    }

    /// The system is up under a key of the host's: is it in order? `None`: look again.
    async fn verify(&mut self, session: &Session, seen: &Seen, host_key: &HostKey) -> Option<End> {
        self.with.reporter.phase(Phase::Verify);
        let Seen::System(look) = seen else { return Some(self.over(Ending::Held, "nothing to verify")) };
        let os = if look.os.is_empty() { "a system without a name".to_owned() } else { look.os.clone() };
        let reported: Vec<HostKey> = self.known.new_keys.iter().filter_map(|line| HostKey::parse(line)).collect();
        if !reported.is_empty() && !reported.contains(host_key) {
            let reason = format!(
                "{os} came up with the old system's host key {host_key}, and not with one of those that the payload left: \
                 check which disk the firmware starts"
            );
            return Some(self.over(Ending::Held, reason));
        }
        if *host_key != self.with.old.proved && !self.with.old.host_keys.contains(host_key) {
            self.say(
                Level::Warning,
                format!("the new system has a host key of its own, {host_key}; known_hosts still has the old one"),
            );
        }
        let Some(check) = self.with.entry.check.clone() else { return Some(self.over(Ending::Deployed, os)) };
        let allowed = Duration::from_secs(self.with.entry.verify_s);
        let deadline = *self.verify_until.get_or_insert_with(|| Instant::now() + allowed);
        let mut told = false;
        loop {
            let result = session.output(&check, 16 * 1024, deadline).await;
            let why = match result {
                Ok((_, _, ssh::Exit::Status(0))) => return Some(self.over(Ending::Deployed, os)),
                Ok((_, stderr, exit)) => {
                    let said = String::from_utf8_lossy(&stderr);
                    format!("{}; {}", exit_text(&exit), said.trim())
                }
                Err(error) => error.to_string(),
            };
            if !told {
                told = true;
                self.say(Level::Info, format!("the check does not succeed yet: {why}"));
            }
            // Services may still be starting, the network among them.
            if timeout_at(deadline, sleep(PAUSE)).await.is_err() || Instant::now() >= deadline {
                let name = crate::config::format_duration(allowed);
                let reason =
                    format!("{os} is up, but the check `{check}` failed until deadline `verify` ({name}): {why}");
                return Some(self.over(Ending::Held, reason));
            }
            if session.is_closed() {
                self.why = format!("the connection was lost during the check `{check}`: {why}");
                // Whoever looks for it again has until the later of the two deadlines.
                self.deadline = self.deadline.max(deadline);
                return None;
            }
        }
    }

    fn over(&mut self, ending: Ending, reason: impl Into<String>) -> End {
        self.with.reporter.payload_succeeded(self.known.succeeded);
        End::Over(Box::new(self.with.reporter.end(ending, reason)))
    }
}
