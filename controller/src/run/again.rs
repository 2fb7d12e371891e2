//! Takes up a run again: follows its hosts where another process, or an earlier one, stopped.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anemos_proto::event::Level;
use anemos_proto::ids::RunId;
use tokio::sync::{mpsc, oneshot, watch as signal};
use tokio::time::Instant;

use super::error::RunError;
use super::find::{not_in_ram, read};
use super::host::{Busy, Plea, Task, attend};
use super::inbox::{self, Answer, Inbox, Request, Unheard, ourselves};
use super::jobs::credentials;
use super::onlook::{Watched, look_on};
use crate::embed::BUILD;
use crate::engine::{End, Follow, Reporter, Wish, Wishes, follow_again, now_ms, unbooted};
use crate::journal::{
    Appender, Digested, HostEntry, JournalError, Keep, Lock, OldSystem, Record, RunDir, Told, digest, not_known,
};
use crate::report::{Ending, Report, Summary, Update};
use crate::ssh::{self, Credentials, Passphrases, RunKey};

/// Of what was told before, so many lines are shown at once.
pub const LINES: usize = 1000;

/// Whoever has the lock and answers nothing for so long is not asked any longer.
const ASKING: Duration = Duration::from_secs(5);

/// Time between two attempts at asking.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// A host whose agent has refused what was wished may take so long to end by itself before it is left alone.
const AFTER_REFUSAL: Duration = Duration::from_secs(2);

/// What somebody takes up a run for.
#[derive(Debug, Clone, Default)]
pub struct Intent {
    /// What is wanted of the hosts; `None`: only to follow them.
    pub wish: Option<Wish>,
    /// Of the lines of output so far, so many; `None`: all.
    pub lines: Option<usize>,
    /// Of each host only what comes after this number.
    pub after: HashMap<String, u64>,
}

impl Intent {
    /// How much of a host's journal is shown.
    pub(super) fn keep(&self, after: u64) -> Keep {
        self.lines.map_or(Keep::All, |last| Keep::Lines { last, after })
    }

    pub(super) fn after(&self, host: &str) -> u64 {
        self.after.get(host).copied().unwrap_or(0)
    }
}

