//! Takes up the run of a daemon again, after the daemon was started again: hosts that were told to boot are followed
//! on, and those that waited for their turn wait for it again.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anemos_proto::event::{EventKind, Outcome};
use tokio::sync::{Semaphore, mpsc, oneshot, watch as signal};

use super::begin::{Ended, Tasks};
use super::describe::Secrets;
use super::error::RunError;
use super::forget;
use super::host::{Busy, attend_from};
use super::inbox::{Inbox, Pleas};
use super::jobs::{Common, credentials};
use super::member::{Again, Member, Task};
use super::order::Kept;
use crate::embed;
use crate::engine::{
    Asked, Decision, End, Fleet, Gate, Job, Passwords, Reporter, Seat, Stood, Stop, Wish, became, drive,
};
use crate::journal::{Appender, Digested, HostEntry, Keep, Lock, RunDir, digest};
use crate::plan::{Approval, Plan};
use crate::report::{Ending, Feed, Speaker, Update};
use crate::ssh::Passphrases;

/// A run that was taken up again.
pub struct Resumed {
    /// Where its hosts take wishes.
    pub pleas: Pleas,
    /// Those that wait for what was in the memory of the process before, by their names.
    pub wanting: Wanting,
    run: RunDir,
    hosts: Vec<HostEntry>,
    tasks: Tasks,
    ended: Ended,
    _lock: Lock,
    _inbox: Option<Inbox>,
}

/// Hosts that wait for their secrets.
#[derive(Debug, Clone, Default)]
pub struct Wanting(Arc<Mutex<BTreeMap<String, Wants>>>);

#[derive(Debug)]
struct Wants {
    /// The files that hosts.toml named, by the names of the secrets.
    files: BTreeMap<String, PathBuf>,
    /// The command that opens those of an IMGBUILD.
    reveal: Option<String>,
    give: oneshot::Sender<Secrets>,
}

impl Wanting {
    /// Which hosts want secrets: the files that hosts.toml named, by host and name.
    pub fn hosts(&self) -> BTreeMap<String, BTreeMap<String, PathBuf>> {
        let wanting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever was stopped meanwhile wants nothing any more.
        let open = wanting.iter().filter(|(_, wants)| !wants.give.is_closed());
        open.map(|(host, wants)| (host.clone(), wants.files.clone())).collect()
    }

    /// The commands by which hosts' secrets are opened, by host.
    pub fn reveals(&self) -> BTreeMap<String, String> {
        let wanting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        wanting.iter().filter_map(|(host, wants)| Some((host.clone(), wants.reveal.clone()?))).collect()
    }

    /// Gives a host its secrets. An error says why it does not take them.
    pub fn give(&self, host: &str, secrets: Secrets) -> Result<(), String> {
        let mut wanting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wants = wanting.get(host).ok_or_else(|| format!("{host} wants no secrets"))?;
        if let Some(lacking) = wants.files.keys().find(|name| !secrets.files.contains_key(*name)) {
            return Err(format!("{host} wants the secret `{lacking}` too"));
        }
        let wants = wanting.remove(host).map(|wants| wants.give.send(secrets).is_ok());
        if wants == Some(true) { Ok(()) } else { Err(format!("{host} is over")) }
    }
}

/// What is to be done about a host, by its journal.
enum Next {
    /// Nothing: it is over.
    Nothing,
    /// It is held, and stays at hand.
    AtHand(Box<crate::report::Summary>),
    /// It is to be deployed as this was approved, and was not told to boot.
    Queue(Approval),
    /// It is taken up as by any other process.
    TakeUp,
}

/// Decides what, and where the host stood.
fn next(journal: &Digested, entry: &HostEntry) -> (Next, Stood) {
    let stood = |end: End| match journal.boot_sent_ms {
        Some(_) => Stood::Over(became(&end, entry.finish, succeeded(journal))),
        None => Stood::Out,
    };
    match journal.end() {
        Some(summary) if summary.outcome == Ending::Held => {
            (Next::AtHand(Box::new(summary.clone())), stood(End::Over(Box::new(summary.clone()))))
        }
        Some(summary) => (Next::Nothing, stood(End::Over(Box::new(summary.clone())))),
        None if journal.damaged.is_some() => (Next::TakeUp, Stood::Booted),
        None if journal.boot_sent_ms.is_some() => (Next::TakeUp, Stood::Booted),
        None => match (journal.decided, approved(journal)) {
            (Some(true), Some(approval)) => (Next::Queue(approval), Stood::Waiting),
            _ => (Next::TakeUp, Stood::Out),
        },
    }
}

