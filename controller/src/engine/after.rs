//! After the boot: does for one host what its [`Machine`] decides, and tells it what came of that.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anemos_proto::event::Level;
use anemos_proto::ids::RunId;
use tokio::sync::{Mutex, watch as signal};
use tokio::time::{Instant, sleep_until};

use super::agent::{Link, Outgoing, Parting};
use super::before::TYPING;
use super::check::Checks;
use super::look::{exit_text, look};
use super::machine::{Action, Input, Machine, Mark, Setup, Whom};
use super::password::Passwords;
use super::reporter::{Reporter, now_ms};
use super::stop::Stop;
use super::wish::{Asked, Asker, Wishes};
use super::withdraw;
use crate::journal::{Digested, HostEntry, OldSystem, Record};
use crate::patience::Clock;
use crate::report::{Speaker, Summary, Update};
use crate::ssh::{
    self, Address, AuthError, ConnectError, Connected, Credentials, Exit, Knocking, Policy, Reached, RunKey, Session,
    Tuning,
};

/// How the following of a host ended.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// It is over, and this is how.
    Over(Box<Summary>),
    /// The user turned away; the host goes on.
    Detached,
}

/// How long the other addresses of a host are knocked at where a stranger answers at one of them.
const ELSEWHERE: Duration = Duration::from_secs(10);

/// At most so many bytes of what a check prints are read.
const CHECK_LIMIT: usize = 16 * 1024;

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
    /// The passwords with which users become root, of all hosts.
    pub passwords: Arc<Passwords>,
    /// To tell everything to.
    pub reporter: &'a Reporter,
    /// What people want.
    pub wishes: Wishes,
    /// Whether the user wants to leave.
    pub stop: signal::Receiver<Stop>,
    /// Our build id.
    pub build: &'a str,
}

/// Follows a host from the stage's last word.
pub async fn follow_boot(with: Follow<'_>, last_word: Instant) -> End {
    let (machine, actions) = Machine::booted(with.setup(), last_word.elapsed());
    Following::new(with, machine, last_word).run(actions).await
}

/// Follows a host from what its journal says.
pub async fn follow_again(with: Follow<'_>, journal: Digested) -> End {
    let (machine, actions) = Machine::again(with.setup(), &journal, now_ms());
    // All that was told is in it.
    drop(journal);
    Following::new(with, machine, Instant::now()).run(actions).await
}

impl Follow<'_> {
    fn setup(&self) -> Setup {
        let typing = if self.user.may_ask() { TYPING } else { Duration::ZERO };
        Setup { run: self.run.clone(), entry: self.entry.clone(), old: self.old.clone(), typing }
    }
}

/// Something that takes its time, and what it comes to.
type Task = Pin<Box<dyn Future<Output = (Other, Input)> + Send>>;

/// Whoever is at the other end.
enum Other {
    Nobody,
    /// Something is being done with them.
    Busy(Task),
    /// A server that speaks.
    Reached(Reached),
    /// One that proved its host key.
    Proved(Connected),
    /// Agent or system, logged in.
    Admitted(Session),
    /// The agent, talked to.
    Agent(Session, Link, Outgoing),
}

impl Other {
    /// What comes of what is being done, or what the agent says. Safe to drop and call again.
    async fn next(&mut self) -> Input {
        match self {
            Self::Busy(task) => {
                let (other, input) = task.await;
                *self = other;
                input
            }
            Self::Agent(_, link, outgoing) => tokio::select! {
                reply = link.reply() => match reply {
                    Ok(reply) => Input::Reply(reply),
                    Err(parting) => parting.into(),
                },
                parting = outgoing.stalled() => parting.into(),
            },
            Self::Nobody | Self::Reached(_) | Self::Proved(_) | Self::Admitted(_) => std::future::pending().await,
        }
    }

    async fn hang_up(self) {
        match self {
            Self::Agent(session, _, outgoing) => {
                outgoing.flush().await;
                session.close().await;
            }
            Self::Admitted(session) => session.close().await,
            Self::Nobody | Self::Busy(_) | Self::Reached(_) | Self::Proved(_) => {}
        }
    }
}

