//! The commands that take up a run again: attach, retry, abort, finish, shell.

use std::sync::Arc;
use std::time::Duration;

use anemos_proto::event::Level;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::jobs::{credentials, digest};
use super::look_back::read;
use super::passphrase::OnTerminal;
use super::up::forget;
use super::{CommandError, Status, status_of, stop_signal};
use crate::cli;
use crate::embed::BUILD;
use crate::engine::agent::Wish;
use crate::engine::{End, Follow, Reporter, follow_again, now_ms, unbooted};
use crate::journal::{Appender, Digested, Follower, HostEntry, JournalError, Lock, Record, RunDir, RunStore};
use crate::payload;
use crate::report::{Ending, Report, Summary, Update};
use crate::screen::{self, Mode, Screen};
use crate::ssh::{self, Address, Credentials, Exit, Passphrases, Policy, RunKey, Tuning};

/// Time between two looks at a journal that another process writes.
const FOLLOW_EVERY: Duration = Duration::from_millis(250);

/// How long a shell may take to be reached.
const REACH: Duration = Duration::from_secs(30);

pub(super) async fn attach(args: cli::Attach) -> Result<Status, CommandError> {
    let run = RunStore::open()?.find(args.run.as_deref())?;
    reenter(&run, None, &|| Wish::Follow, args.json).await
}

pub(super) async fn abort(args: cli::Pick) -> Result<Status, CommandError> {
    let (run, host) = pick(&args)?;
    reenter(&run, host.as_deref(), &|| Wish::Abort, args.json).await
}

pub(super) async fn retry(args: cli::Retry) -> Result<Status, CommandError> {
    let (run, host) = pick(&args.pick)?;
    let payload = match args.payload {
        None => None,
        Some(dir) => {
            let packed = payload::pack(&dir).map_err(CommandError::bad_input)?;
            let bytes: Arc<[u8]> = packed.bytes.into();
            let size = bytes.len() as u64;
            Some((anemos_proto::stage::BlobRef { digest: digest(&bytes), size }, bytes))
        }
    };
    reenter(&run, host.as_deref(), &|| Wish::Retry(payload.clone()), args.pick.json).await
}

pub(super) async fn finish(args: cli::FinishArgs) -> Result<Status, CommandError> {
    let run = run_of(&args.host, args.run.as_deref())?;
    reenter(&run, Some(&args.host), &|| Wish::Finish(args.how.into()), args.json).await
}

/// The run, and the host if one is named; a single name may be either's.
fn pick(args: &cli::Pick) -> Result<(RunDir, Option<String>), CommandError> {
    let found = RunStore::open()?.find(args.run.as_deref());
    match (found, &args.run, &args.host) {
        (Err(JournalError::NoRun(_)), Some(name), None) => {
            let run = run_of(name, None).map_err(|_| {
                CommandError::bad_input(format!(
                    "there is no run `{name}`, and no run has a host of that name in RAM; `anemos status` lists runs"
                ))
            })?;
            Ok((run, Some(name.clone())))
        }
        (found, ..) => Ok((found?, args.host.clone())),
    }
}

/// The newest run that has the host and its key, or the one named.
fn run_of(host: &str, name: Option<&str>) -> Result<RunDir, CommandError> {
    let store = RunStore::open()?;
    if name.is_some() {
        return Ok(store.find(name)?);
    }
    for run in store.runs()? {
        if run.load().is_ok_and(|file| file.hosts.iter().any(|entry| entry.name == host)) && run.key()?.is_some() {
            return Ok(run);
        }
    }
    Err(CommandError::bad_input(format!("no run has the host `{host}` in RAM; `anemos status` lists runs")))
}