/// The plan that was shown before it was decided about, approved again.
fn approved(journal: &Digested) -> Option<Approval> {
    let shown = |update: &Update| match update {
        Update::Planned { plan, .. } => Some(Plan::clone(plan)),
        _ => None,
    };
    let plan = journal.told.iter().rev().find_map(|told| shown(&told.update))?;
    Approval::of(&Arc::new(plan)).ok()
}

/// Whether the payload succeeded the last time that it ran.
fn succeeded(journal: &Digested) -> bool {
    let outcome = |update: &Update| match update {
        Update::Event(Speaker::Agent, event) => match &event.kind {
            EventKind::Outcome(outcome) => Some(matches!(outcome, Outcome::Succeeded)),
            _ => None,
        },
        _ => None,
    };
    journal.told.iter().rev().find_map(|told| outcome(&told.update)).unwrap_or(false)
}

/// Takes a run up again, if this process may write it. Which SSH agent the user had is not known any more: it is the
/// one that this process has.
pub fn resume(
    (run, lock): (RunDir, Lock),
    asks: &Arc<dyn Passphrases>,
    reports: &Feed,
    stop: &signal::Receiver<Stop>,
) -> Result<Resumed, RunError> {
    let file = run.load()?;
    let (kept, blobs) = Kept::read(&run)?;
    let run_key = run.key()?;
    let names: Vec<String> = file.hosts.iter().map(|host| host.name.clone()).collect();
    let mut fleet = Fleet::new(&names, kept.limits, &file.hosts_file.display().to_string());
    let (mut nexts, mut stands, mut several) = (Vec::new(), Vec::new(), 0);
    let mut ended = Ended::default();
    for (number, entry) in file.hosts.iter().enumerate() {
        let journal = digest(&run.journal(&entry.name), Keep::Lines { last: 0, after: u64::MAX });
        let (next, stood) = match &journal {
            Ok(journal) => next(journal, entry),
            Err(error) => {
                ended.problems.push(format!("{}: {error}", entry.name));
                (Next::Nothing, Stood::Booted)
            }
        };
        several += usize::from(journal.is_ok_and(|journal| journal.decided == Some(true)));
        stands.push((number, stood));
        nexts.push(next);
    }
    // Why no other goes on after a failure names those that are left: these have their places by then.
    stands.sort_by_key(|(_, stood)| matches!(stood, Stood::Over(_)));
    for (number, stood) in stands {
        fleet.stand(number, stood);
    }
    fleet.resume(several > 1);
    let fleet = signal::channel(fleet).0;
    let queued = |number: &usize| matches!(nexts[*number], Next::Queue(_));
    let may_want = (0..names.len()).filter(queued).filter(|number| {
        kept.hosts.iter().any(|described| described.host.name == names[*number] && described.host.becomes.is_some())
    });
    let passwords = Passwords::new(asks, may_want.map(|number| names[number].clone()));
    let artifacts = Arc::new(embed::artifacts().map_err(RunError::bad_input)?);
    let probes = Arc::new(Semaphore::new(kept.limits.parallel));
    let blobs = Arc::new(blobs);
    let wanting = Wanting::default();
    let at_work = nexts.iter().filter(|next| matches!(next, Next::Queue(_) | Next::TakeUp)).count();
    let busy = Busy::new(at_work);
    let (mut inbox, mut tasks) = (HashMap::new(), Vec::new());
    for ((number, entry), next) in file.hosts.iter().enumerate().zip(nexts) {
        let name = entry.name.clone();
        let member = Member {
            run: run.clone(),
            entry: entry.clone(),
            user: credentials(entry, asks, None),
            passwords: Arc::clone(&passwords),
            key: run_key.clone(),
            reports: reports.clone(),
            stop: stop.clone(),
            keep: Keep::Lines { last: 0, after: 0 },
            daemon: true,
        };
        let from = match next {
            Next::Nothing => continue,
            Next::AtHand(summary) => Ok((None, Ok(Some(End::Over(summary))))),
            Next::TakeUp => member
                .take_up(u64::MAX, None)
                .map(|Again { task, .. }| (Some(seated(task, Seat::new(&fleet, number), entry)), Ok(None)))
                .map_err(RunError::from),
            Next::Queue(approval) => {
                let described = kept.hosts.iter().find(|described| described.host.name == name);
                let given = match described.filter(|_| kept.secretive.contains(&name)) {
                    None => None,
                    Some(described) => {
                        let (give, given) = oneshot::channel();
                        let (files, reveal) = (described.host.secrets.clone(), described.host.reveal.clone());
                        let mut all = wanting.0.lock().unwrap_or_else(PoisonError::into_inner);
                        all.insert(name.clone(), Wants { files, reveal, give });
                        Some(given)
                    }
                };
                let common = run_key.clone().map(|run_key| Common {
                    run: run.id.clone(),
                    run_key,
                    artifacts: Arc::clone(&artifacts),
                    asks: Arc::clone(asks),
                    passwords: Arc::clone(&passwords),
                    agent: None,
                });
                match (described.cloned(), common) {
                    (Some(described), Some(common)) => {
                        let blobs = Arc::clone(&blobs);
                        let job = move |secrets| common.job(&described, secrets, &blobs);
                        let (plan, _) = oneshot::channel();
                        let decision = signal::channel(Decision::Go(approval)).1;
                        let seat = Seat::new(&fleet, number);
                        let gate = Gate { plan, decision, seat, probes: Arc::clone(&probes) };
                        queue(&member, job, given, gate).map(|task| (Some(task), Ok(None)))
                    }
                    _ => Err(RunError::internal("what is to be done with it, or the run's key, is gone")),
                }
            }
        };
        match from {
            Ok(from) => {
                let (pleas, received) = mpsc::unbounded_channel();
                inbox.insert(name.clone(), pleas);
                let busy = busy.clone();
                tasks.push((name, tokio::spawn(async move { attend_from(&member, from, received, busy).await })));
            }
            Err(error) => {
                busy.done();
                ended.problems.push(format!("{name}: {error}"));
            }
        }
    }
    let pleas: Pleas = Arc::new(inbox);
    let inbox = Inbox::open(&run, Arc::clone(&pleas));
    Ok(Resumed { pleas, wanting, run, hosts: file.hosts, tasks, ended, _lock: lock, _inbox: inbox })
}