impl From<Parting> for Input {
    fn from(parting: Parting) -> Self {
        match parting {
            Parting::Lost(why) => Self::Lost(why),
            Parting::Broken(why) => Self::Broken(why),
        }
    }
}

/// The following of one host.
struct Following<'a> {
    with: Follow<'a>,
    machine: Machine,
    /// The machine's time. It waits for the host only while this process runs.
    clock: Clock,
    other: Other,
    /// Where the answers to wishes go, the oldest first.
    askers: VecDeque<Asker>,
    /// What the machine was told of a user who wants to leave.
    heard: Stop,
    /// How many of [`users`] the system has refused: the next one is tried, and after the last the first again.
    refused: Arc<AtomicUsize>,
    /// How the checks become root.
    checks: Arc<Mutex<Checks>>,
    /// Where a stranger answered the last knock: the next one is for the host's other addresses.
    stranger_at: Option<Address>,
    /// Where a system was met last.
    system_at: Option<Address>,
    /// That the system is at its new address was told.
    told_address: bool,
}

impl<'a> Following<'a> {
    fn new(with: Follow<'a>, machine: Machine, began: Instant) -> Self {
        let checks = Checks::new(&with.passwords, &with.entry.name);
        Self {
            with,
            machine,
            clock: Clock::new(began),
            other: Other::Nobody,
            askers: VecDeque::new(),
            heard: Stop::No,
            refused: Arc::default(),
            checks: Arc::new(Mutex::new(checks)),
            stranger_at: None,
            system_at: None,
            told_address: false,
        }
    }

    async fn run(mut self, mut actions: Vec<Action>) -> End {
        loop {
            if let Some(end) = self.perform_all(actions).await {
                return end;
            }
            let input = self.next().await;
            actions = self.step(input);
        }
    }

    fn step(&mut self, input: Input) -> Vec<Action> {
        let now = self.clock.look();
        match &input {
            Input::Reply(reply) => tracing::trace!(host = self.with.entry.name, ?now, ?reply, "the agent says"),
            input => tracing::debug!(host = self.with.entry.name, ?now, ?input, "following"),
        }
        match (&input, &self.other) {
            (Input::Stranger { address, .. }, _) => self.stranger_at = Some(address.clone()),
            (Input::Proved(key), Other::Proved(connected)) if *key != self.with.entry.agent_key => {
                let address = connected.address.clone();
                self.tell_address(&address);
                self.system_at = Some(address);
            }
            _ => {}
        }
        self.machine.step(now, input)
    }

    /// Waits for what happens next.
    async fn next(&mut self) -> Input {
        let Self { with: Follow { wishes, stop, .. }, machine, clock, other, askers, heard, .. } = self;
        let told = *heard;
        let deadline = machine.deadline();
        loop {
            let look = deadline.map_or(clock.next_look(), |at| clock.moment(at).min(clock.next_look()));
            tokio::select! {
                input = other.next() => return input,
                Asked { wish, asker } = wishes.next() => {
                    askers.push_back(asker);
                    return Input::Wished(wish);
                }
                () = sleep_until(look) => {
                    let now = clock.look();
                    if deadline.is_some_and(|at| now >= at) {
                        return Input::Clock;
                    }
                }
                said = async { stop.wait_for(|stop| *stop > told).await.map_or(Stop::Now, |stop| *stop) } => {
                    *heard = said;
                    return if said == Stop::Now { Input::LeaveNow } else { Input::Leave };
                }
            }
        }
    }