/// Takes up the hosts of a run, with a wish.
async fn reenter(
    run: &RunDir,
    only: Option<&str>,
    wish: &(dyn Fn() -> Wish + Sync),
    json: bool,
) -> Result<Status, CommandError> {
    let file = run.load()?;
    if let Some(name) = only
        && !file.hosts.iter().any(|host| host.name == name)
    {
        return Err(CommandError::bad_input(format!("run {} has no host `{name}`", run.id)));
    }
    let following = matches!(wish(), Wish::Follow);
    let lock = match run.lock() {
        Ok(lock) => Some(lock),
        Err(error @ JournalError::Locked { .. }) if following => {
            eprintln!("{error}; showing what it writes down");
            None
        }
        Err(error @ JournalError::Locked { .. }) => {
            let hint = "Ctrl-C there only detaches it: do that, then try again";
            return Err(CommandError { status: Status::BadInput, message: format!("{error}. {hint}") });
        }
        Err(error) => return Err(error.into()),
    };
    let hosts: Vec<HostEntry> =
        file.hosts.iter().filter(|host| only.is_none_or(|name| host.name == name)).cloned().collect();
    if !following {
        some_in_ram(run, &hosts)?;
    }
    let names: Vec<String> = hosts.iter().map(|host| host.name.clone()).collect();
    let stop = stop_signal()?;
    let (reports, received) = mpsc::unbounded_channel();
    let (control, requests) = screen::control();
    let screen = Screen::new(Mode::pick(json), Some(run.id.as_str()), &names);
    let screen = tokio::spawn(screen::run_controlled(screen, received, requests));
    let asks: Arc<dyn Passphrases> = Arc::new(OnTerminal(control));
    let followed = follow(run, hosts, lock, wish, &asks, reports, &stop).await;
    screen.await.map_err(CommandError::internal)?;
    let Followed { lock, ends, problems } = followed?;
    if lock.is_some() {
        forget(run, &file.hosts);
    }
    if !problems.is_empty() {
        return Err(CommandError { status: Status::NotAll, message: problems.join("\n") });
    }
    Ok(status_of(&ends, &[], *stop.borrow()))
}

/// Why a host can't be in RAM any more.
fn not_in_ram(digested: &Digested) -> Option<String> {
    match &digested.summary {
        Some(summary) if summary.outcome != Ending::Held => {
            Some(format!("the host is {} already: {}", summary.outcome, summary.reason))
        }
        _ if digested.left.is_some() => {
            Some("the host has left RAM already; `anemos attach` looks where it is now".into())
        }
        _ => None,
    }
}

/// An error with the reasons if none of the hosts can be in RAM.
fn some_in_ram(run: &RunDir, hosts: &[HostEntry]) -> Result<(), CommandError> {
    let mut reasons = Vec::new();
    for host in hosts {
        match not_in_ram(&read(run, &host.name)?) {
            Some(why) => reasons.push(format!("{}: {why}", host.name)),
            None => return Ok(()),
        }
    }
    Err(CommandError::bad_input(reasons.join("\n")))
}

/// How the following of a run ended.
struct Followed {
    lock: Option<Lock>,
    ends: Vec<Option<Summary>>,
    problems: Vec<String>,
}

/// Follows hosts of a run: as an onlooker while another process has the lock, then by itself.
async fn follow(
    run: &RunDir,
    hosts: Vec<HostEntry>,
    lock: Option<Lock>,
    wish: &(dyn Fn() -> Wish + Sync),
    asks: &Arc<dyn Passphrases>,
    reports: mpsc::UnboundedSender<Report>,
    stop: &tokio::sync::watch::Receiver<bool>,
) -> Result<Followed, CommandError> {
    let (lock, watched) = if lock.is_some() {
        (lock, hosts.into_iter().map(|host| Watched::new(run, host)).collect())
    } else {
        let mut stop = stop.clone();
        tokio::select! {
            seen = look_on(run, hosts, &reports) => seen?,
            _ = stop.wait_for(|stop| *stop) => (None, Vec::new()),
        }
    };
    let mut followed = Followed { lock, ends: Vec::new(), problems: Vec::new() };
    let key = run.key()?;
    let mut taken = Vec::new();
    for Watched { host, shown, summary, .. } in watched {
        if summary.is_some() {
            followed.ends.push(summary);
        } else {
            let journal = Appender::open(&run.journal(&host.name))?;
            taken.push((host, shown, journal));
        }
    }
    let mut tasks = Vec::new();
    for (entry, shown, (journal, digested)) in taken {
        let reporter = Reporter::new(&entry.name, all_but(shown, reports.clone()), journal);
        let (run, key, wish, stop) = (run.id.clone(), key.clone(), wish(), stop.clone());
        let name = entry.name.clone();
        let user = credentials(&entry, asks);
        let task = tokio::spawn(async move { take_up(run, (entry, user), digested, reporter, key, wish, stop).await });
        tasks.push((name, task));
    }
    for (name, task) in tasks {
        match task.await {
            Ok(Ok(End::Over(summary))) => followed.ends.push(Some(*summary)),
            Ok(Ok(End::Detached)) => followed.ends.push(None),
            Ok(Ok(End::Refused(why)) | Err(why)) => followed.problems.push(format!("{name}: {why}")),
            Err(error) => followed.problems.push(format!("{name}: {error}")),
        }
    }
    Ok(followed)
}

