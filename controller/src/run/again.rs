//! Takes up a run again: follows its hosts where another process, or an earlier one, stopped.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch as signal};
use tokio::time::Instant;

use super::descriptors;
use super::error::RunError;
use super::find::{not_in_ram, read};
use super::host::{Busy, attend};
use super::inbox::{self, Inbox, Request, Unheard, ourselves};
use super::intent::Intent;
use super::jobs::credentials;
use super::member::{Again, Known, Member};
use super::onlook::{Watched, look_on};
use super::plea::{Answer, Plea};
use crate::engine::{End, Passwords, Stop, Wish};
use crate::journal::{HostEntry, JournalError, Keep, Lock, RunDir, Told, digest};
use crate::report::{Ending, Feed, Report, Summary};
use crate::ssh::{self, Passphrases};

/// Whoever has the lock and answers nothing for so long is not asked any longer.
const ASKING: Duration = Duration::from_secs(5);

/// Time between two attempts at asking.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// A host whose agent has refused what was wished may take so long to end by itself before it is left alone.
const AFTER_REFUSAL: Duration = Duration::from_secs(2);

/// How the following of a run ended.
#[derive(Default)]
pub struct Followed {
    /// The right to write, if this process got it.
    pub lock: Option<Lock>,
    /// How the hosts ended; `None`: they go on alone.
    pub ends: Vec<Option<Summary>>,
    /// Why hosts could not be followed, or would not do what was wished.
    pub problems: Vec<String>,
}

/// Follows hosts of a run, and has them do what is wished: as an onlooker while another process has the lock, which the
/// wish is then handed to, and by itself as soon as that one is gone. What is wrong with the journal of one host is no
/// reason not to follow the others.
pub async fn follow(
    run: &RunDir,
    hosts: Vec<HostEntry>,
    mut lock: Option<Lock>,
    intent: &Intent,
    asks: &Arc<dyn Passphrases>,
    reports: Feed,
    stop: &signal::Receiver<Stop>,
) -> Result<Followed, RunError> {
    let through = hosts.iter().filter(|host| !host.address.way.is_direct()).count();
    descriptors::enough(hosts.len(), through, 0)?;
    let id = new_id()?;
    let mut followed = Followed::default();
    let mut asked = false;
    if let (None, Some(wish)) = (&lock, &intent.wish) {
        match ask(run, &hosts, &id, wish).await? {
            Heard::Answers(answers) => {
                followed.problems.extend(answers.iter().filter_map(problem));
                if answers.iter().all(|answer| answer.refused.is_some()) {
                    return Ok(followed);
                }
                asked = true;
            }
            Heard::Nobody(ours) => lock = Some(ours),
        }
    }
    let watched = if lock.is_some() {
        hosts.into_iter().map(|host| Watched::new(host, intent)).collect()
    } else {
        let mut stop = stop.clone();
        let seen = tokio::select! {
            seen = look_on(run, hosts, &reports, intent) => seen?,
            _ = stop.wait_for(|stop| stop.asked()) => (None, Vec::new()),
        };
        lock = seen.0;
        seen.1
    };
    followed.lock = lock;
    let key = run.key()?;
    // Nobody waits for others to want one: that may be hours later.
    let passwords = Passwords::new(asks, []);
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
        let (user, key, reports) = (credentials(&entry, asks, None), key.clone(), reports.clone());
        let (halt, stop) = own_stop(stop);
        let keep = intent.keep(seen);
        let passwords = Arc::clone(&passwords);
        let member = Member { run: run.clone(), entry, user, passwords, key, reports, stop, keep, daemon: false };
        match member.take_up(seen, intent.wish.as_ref().map(|_| id.as_str())) {
            Ok(again) => tasks.push((member, again, halt)),
            Err(JournalError::Earlier { .. }) => show_earlier(run, &name, member.keep, &member.reports, &mut followed),
            Err(error) => followed.problems.push(format!("{name}: {error}")),
        }
    }
    drop(reports);
    let busy = Busy::new(tasks.len());
    let mut inbox = HashMap::new();
    let mut attended = Vec::new();
    let mut own = Vec::new();
    for (member, Again { task, in_ram, wish: known }, halt) in tasks {
        let (pleas, received) = mpsc::unbounded_channel();
        // What the process before this one has done about the wish is not asked for again.
        let number = match known {
            Known::Nothing if !asked => Some(None),
            Known::Open(number) => Some(Some(number)),
            Known::Answered(Err(why)) if !asked => {
                followed.problems.push(format!("{}: {why}", member.name()));
                None
            }
            Known::Nothing | Known::Answered(_) => None,
        };
        if let (Some(number), Some(wish), true) = (number, intent.wish.clone(), in_ram) {
            let (answer, answers) = oneshot::channel();
            // The receiver is here.
            let _ = pleas.send(Plea { id: id.clone(), author: ourselves(), number, wish, answer });
            own.push(tokio::spawn(own_answer(member.name().to_owned(), answers, halt)));
        }
        inbox.insert(member.name().to_owned(), pleas);
        let busy = busy.clone();
        let name = member.name().to_owned();
        attended.push((name, tokio::spawn(async move { attend(&member, task, received, busy).await })));
    }
    let _inbox = Inbox::open(run, Arc::new(inbox));
    for (name, task) in attended {
        match task.await {
            Ok(Ok(Some(End::Over(summary)))) => followed.ends.push(Some(*summary)),
            Ok(Ok(Some(End::Detached) | None)) => followed.ends.push(None),
            Ok(Err(why)) => followed.problems.push(format!("{name}: {why}")),
            Err(error) => followed.problems.push(format!("{name}: {error}")),
        }
    }
    for answer in own {
        followed.problems.extend(problem(&answer.await.map_err(RunError::internal)?));
    }
    Ok(followed)
}