    /// Does all of it, and what follows at once from it.
    async fn perform_all(&mut self, actions: Vec<Action>) -> Option<End> {
        let mut actions = VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            match action {
                Action::HangUp => std::mem::replace(&mut self.other, Other::Nobody).hang_up().await,
                Action::End { ending, reason, succeeded } => {
                    self.with.reporter.payload_succeeded(succeeded);
                    return Some(End::Over(Box::new(self.with.reporter.end(ending, reason))));
                }
                Action::Detach => return Some(End::Detached),
                Action::MakeSafe(mark) => {
                    let input = if self.is_safe(mark) { Input::Safe(mark) } else { Input::NotSafe };
                    actions.extend(self.step(input));
                }
                Action::Send(request) => {
                    if let Other::Agent(.., outgoing) = &self.other
                        && let Err(parting) = outgoing.request(&request)
                    {
                        actions.extend(self.step(parting.into()));
                    }
                }
                Action::SendPayload(payload) => {
                    if let Other::Agent(.., outgoing) = &self.other {
                        outgoing.payload(payload);
                    }
                }
                Action::Answer(answer) => {
                    if let Some(asker) = self.askers.pop_front() {
                        asker.answered(self.with.reporter, answer);
                    }
                }
                Action::Knock { .. }
                | Action::Prove { .. }
                | Action::LogIn { .. }
                | Action::Look { .. }
                | Action::Check { .. }
                | Action::Withdraw { .. }
                | Action::Open => self.start(action),
                action => {
                    self.tell(action);
                    if let Some(why) = self.with.reporter.flooded() {
                        actions.extend(self.step(Input::Broken(why)));
                    }
                }
            }
        }
        None
    }

    fn is_safe(&mut self, mark: Mark) -> bool {
        match mark.attempt {
            Some(attempt) => self.with.reporter.attempt(attempt),
            None => self.with.reporter.sync(),
        }
    }

    fn tell(&mut self, action: Action) {
        let reporter = self.with.reporter;
        match action {
            Action::Fact(event) => reporter.tell(Update::Event(Speaker::Agent, event)),
            Action::Progress(progress) => reporter.tell(Update::Progress(Speaker::Agent, progress)),
            Action::Say(level, text) => reporter.say(level, text),
            Action::LinkLost(why) => reporter.tell(Update::LinkLost(why)),
            Action::LinkBack => reporter.tell(Update::LinkBack),
            Action::Phase(phase) => reporter.phase(phase),
            Action::FirstEvent(after) => reporter.first_event(after.as_secs_f64()),
            Action::Ram(boot_id) => reporter.record(&Record::Ram { boot_id }),
            Action::Verified(os) => {
                reporter.record(&Record::Verified { os });
                // Where it can't be made safe, whoever goes on has to find the key or another one.
                reporter.sync();
            }
            Action::Left { finish, reason } => reporter.record(&Record::Left { wall_ms: now_ms(), finish, reason }),
            other => debug_assert!(false, "nothing to tell: {other:?}"),
        }
    }

    /// Starts what takes its time with whoever is at the other end.
    fn start(&mut self, action: Action) {
        let other = std::mem::replace(&mut self.other, Other::Nobody);
        let started = match (action, other) {
            (Action::Knock { calm, waited, patience }, _) => Some(self.knock(calm, waited, patience)),
            (Action::Prove { keys, patience }, Other::Reached(reached)) => {
                let counters = Arc::clone(self.with.reporter.counters());
                let deadline = Instant::now() + patience;
                Some(boxed(async move {
                    match ssh::handshake(reached, &Policy::pinned(keys), &counters, deadline, &Tuning::default()).await
                    {
                        Ok(connected) => {
                            let key = connected.host_key.clone();
                            (Other::Proved(connected), Input::Proved(key))
                        }
                        Err(ConnectError::HostKey { key, address, .. }) => {
                            (Other::Nobody, Input::Stranger { key, address })
                        }
                        Err(error) => (Other::Nobody, Input::Unreached(error.to_string())),
                    }
                }))
            }
            (Action::LogIn { whom, patience }, Other::Proved(connected)) => {
                let (user, credentials) = match whom {
                    Whom::Agent => ("root", Credentials::Run(self.with.run_key.clone())),
                    Whom::System(_) => self.login(),
                };
                let user = user.to_owned();
                let others = matches!(whom, Whom::System(_)).then(|| Arc::clone(&self.refused));
                let deadline = Instant::now() + patience;
                Some(boxed(async move {
                    match connected.authenticate(&user, &credentials, deadline).await {
                        Ok(session) => (Other::Admitted(session), Input::Admitted),
                        Err(error) => {
                            if let (Some(refused), AuthError::Refused { .. }) = (others, &error) {
                                refused.fetch_add(1, Ordering::Relaxed);
                            }
                            (Other::Nobody, Input::LockedOut(error.to_string()))
                        }
                    }
                }))
            }
            (Action::Look { patience }, Other::Admitted(session)) => {
                let deadline = Instant::now() + patience;
                Some(boxed(async move {
                    let looked = look(&session, deadline).await;
                    (Other::Admitted(session), Input::Looked(looked))
                }))
            }
            (Action::Check { command, patience }, Other::Admitted(session)) => {
                let deadline = Instant::now() + patience;
                let (user, becomes) = (self.user().to_owned(), self.with.entry.becomes);
                let checks = Arc::clone(&self.checks);
                Some(boxed(async move {
                    let result = match user.as_str() {
                        "root" => check(&session, &command, deadline).await,
                        user => checks.lock().await.run(&session, (user, becomes), &command, deadline).await,
                    };
                    let closed = session.is_closed();
                    (Other::Admitted(session), Input::Checked { result, closed })
                }))
            }
            (Action::Withdraw { patience }, Other::Admitted(session)) => {
                let deadline = Instant::now() + patience;
                let (user, becomes) = (self.user().to_owned(), self.with.entry.becomes);
                let (checks, key) = (Arc::clone(&self.checks), self.with.run_key.clone());
                let counters = Arc::clone(self.with.reporter.counters());
                let address = self.system_at.clone().unwrap_or_else(|| self.with.entry.address.clone());
                let host_key = session.host_key.clone();
                Some(boxed(async move {
                    // What it did is seen below.
                    let done = match user.as_str() {
                        "root" => check(&session, &withdraw::command(&key.public()), deadline).await,
                        user => {
                            let script = withdraw::script(&key.public());
                            checks.lock().await.run(&session, (user, becomes), &script, deadline).await
                        }
                    };
                    tracing::debug!(?done, "the run's key is taken away from the new system");
                    let refused = withdraw::is_refused(address, host_key, key, &counters, deadline).await;
                    (Other::Admitted(session), Input::Withdrawn(refused))
                }))
            }
            (Action::Open, Other::Admitted(session)) => {
                let build = self.with.build.to_owned();
                Some(boxed(async move {
                    match Link::open(&session, &build).await {
                        Ok(link) => {
                            let outgoing = link.outgoing();
                            (Other::Agent(session, link, outgoing), Input::Opened)
                        }
                        Err(parting) => (Other::Admitted(session), parting.into()),
                    }
                }))
            }
            (action, _) => {
                debug_assert!(false, "nobody is there for {action:?}");
                None
            }
        };
        if let Some(task) = started {
            self.other = Other::Busy(task);
        }
    }

    /// Who logs into the system next, or is in.
    fn user(&self) -> &str {
        self.login().0
    }

    /// The same with the keys that are shown: first the run's own, where it is to open the new system.
    fn login(&self) -> (&str, Credentials) {
        let users = users(self.with.entry);
        let by_run = usize::from(self.with.entry.verify_key);
        match (self.refused.load(Ordering::Relaxed) % (users.len() + by_run)).checked_sub(by_run) {
            Some(place) => (users[place], self.with.user.clone()),
            None => ("root", Credentials::Run(self.with.run_key.clone())),
        }
    }

    /// Says once that a system is not where the old one was.
    fn tell_address(&mut self, address: &Address) {
        let entry = self.with.entry;
        if entry.new_address.as_ref() == Some(address) && *address != entry.address && !self.told_address {
            self.told_address = true;
            let text = format!("the host is at {address} now: the next deployment needs that as its `address`");
            self.with.reporter.say(Level::Info, text);
        }
    }

    fn knock(&mut self, calm: bool, waited: Duration, mut patience: Duration) -> Task {
        let Follow { entry, old, .. } = &self.with;
        let mut addresses = addresses(entry, old.agent_port, calm);
        // Whoever has taken over the old address must not keep the new system from being found.
        let elsewhere = others(&addresses, self.stranger_at.take().as_ref());
        if !elsewhere.is_empty() {
            addresses = elsewhere;
            patience = patience.min(ELSEWHERE);
        }
        let now = Instant::now();
        // A machine that was started after the waiting began has no time from before.
        let (since, deadline) = (now.checked_sub(waited).unwrap_or(now), now + patience);
        let knocking = if calm { Knocking::CALM } else { Knocking::BRISK };
        boxed(async move {
            match ssh::reach(&addresses, knocking, since, deadline).await {
                Ok(reached) => (Other::Reached(reached), Input::Spoke),
                Err(error) => (Other::Nobody, Input::Unreached(error.to_string())),
            }
        })
    }
}