/// Takes up one host.
async fn take_up(
    run: anemos_proto::ids::RunId,
    (entry, user): (HostEntry, Credentials),
    mut digested: Digested,
    mut reporter: Reporter,
    key: Option<RunKey>,
    wish: Wish,
    stop: tokio::sync::watch::Receiver<bool>,
) -> Result<End, String> {
    let (sent, received) = digested.counted;
    reporter.counters.add(sent, received);
    if let Some(old) = &digested.old {
        reporter.downloaded = old.downloaded;
        reporter.initramfs = old.initramfs;
    }
    let mut told = std::mem::take(&mut digested.told);
    let only_looking = matches!(wish, Wish::Follow);
    // What is wished for all of a run is for those in RAM.
    let in_ram = not_in_ram(&digested).is_none();
    let wish = if in_ram { wish } else { Wish::Follow };
    let summary = digested.summary.take();
    if let Some(summary) = summary {
        // A held host can be taken up again; whatever else is over stays over.
        if summary.outcome != Ending::Held || !(in_ram || only_looking) {
            reporter.replay(told);
            return Ok(End::Over(Box::new(summary)));
        }
        reporter.record(&Record::Reopened { wall_ms: now_ms() });
        told.retain(|(_, update)| !matches!(update, Update::Summary(_)));
    }
    reporter.replay(told.clone());
    digested.told = told;
    let (Some(old), Some(_)) = (digested.old.clone(), digested.boot_sent_ms) else {
        // The stage undoes everything when the connection to it ends; but that is not known until somebody looks.
        let boot_id = digested.told.iter().rev().find_map(|(_, update)| match update {
            Update::Facts(facts) => Some(facts.boot_id.clone()),
            _ => None,
        });
        let counters = Arc::clone(&reporter.counters);
        let (ending, reason) = unbooted(&entry, digested.met.as_ref(), boot_id.as_deref(), &user, &counters).await;
        return Ok(End::Over(Box::new(reporter.end(ending, reason))));
    };
    let Some(run_key) = key else { return Err("the run is over, and its key was deleted".into()) };
    if let Wish::Retry(Some(_)) = &wish {
        reporter.say(Level::Info, "sending the new payload");
    }
    let follow = Follow { run, entry: &entry, old, run_key, user, reporter: &mut reporter, wish, stop, build: BUILD };
    Ok(follow_again(follow, &digested).await)
}

/// A host, as far as its journal has been shown.
struct Watched {
    host: HostEntry,
    journal: Follower,
    /// Reports that the screen has got.
    shown: usize,
    summary: Option<Summary>,
}

impl Watched {
    fn new(run: &RunDir, host: HostEntry) -> Self {
        let journal = Follower::new(run.journal(&host.name), 0);
        Self { host, journal, shown: 0, summary: None }
    }

    /// Shows what is new.
    fn look(&mut self, reports: &mpsc::UnboundedSender<Report>) -> Result<(), JournalError> {
        for record in self.journal.poll()? {
            match record {
                Record::Told { wall_ms, update } => {
                    if let Update::Summary(end) = &update {
                        self.summary = Some((**end).clone());
                    }
                    self.shown += 1;
                    // A screen that has gone is no reason to fail.
                    let _ = reports.send(Report { host: self.host.name.clone(), wall_ms, update });
                }
                Record::Reopened { .. } => self.summary = None,
                _ => {}
            }
        }
        Ok(())
    }
}