/// The same task, with whose end the others of the run are told.
fn seated(task: Task, seat: Seat, entry: &HostEntry) -> Task {
    let Task { reporter, wishes, work } = task;
    let (telling, finish) = (Arc::clone(&reporter), entry.finish);
    let work = Box::pin(async move {
        let end = work.await;
        if let Ok(Some(end)) = &end {
            seat.ended(became(end, finish, telling.succeeded()));
        }
        end
    });
    Task { reporter, wishes, work }
}

/// Has a host wait for its secrets, and then for its turn.
fn queue(
    member: &Member,
    job: impl FnOnce(Secrets) -> Result<Job, RunError> + Send + 'static,
    given: Option<oneshot::Receiver<Secrets>>,
    gate: Gate,
) -> Result<Task, RunError> {
    let opened = tokio::task::block_in_place(|| {
        Appender::open(&member.run.journal(member.name()), Keep::Lines { last: 0, after: u64::MAX })
    });
    let (journal, digested) = opened?;
    let reporter = Arc::new(Reporter::new(member.name(), member.reports.clone(), journal));
    reporter.counters().add(digested.counted.0, digested.counted.1);
    reporter.take_over(&digested.told);
    let (wishes, mut asked) = mpsc::unbounded_channel();
    let (telling, mut stop, run) = (Arc::clone(&reporter), member.stop.clone(), member.run.id.clone());
    let work = Box::pin(async move {
        let mut secrets = Secrets::default();
        if let Some(given) = given {
            telling.tell(Update::Waiting(format!(
                "waits for its secrets, which were in the memory of a process that has ended: `anemos attach {run}` \
                 gives them again"
            )));
            match wait(given, &mut asked, &mut stop, &telling).await {
                Ok(given) => secrets = given,
                Err(why) => return Ok(Some(End::Over(Box::new(telling.end(Ending::Untouched, why))))),
            }
        }
        let job = job(secrets).map_err(|error| error.to_string())?;
        Ok(drive(&job, &telling, gate, asked, stop).await)
    });
    Ok(Task { reporter, wishes, work })
}

/// Waits for secrets. An error is why the host ends without.
async fn wait(
    mut given: oneshot::Receiver<Secrets>,
    asked: &mut mpsc::UnboundedReceiver<Asked>,
    stop: &mut signal::Receiver<Stop>,
    reporter: &Reporter,
) -> Result<Secrets, String> {
    let stopped = || "stopped while it waited for its secrets; nothing was done to it".to_owned();
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| stop.asked()) => return Err(stopped()),
            secrets = &mut given => return secrets.map_err(|_| stopped()),
            Some(Asked { wish, asker }) = asked.recv() => match wish {
                Wish::Abort => {
                    asker.answered(reporter, Ok(()));
                    return Err(stopped());
                }
                Wish::Retry(_) | Wish::Finish(_) => asker.answered(reporter, Err("the host is not in RAM yet".into())),
            }
        }
    }
}

impl Resumed {
    /// The run.
    pub fn dir(&self) -> &RunDir {
        &self.run
    }

    /// Returns when all hosts are over or left.
    pub async fn ended(self) -> Ended {
        let Self { run, hosts, tasks, mut ended, _lock, _inbox, .. } = self;
        for (name, task) in tasks {
            ended.take(&name, task.await);
        }
        ended.warning = forget(&run, &hosts);
        ended
    }
}