/// Where agent and systems may be. A new system is looked for once the agent leaves.
fn addresses(entry: &HostEntry, agent_port: u16, leaves: bool) -> Vec<Address> {
    let system = entry.address.clone();
    let mut addresses = vec![Address { port: agent_port, ..system.clone() }, system];
    addresses.extend(entry.new_address.clone().filter(|_| leaves));
    addresses.dedup();
    addresses
}

/// The addresses where the stranger is not; none if there was none.
fn others(addresses: &[Address], stranger_at: Option<&Address>) -> Vec<Address> {
    let other = |address: &&Address| stranger_at.is_some_and(|at| at != *address);
    addresses.iter().filter(other).cloned().collect()
}

fn boxed(task: impl Future<Output = (Other, Input)> + Send + 'static) -> Task {
    Box::pin(task)
}

/// Who may log into the system that a host runs next: the new one's user, who may not be there yet; the old one's; and
/// root, since a new system may have none of these.
fn users(entry: &HostEntry) -> Vec<&str> {
    let mut users: Vec<&str> = Vec::new();
    for user in entry.new_user.as_deref().into_iter().chain([entry.user.as_str(), "root"]) {
        if !users.contains(&user) {
            users.push(user);
        }
    }
    users
}

/// Runs the user's check once.
async fn check(session: &Session, command: &str, deadline: Instant) -> Result<(), String> {
    match session.output(command, CHECK_LIMIT, deadline).await {
        Ok((_, _, Exit::Status(0))) => Ok(()),
        Ok((_, stderr, exit)) => {
            let said = String::from_utf8_lossy(&stderr);
            Err(format!("{}; {}", exit_text(&exit), said.trim()))
        }
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::samples;
    use crate::ssh::Way;

    #[test]
    fn users_in_the_order_in_which_they_are_tried() {
        let mut entry = samples::run_file("20260101-000000-0000", &["web"]).hosts.remove(0);
        assert_eq!(users(&entry), ["root"]);
        entry.user = "ubuntu".into();
        assert_eq!(users(&entry), ["ubuntu", "root"]);
        entry.new_user = Some("admin".into());
        assert_eq!(users(&entry), ["admin", "ubuntu", "root"]);
        entry.new_user = Some("root".into());
        assert_eq!(users(&entry), ["root", "ubuntu"]);
    }

    #[test]
    fn a_stranger_at_one_address_leaves_the_others() {
        let at = |host: &str, port| Address { host: host.into(), port, way: Way::Direct };
        let mut entry = samples::run_file("20260101-000000-0000", &["web"]).hosts.remove(0);
        (entry.address, entry.new_address) = (at("old", 22), Some(at("new", 22)));
        assert_eq!(addresses(&entry, 22, false), [at("old", 22)]);
        assert_eq!(addresses(&entry, 2222, false), [at("old", 2222), at("old", 22)]);
        let all = addresses(&entry, 2222, true);
        assert_eq!(all, [at("old", 2222), at("old", 22), at("new", 22)]);
        assert!(others(&all, None).is_empty());
        assert_eq!(others(&all, Some(&at("old", 22))), [at("old", 2222), at("new", 22)]);
        // A host with one address has no other.
        assert!(others(&[at("old", 22)], Some(&at("old", 22))).is_empty());
    }
}