/// Shows what another process writes, until every host has its summary, or that process is gone and left some without:
/// then with the lock, to go on where it stopped.
async fn look_on(
    run: &RunDir,
    hosts: Vec<HostEntry>,
    reports: &mpsc::UnboundedSender<Report>,
) -> Result<(Option<Lock>, Vec<Watched>), CommandError> {
    let mut watched: Vec<Watched> = hosts.into_iter().map(|host| Watched::new(run, host)).collect();
    let mut ticks = tokio::time::interval(FOLLOW_EVERY);
    loop {
        ticks.tick().await;
        let lock = match run.follower() {
            Some(_) => None,
            None => match run.lock() {
                Ok(lock) => Some(lock),
                // Somebody else was quicker.
                Err(JournalError::Locked { .. }) => None,
                Err(error) => return Err(error.into()),
            },
        };
        // After the lock: nobody writes any more, so this sees the last word.
        for host in &mut watched {
            host.look(reports)?;
        }
        if lock.is_some() || watched.iter().all(|host| host.summary.is_some()) {
            for host in watched.iter().filter(|host| host.summary.is_none()) {
                let text = "the other anemos is gone; this one goes on".to_owned();
                let update = Update::Message(Level::Info, text);
                let _ = reports.send(Report { host: host.host.name.clone(), wall_ms: now_ms(), update });
            }
            return Ok((lock, watched));
        }
    }
}

/// A way to the screen that leaves out the first so many reports, which it has got already.
fn all_but(first: usize, screen: mpsc::UnboundedSender<Report>) -> mpsc::UnboundedSender<Report> {
    if first == 0 {
        return screen;
    }
    let (reports, mut received) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        for _ in 0..first {
            received.recv().await;
        }
        while let Some(report) = received.recv().await {
            // A screen that has gone is no reason to fail.
            let _ = screen.send(report);
        }
    });
    reports
}

pub(super) async fn shell(args: cli::Shell) -> Result<Status, CommandError> {
    let run = run_of(&args.host, args.run.as_deref())?;
    let file = run.load()?;
    let entry = file.hosts.into_iter().find(|entry| entry.name == args.host);
    let entry = entry.ok_or_else(|| CommandError::bad_input(format!("run {} has no host `{}`", run.id, args.host)))?;
    let digested: Digested = read(&run, &entry.name)?;
    let (Some(old), Some(key)) = (digested.old, run.key()?) else {
        return Err(CommandError::bad_input(format!("`{}` is not in RAM in run {}", entry.name, run.id)));
    };
    let address = Address { host: entry.address.host.clone(), port: old.agent_port };
    let deadline = Instant::now() + REACH;
    let policy = Policy::pinned(vec![entry.agent_key.clone()]);
    let failed = |what: &dyn std::fmt::Display| CommandError {
        status: Status::NotAll,
        message: format!("{}: the RAM system can't be reached: {what}", entry.name),
    };
    let counters = Arc::default();
    let connected =
        ssh::connect(&address, &policy, &counters, deadline, &Tuning::default()).await.map_err(|e| failed(&e))?;
    let session = connected.authenticate("root", &Credentials::Run(key), deadline).await.map_err(|e| failed(&e))?;
    let command = (!args.command.is_empty()).then(|| args.command.join(" "));
    let exit = ssh::interactive(&session, command.as_deref()).await.map_err(|e| failed(&e))?;
    session.close().await;
    // The status of what ran there is the status here, as with ssh.
    match exit {
        Exit::Status(0) => Ok(Status::Done),
        Exit::Status(status) => std::process::exit(i32::try_from(status).unwrap_or(255).clamp(1, 255)),
        Exit::Signal(_) | Exit::Unknown => std::process::exit(255),
    }
}

#[cfg(test)]
mod tests;
