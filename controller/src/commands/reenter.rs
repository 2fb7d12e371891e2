//! The commands that take up a run again: attach, retry, abort, finish, shell.

use std::sync::Arc;
use std::time::Duration;

use anemos_proto::event::Level;
use anemos_proto::ids::RunId;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::jobs::{self, credentials};
use super::look_back::read;
use super::passphrase::OnTerminal;
use super::up::forget;
use super::{CommandError, Status, status_of, stop_signal};
use crate::cli;
use crate::embed::BUILD;
use crate::engine::agent::Wish;
use crate::engine::{End, Follow, Reporter, follow_again, now_ms, unbooted};
use crate::journal::{
    Appender, Digested, Follower, HostEntry, JournalError, Keep, Lock, OldSystem, Record, RunDir, RunStore, digest,
    is_line,
};
use crate::payload;
use crate::report::{Ending, Report, Summary, Update};
use crate::screen::status::not_known;
use crate::screen::{self, Mode, Screen};
use crate::ssh::{self, Address, Credentials, Exit, Passphrases, Policy, RunKey, Tuning};

/// Time between two looks at a journal that another process writes.
const FOLLOW_EVERY: Duration = Duration::from_millis(250);

/// Of what was told before, this much is shown at once.
const LINES: Keep = Keep::Lines(1000);

/// How long a shell may take to be reached.
const REACH: Duration = Duration::from_secs(30);

pub(super) async fn attach(args: cli::Attach) -> Result<Status, CommandError> {
    let run = RunStore::open()?.find(args.run.as_deref())?;
    let keep = if args.all { Keep::All } else { LINES };
    reenter(&run, None, &|| Wish::Follow, args.json, keep).await
}

pub(super) async fn abort(args: cli::Pick) -> Result<Status, CommandError> {
    let (run, host) = pick(&args)?;
    reenter(&run, host.as_deref(), &|| Wish::Abort, args.json, LINES).await
}

pub(super) async fn retry(args: cli::Retry) -> Result<Status, CommandError> {
    let (run, host) = pick(&args.pick)?;
    let payload = match args.payload {
        None => None,
        Some(dir) => {
            let packed = payload::pack(&dir).map_err(CommandError::bad_input)?;
            let bytes: Arc<[u8]> = packed.bytes.into();
            let size = bytes.len() as u64;
            Some((anemos_proto::ids::BlobRef { digest: jobs::digest(&bytes), size }, bytes))
        }
    };
    reenter(&run, host.as_deref(), &|| Wish::Retry(payload.clone()), args.pick.json, LINES).await
}

pub(super) async fn finish(args: cli::FinishArgs) -> Result<Status, CommandError> {
    let run = run_of(&args.host, args.run.as_deref())?;
    reenter(&run, Some(&args.host), &|| Wish::Finish(args.how.into()), args.json, LINES).await
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
        // A key that can't be read is there all the same; whoever needs it says what is wrong with it.
        let has_key = !matches!(run.key(), Ok(None));
        if has_key && run.load().is_ok_and(|file| file.hosts.iter().any(|entry| entry.name == host)) {
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
    keep: Keep,
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
    let followed = follow(run, hosts, lock, wish, (&asks, keep), reports, &stop).await;
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
    match digested.end() {
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
        match read(run, &host.name).map(|journal| not_in_ram(&journal)) {
            Ok(None) => return Ok(()),
            Ok(Some(why)) => reasons.push(format!("{}: {why}", host.name)),
            Err(error) => reasons.push(format!("{}: {error}", host.name)),
        }
    }
    Err(CommandError::bad_input(reasons.join("\n")))
}

/// What is to be done about a host that somebody takes up again, by its journal alone.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Standing {
    /// It is over, and stays so.
    Over(Box<Summary>),
    /// It was never told to boot: whether all was undone is to be looked at.
    Unbooted,
    /// It was told to boot: it is to be looked for, unless the run's key is gone.
    Booted(Box<OldSystem>),
    /// Nothing is to be concluded, because …: it is held as it is.
    Doubtful(String),
}

/// Decides. `again`: one that is held is to be taken up again.
pub(super) fn standing(journal: &Digested, again: bool) -> Standing {
    match journal.end() {
        // A held host can be taken up again; whatever else is over stays over.
        Some(summary) if summary.outcome != Ending::Held || !again => return Standing::Over(Box::new(summary.clone())),
        _ => {}
    }
    match (&journal.old, journal.boot_sent_ms, &journal.damaged) {
        (Some(old), Some(_), _) => Standing::Booted(Box::new(old.clone())),
        (.., Some(doubt)) => Standing::Doubtful(doubt.clone()),
        (.., None) => Standing::Unbooted,
    }
}

/// How a host ends of which nothing is concluded.
fn doubtful(host: &str, doubt: &str) -> (Ending, String) {
    let reason = format!(
        "{}. `anemos logs` has what can be read. The run's key stays: if the host is in RAM, `anemos shell {host}` \
         reaches it, else look at its console",
        not_known(doubt)
    );
    (Ending::Held, reason)
}