/// What came of asking the process that has the lock.
enum Heard {
    Answers(Vec<Answer>),
    /// It is gone, and this process has the lock now.
    Nobody(Lock),
}

/// Hands the wish to the process that follows the run, for the hosts that may be in RAM.
async fn ask(run: &RunDir, hosts: &[HostEntry], id: &str, wish: &Wish) -> Result<Heard, RunError> {
    let in_ram = |host: &&HostEntry| read(run, &host.name).is_ok_and(|journal| not_in_ram(&journal).is_none());
    let names = hosts.iter().filter(in_ram).map(|host| host.name.clone()).collect();
    let request = Request::new(id, names, wish);
    let until = Instant::now() + ASKING;
    loop {
        let unheard = match inbox::ask(run, &request, wish).await {
            Ok(answers) => return Ok(Heard::Answers(answers)),
            Err(unheard) => unheard,
        };
        let pid = match run.lock() {
            Ok(lock) => return Ok(Heard::Nobody(lock)),
            Err(JournalError::Locked { pid, .. }) => pid,
            Err(error) => return Err(error.into()),
        };
        match unheard {
            Unheard::Refused(why) => {
                let run = &run.id;
                return Err(RunError::not_all(format!("process {pid}, which follows run {run}, refused: {why}")));
            }
            // It may be about to listen, or about to end.
            Unheard::Gone(_) if Instant::now() < until => tokio::time::sleep(ASK_EVERY).await,
            Unheard::Gone(why) => {
                return Err(RunError::bad_input(format!(
                    "run {} is being followed by another anemos (process {pid}), which takes no wishes ({why}). Ctrl-C \
                     there only detaches it: do that, then try again",
                    run.id
                )));
            }
        }
    }
}

/// What the user is told of an answer, unless it is that all is well.
fn problem(answer: &Answer) -> Option<String> {
    answer.refused.as_ref().map(|why| format!("{}: {why}", answer.host))
}

/// Waits for the answer to a wish of this process. A host that won't do it is not followed on for it.
async fn own_answer(host: String, answer: oneshot::Receiver<Answer>, halt: Arc<signal::Sender<Stop>>) -> Answer {
    let answer = answer.await.unwrap_or_else(|_| {
        let refused = Some("the host was over before it got that".into());
        Answer { host, number: None, refused, made: false }
    });
    if answer.refused.is_some() {
        tokio::spawn(async move {
            // One that is held ends by itself.
            if tokio::time::timeout(AFTER_REFUSAL, halt.closed()).await.is_err() {
                halt.send_replace(Stop::Leave);
            }
        });
    }
    answer
}

/// Stops one host, which is stopped with all of them as well. What it returns second is for that host: its sender lives
/// for as long as that is there.
fn own_stop(all: &signal::Receiver<Stop>) -> (Arc<signal::Sender<Stop>>, signal::Receiver<Stop>) {
    let (own, stopped) = signal::channel(*all.borrow());
    let own = Arc::new(own);
    let (mut all, stop) = (all.clone(), Arc::clone(&own));
    tokio::spawn(async move {
        loop {
            tokio::select! {
                changed = all.changed() => match changed {
                    Ok(()) => _ = stop.send_replace(*all.borrow_and_update()),
                    Err(_) => return stop.closed().await,
                },
                () = stop.closed() => return,
            }
        }
    });
    (own, stopped)
}

/// A name for a wish.
pub fn new_id() -> Result<String, RunError> {
    let random = ssh::new_seed().map_err(RunError::internal)?;
    Ok(random.expose().iter().take(8).fold(String::new(), |id, byte| format!("{id}{byte:02x}")))
}

/// Shows a host of a run that an earlier version of Anemos began. If it is not over, only that version can go on.
fn show_earlier(run: &RunDir, host: &str, keep: Keep, reports: &Feed, followed: &mut Followed) {
    let path = run.journal(host);
    let digested = match digest(&path, keep) {
        Ok(digested) => digested,
        Err(error) => return followed.problems.push(format!("{host}: {error}")),
    };
    for Told { number, wall_ms, update } in &digested.told {
        let (number, wall_ms, update) = (Some(*number), *wall_ms, update.clone());
        tokio::task::block_in_place(|| reports.send_all(Report { host: host.into(), number, wall_ms, update }));
    }
    match digested.end() {
        Some(summary) if summary.outcome != Ending::Held => followed.ends.push(Some(summary.clone())),
        _ => {
            let format = digested.earlier.unwrap_or_default();
            followed.problems.push(format!("{host}: {}", JournalError::Earlier { path, format }));
        }
    }
}

#[cfg(test)]
mod tests;