/// What is to be done about a host that somebody takes up again, by its journal alone.
#[derive(Debug, Clone, PartialEq)]
enum Standing {
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
fn standing(journal: &Digested, again: bool) -> Standing {
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

/// One host of a run that this process has the lock of.
#[derive(Clone)]
pub(super) struct Member {
    pub run: RunDir,
    pub entry: HostEntry,
    pub user: Credentials,
    pub key: Option<RunKey>,
    pub reports: mpsc::UnboundedSender<Report>,
    pub stop: signal::Receiver<bool>,
    pub keep: Keep,
}

/// A host that was taken up.
pub(super) struct Again {
    pub task: Task,
    /// It may be in RAM, so that something can be wished of it.
    pub in_ram: bool,
    /// Its journal has the wish, and no answer to it.
    pub open: bool,
}

impl Member {
    pub(super) fn name(&self) -> &str {
        &self.entry.name
    }

    /// Takes the host up. The screens have got all up to number `seen`. `wish` is the one that it is taken up for.
    pub(super) fn take_up(&self, seen: u64, wish: Option<&str>) -> Result<Again, JournalError> {
        let path = self.run.journal(self.name());
        let (journal, mut digested) = tokio::task::block_in_place(|| Appender::open(&path, self.keep))?;
        let reporter = Reporter::new(self.name(), self.reports.clone(), journal);
        let (sent, received) = digested.counted;
        reporter.counters().add(sent, received);
        if let Some(old) = &digested.old {
            reporter.staged(old.downloaded, old.initramfs);
        }
        let in_ram = not_in_ram(&digested).is_none();
        let standing = standing(&digested, in_ram || wish.is_none());
        let mut told = std::mem::take(&mut digested.told);
        let left_out = (digested.left_out > 0).then(|| left_out(digested.left_out, &self.run.id, self.name()));
        let over = matches!(standing, Standing::Over(_));
        if !over && digested.summary.take().is_some() {
            reporter.record(&Record::Reopened { wall_ms: now_ms() });
            told.retain(|told| !matches!(told.update, Update::Summary(_)));
        }
        reporter.replay(told.clone(), seen, left_out);
        digested.told = told;
        let mut open = false;
        for (number, wished) in std::mem::take(&mut digested.wishes) {
            if wish == Some(&wished.id) {
                open = true;
            } else if !over {
                let why = "the anemos that took it has ended since; whether the host got it is not known";
                reporter.tell(Update::Answered { wish: number, refused: Some(why.into()) });
            }
        }
        let reporter = Arc::new(reporter);
        let (wishes, asked) = mpsc::unbounded_channel();
        let member = self.clone();
        let telling = Arc::clone(&reporter);
        let work =
            Box::pin(async move { member.work(standing, digested, &telling, Wishes::new(asked)).await.map(Some) });
        Ok(Again { task: Task { reporter, wishes, work }, in_ram, open })
    }

    async fn work(
        &self,
        standing: Standing,
        digested: Digested,
        reporter: &Reporter,
        wishes: Wishes,
    ) -> Result<End, String> {
        let held = |doubt: &str| {
            let (ending, reason) = doubtful(self.name(), doubt);
            Ok(End::Over(Box::new(reporter.end(ending, reason))))
        };
        let mut stop = self.stop.clone();
        let old = match (standing, &self.key, &digested.damaged) {
            (Standing::Over(summary), ..) => return Ok(End::Over(summary)),
            (Standing::Booted(_), None, Some(doubt)) => return held(doubt),
            (Standing::Booted(old), ..) => *old,
            (Standing::Doubtful(doubt), ..) => return held(&doubt),
            (Standing::Unbooted, ..) => {
                wishes.close(reporter, "it is not in RAM");
                // The stage undoes everything when the connection to it ends; but that is not known until somebody
                // looks.
                let (met, boot_id) = (digested.met.as_ref(), digested.old_boot_id.as_deref());
                let (ending, reason) = tokio::select! {
                    looked = unbooted(&self.entry, met, boot_id, &self.user, reporter.counters()) => looked,
                    _ = stop.wait_for(|stop| *stop) => return Ok(End::Detached),
                };
                return Ok(End::Over(Box::new(reporter.end(ending, reason))));
            }
        };
        let Some(run_key) = self.key.clone() else { return Err("the run is over, and its key was deleted".into()) };
        let (run, user, entry) = (self.run.id.clone(), self.user.clone(), &self.entry);
        let follow = Follow { run, entry, old, run_key, user, reporter, wishes, stop, build: BUILD };
        Ok(follow_again(follow, &digested).await)
    }
}

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
    reports: mpsc::UnboundedSender<Report>,
    stop: &signal::Receiver<bool>,
) -> Result<Followed, RunError> {
    let id = new_id()?;
    let mut followed = Followed::default();
    let mut answered = None;
    if let (None, Some(wish)) = (&lock, &intent.wish) {
        match ask(run, &hosts, &id, wish).await? {
            Heard::Answers(answers) => {
                followed.problems.extend(answers.iter().filter_map(problem));
                if answers.iter().all(|answer| answer.refused.is_some()) {
                    return Ok(followed);
                }
                answered = Some(answers);
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
            _ = stop.wait_for(|stop| *stop) => (None, Vec::new()),
        };
        lock = seen.0;
        seen.1
    };
    followed.lock = lock;
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
        let (user, key, reports) = (credentials(&entry, asks), key.clone(), reports.clone());
        let halt = own_stop(stop);
        let (keep, stop) = (intent.keep(seen), halt.subscribe());
        let member = Member { run: run.clone(), entry, user, key, reports, stop, keep };
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
    for (member, Again { task, in_ram, open }, halt) in tasks {
        let (pleas, received) = mpsc::unbounded_channel();
        // What the process before this one has answered is not asked for again, unless it ended before it was made.
        if let Some(wish) = intent.wish.clone().filter(|_| in_ram && (open || answered.is_none())) {
            let (answer, answers) = oneshot::channel();
            // The receiver is here.
            let _ = pleas.send(Plea { id: id.clone(), author: ourselves(), wish, answer });
            own.push(tokio::spawn(own_answer(member.name().to_owned(), answers, halt)));
        }
        inbox.insert(member.name().to_owned(), pleas);
        let busy = busy.clone();
        let name = member.name().to_owned();
        attended.push((name, tokio::spawn(async move { attend(&member, task, received, busy).await })));
    }
    let inbox = Inbox::open(run, inbox);
    if let Err(error) = &inbox {
        tracing::warn!(run = run.id.as_str(), %error, "no wishes are taken from other processes");
    }
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
async fn own_answer(host: String, answer: oneshot::Receiver<Answer>, halt: Arc<signal::Sender<bool>>) -> Answer {
    let answer = answer.await.unwrap_or_else(|_| {
        let refused = Some("the host was over before it got that".into());
        Answer { host, number: None, refused, made: false }
    });
    if answer.refused.is_some() {
        tokio::spawn(async move {
            // One that is held ends by itself.
            if tokio::time::timeout(AFTER_REFUSAL, halt.closed()).await.is_err() {
                halt.send_replace(true);
            }
        });
    }
    answer
}

/// Stops one host; and is stopped itself with all of them.
fn own_stop(all: &signal::Receiver<bool>) -> Arc<signal::Sender<bool>> {
    let own = Arc::new(signal::channel(*all.borrow()).0);
    let (mut all, stop) = (all.clone(), Arc::clone(&own));
    tokio::spawn(async move {
        tokio::select! {
            _ = all.wait_for(|stop| *stop) => {
                stop.send_replace(true);
            }
            () = stop.closed() => {}
        }
    });
    own
}

/// A name for a wish.
fn new_id() -> Result<String, RunError> {
    let random = ssh::new_seed().map_err(RunError::internal)?;
    Ok(random.expose().iter().take(8).fold(String::new(), |id, byte| format!("{id}{byte:02x}")))
}

/// Says that lines are not shown.
pub(super) fn left_out(lines: u64, run: &RunId, host: &str) -> Update {
    let text = format!(
        "{lines} earlier lines are left out here; `anemos logs {run} {host}` has them, \
         `anemos attach --all {run}` shows all"
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
    for Told { number, wall_ms, update } in &digested.told {
        // A screen that has gone is no reason to fail.
        let (number, wall_ms, update) = (Some(*number), *wall_ms, update.clone());
        let _ = reports.send(Report { host: host.into(), number, wall_ms, update });
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