/// How the following of a run ended.
#[derive(Default)]
struct Followed {
    lock: Option<Lock>,
    ends: Vec<Option<Summary>>,
    problems: Vec<String>,
}

/// Follows hosts of a run: as an onlooker while another process has the lock, then by itself. What is wrong with the
/// journal of one host is no reason not to follow the others.
async fn follow(
    run: &RunDir,
    hosts: Vec<HostEntry>,
    lock: Option<Lock>,
    wish: &(dyn Fn() -> Wish + Sync),
    (asks, keep): (&Arc<dyn Passphrases>, Keep),
    reports: mpsc::UnboundedSender<Report>,
    stop: &tokio::sync::watch::Receiver<bool>,
) -> Result<Followed, CommandError> {
    let (lock, watched) = if lock.is_some() {
        (lock, hosts.into_iter().map(Watched::new).collect())
    } else {
        let mut stop = stop.clone();
        tokio::select! {
            seen = look_on(run, hosts, &reports, keep) => seen?,
            _ = stop.wait_for(|stop| *stop) => (None, Vec::new()),
        }
    };
    let mut followed = Followed { lock, ..Followed::default() };
    let key = run.key()?;
    let mut tasks = Vec::new();
    for Watched { host: entry, seen, summary, problem } in watched {
        let name = entry.name.clone();
        if let Some(why) = problem {
            followed.problems.push(format!("{name}: {why}"));
            continue;
        }
        if summary.is_some() {
            followed.ends.push(summary);
            continue;
        }
        let opened = tokio::task::block_in_place(|| Appender::open_seen(&run.journal(&name), keep, seen));
        let (journal, mut digested) = match opened {
            Ok(opened) => opened,
            Err(JournalError::Earlier { .. }) => {
                show_earlier(run, &name, keep, &reports, &mut followed);
                continue;
            }
            Err(error) => {
                followed.problems.push(format!("{name}: {error}"));
                continue;
            }
        };
        mark_left_out(&mut digested, &run.id, &name);
        let reporter = Reporter::new(&name, reports.clone(), journal);
        let (run, key, wish, stop) = (run.id.clone(), key.clone(), wish(), stop.clone());
        let user = credentials(&entry, asks);
        let task = tokio::spawn(async move { take_up(run, (entry, user), digested, reporter, key, wish, stop).await });
        tasks.push((name, task));
    }
    drop(reports);
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

/// Says in what is shown that lines were left out, where the first of the others is.
fn mark_left_out(digested: &mut Digested, run: &RunId, host: &str) {
    if digested.left_out > 0 && digested.seen == 0 {
        let at = digested.told.iter().position(|(_, update)| is_line(update)).unwrap_or(digested.told.len());
        let wall_ms = digested.told.get(at).map_or_else(now_ms, |(wall_ms, _)| *wall_ms);
        digested.told.insert(at, (wall_ms, left_out(digested.left_out, run, host)));
    }
}

fn left_out(lines: u64, run: &RunId, host: &str) -> Update {
    let text = format!(
        "{lines} earlier lines are left out here; `anemos logs {run} {host}` has them, `anemos attach --all {run}` shows all"
    );
    Update::Message(Level::Info, text)
}

/// Shows a host of a run that an earlier version of Anemos began. If it is not over, only that version can go on.
fn show_earlier(
    run: &RunDir,
    host: &str,
    keep: Keep,
    reports: &mpsc::UnboundedSender<Report>,
    followed: &mut Followed,
) {
    let path = run.journal(host);
    let digested = match digest(&path, keep) {
        Ok(digested) => digested,
        Err(error) => return followed.problems.push(format!("{host}: {error}")),
    };
    for (wall_ms, update) in &digested.told {
        // A screen that has gone is no reason to fail.
        let _ = reports.send(Report { host: host.into(), wall_ms: *wall_ms, update: update.clone() });
    }
    match digested.end() {
        Some(summary) if summary.outcome != Ending::Held => followed.ends.push(Some(summary.clone())),
        _ => {
            let format = digested.earlier.unwrap_or_default();
            followed.problems.push(format!("{host}: {}", JournalError::Earlier { path, format }));
        }
    }
}

/// Takes up one host.
async fn take_up(
    run: RunId,
    (entry, user): (HostEntry, Credentials),
    mut digested: Digested,
    mut reporter: Reporter,
    key: Option<RunKey>,
    wish: Wish,
    mut stop: tokio::sync::watch::Receiver<bool>,
) -> Result<End, String> {
    let (sent, received) = digested.counted;
    reporter.counters.add(sent, received);
    if let Some(old) = &digested.old {
        reporter.downloaded = old.downloaded;
        reporter.initramfs = old.initramfs;
    }
    let only_looking = matches!(wish, Wish::Follow);
    // What is wished for all of a run is for those in RAM.
    let in_ram = not_in_ram(&digested).is_none();
    let wish = if in_ram { wish } else { Wish::Follow };
    let standing = standing(&digested, in_ram || only_looking);
    let mut told = std::mem::take(&mut digested.told);
    let seen = std::mem::take(&mut digested.seen);
    if let Standing::Over(summary) = standing {
        reporter.replay(told, seen);
        return Ok(End::Over(summary));
    }
    if digested.summary.take().is_some() {
        reporter.record(&Record::Reopened { wall_ms: now_ms() });
        told.retain(|(_, update)| !matches!(update, Update::Summary(_)));
    }
    reporter.replay(told.clone(), seen);
    digested.told = told;
    let held = |reporter: &mut Reporter, doubt: &str| {
        let (ending, reason) = doubtful(&entry.name, doubt);
        Ok(End::Over(Box::new(reporter.end(ending, reason))))
    };
    let old = match (standing, &key, &digested.damaged) {
        (Standing::Booted(_), None, Some(doubt)) => return held(&mut reporter, doubt),
        (Standing::Booted(old), ..) => *old,
        (Standing::Doubtful(doubt), ..) => return held(&mut reporter, &doubt),
        (Standing::Over(_) | Standing::Unbooted, ..) => {
            // The stage undoes everything when the connection to it ends; but that is not known until somebody looks.
            let counters = Arc::clone(&reporter.counters);
            let boot_id = digested.old_boot_id.as_deref();
            let (ending, reason) = tokio::select! {
                looked = unbooted(&entry, digested.met.as_ref(), boot_id, &user, &counters) => looked,
                _ = stop.wait_for(|stop| *stop) => return Ok(End::Detached),
            };
            return Ok(End::Over(Box::new(reporter.end(ending, reason))));
        }
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
    /// The screen has got what is before so many bytes of the journal.
    seen: u64,
    summary: Option<Summary>,
    /// Why it can't be shown.
    problem: Option<String>,
}

impl Watched {
    fn new(host: HostEntry) -> Self {
        Self { host, seen: 0, summary: None, problem: None }
    }

    /// Shows what is new.
    fn look(&mut self, run: &RunId, journal: &mut Follower, reports: &mpsc::UnboundedSender<Report>) {
        let (told, lines) = match journal.poll() {
            Ok(new) => new,
            Err(error) => {
                self.problem = Some(error.to_string());
                return;
            }
        };
        let host = &self.host.name;
        if lines > 0 {
            let wall_ms = told.first().map_or_else(now_ms, |(wall_ms, _)| *wall_ms);
            let _ = reports.send(Report { host: host.clone(), wall_ms, update: left_out(lines, run, host) });
        }
        for (wall_ms, update) in told {
            // A screen that has gone is no reason to fail.
            let _ = reports.send(Report { host: host.clone(), wall_ms, update });
        }
        self.seen = journal.at();
        self.summary.clone_from(&journal.digested().summary);
    }
}

/// Shows what another process writes, until every host has its summary, or that process is gone and left some without:
/// then with the lock, to go on where it stopped.
async fn look_on(
    run: &RunDir,
    hosts: Vec<HostEntry>,
    reports: &mpsc::UnboundedSender<Report>,
    keep: Keep,
) -> Result<(Option<Lock>, Vec<Watched>), CommandError> {
    let mut watched = Vec::new();
    for host in hosts {
        let journal = Follower::new(&run.journal(&host.name), keep)?;
        watched.push((Watched::new(host), journal));
    }
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
        for (host, journal) in watched.iter_mut().filter(|(host, _)| host.problem.is_none()) {
            tokio::task::block_in_place(|| host.look(&run.id, journal, reports));
        }
        let over = |host: &Watched| host.summary.is_some() || host.problem.is_some();
        if lock.is_some() || watched.iter().all(|(host, _)| over(host)) {
            for (host, _) in watched.iter().filter(|(host, _)| !over(host)) {
                let text = "the other anemos is gone; this one goes on".to_owned();
                let update = Update::Message(Level::Info, text);
                let _ = reports.send(Report { host: host.host.name.clone(), wall_ms: now_ms(), update });
            }
            return Ok((lock, watched.into_iter().map(|(host, _)| host).collect()));
        }
    }
}

pub(super) async fn shell(args: cli::Shell) -> Result<Status, CommandError> {
    let run = run_of(&args.host, args.run.as_deref())?;
    let file = run.load()?;
    let entry = file.hosts.into_iter().find(|entry| entry.name == args.host);
    let entry = entry.ok_or_else(|| CommandError::bad_input(format!("run {} has no host `{}`", run.id, args.host)))?;
    let digested = read(&run, &entry.name)?;
    // Where the journal is damaged, that it knows of no boot proves nothing.
    let agent_port = match digested.old {
        Some(old) => Some(old.agent_port),
        None => digested.damaged.map(|_| entry.address.port),
    };
    let (Some(port), Some(key)) = (agent_port, run.key()?) else {
        return Err(CommandError::bad_input(format!("`{}` is not in RAM in run {}", entry.name, run.id)));
    };
    let address = Address { host: entry.address.host.clone(), port };
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
