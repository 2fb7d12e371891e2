//! One host of a run that this process has the lock of, and how it is taken up.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::{mpsc, watch as signal};

use super::find::not_in_ram;
use super::intent::left_out;
use crate::embed::BUILD;
use crate::engine::{Asked, End, Follow, Passwords, Reporter, Stop, Wishes, follow_again, now_ms, unbooted};
use crate::journal::{
    Appender, Digested, HostEntry, JournalError, Keep, OldSystem, Reader, Record, RunDir, Told, not_known,
};
use crate::report::{Ending, Feed, Summary, Update, Wished};
use crate::ssh::{Credentials, RunKey};

/// What is being done about a host.
pub(super) struct Task {
    /// Tells everything.
    pub reporter: Arc<Reporter>,
    /// Takes wishes.
    pub wishes: mpsc::UnboundedSender<Asked>,
    /// Ends with the host's end; `None` if only its plan was asked for.
    pub work: Pin<Box<dyn Future<Output = Result<Option<End>, String>> + Send>>,
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

/// One host of a run that this process has the lock of.
#[derive(Clone)]
pub(super) struct Member {
    pub run: RunDir,
    pub entry: HostEntry,
    pub user: Credentials,
    /// What is typed in this process: what was typed into another is gone with that.
    pub passwords: Arc<Passwords>,
    pub key: Option<RunKey>,
    pub reports: Feed,
    pub stop: signal::Receiver<Stop>,
    pub keep: Keep,
    /// A daemon has the run.
    pub daemon: bool,
}

/// A host that was taken up.
pub(super) struct Again {
    pub task: Task,
    /// It may be in RAM, so that something can be wished of it.
    pub in_ram: bool,
    /// What its journal knows of the wish.
    pub wish: Known,
}

/// What the journal of a host knows of a wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing.
    Nothing,
    /// That it was made, under this number, and not what came of it.
    Open(u64),
    /// Its answer: `Err` is why not.
    Answered(Result<(), String>),
}

/// Looks a wish up in what was told, given the numbers of those that wait for an answer.
fn known(id: &str, told: &[Told], open: &[(u64, Wished)]) -> Known {
    let is_it = |told: &&Told| matches!(&told.update, Update::Wished(wished) if wished.id == id);
    let Some(number) = told.iter().find(is_it).map(|told| told.number) else { return Known::Nothing };
    if open.iter().any(|(wish, _)| *wish == number) {
        return Known::Open(number);
    }
    let answer = told.iter().find_map(|told| match &told.update {
        Update::Answered { wish, refused } if *wish == number => Some(refused.clone().map_or(Ok(()), Err)),
        _ => None,
    });
    // One that is neither open nor answered has come about: see `Digested::wishes`.
    Known::Answered(answer.unwrap_or(Ok(())))
}

impl Member {
    pub(super) fn name(&self) -> &str {
        &self.entry.name
    }

    /// Takes the host up. The screens have got all up to number `seen`. `wish` is the one that it is taken up for.
    pub(super) fn take_up(&self, seen: u64, wish: Option<&str>) -> Result<Again, JournalError> {
        let path = self.run.journal(self.name());
        // Lines of output are as many as the host likes: those that are all to be shown are not held.
        let keep = if self.keep == Keep::All { Keep::Lines { last: 0, after: u64::MAX } } else { self.keep };
        let (journal, mut digested) = tokio::task::block_in_place(|| Appender::open(&path, keep))?;
        let number = digested.number;
        let reporter = Reporter::new(self.name(), self.reports.clone(), journal);
        let (sent, received) = digested.counted;
        reporter.counters().add(sent, received);
        if let Some(old) = &digested.old {
            reporter.staged(old.downloaded, old.initramfs);
        }
        let in_ram = not_in_ram(&digested).is_none();
        let standing = standing(&digested, in_ram || wish.is_none());
        let mut told = std::mem::take(&mut digested.told);
        let mut left_out = (digested.left_out > 0).then(|| left_out(digested.left_out, &self.run.id, self.name()));
        let over = matches!(standing, Standing::Over(_));
        if !over && digested.summary.take().is_some() {
            reporter.record(&Record::Reopened { wall_ms: now_ms() });
            told.retain(|told| !matches!(told.update, Update::Summary(_)));
        }
        reporter.take_over(&told);
        tokio::task::block_in_place(|| match self.keep {
            Keep::All if seen < number => self.show_all(&reporter, seen..number, over),
            _ => {
                reporter.show_again(&told, seen, &mut left_out);
                Ok(())
            }
        })?;
        digested.told = told;
        let open = std::mem::take(&mut digested.wishes);
        let known = wish.map_or(Known::Nothing, |id| known(id, &digested.told, &open));
        for (number, wished) in open {
            if wish != Some(&wished.id) && !over {
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
        Ok(Again { task: Task { reporter, wishes, work }, in_ram, wish: known })
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
                    _ = stop.wait_for(|stop| stop.asked()) => return Ok(End::Detached),
                };
                return Ok(End::Over(Box::new(reporter.end(ending, reason))));
            }
        };
        let Some(run_key) = self.key.clone() else { return Err("the run is over, and its key was deleted".into()) };
        let (run, user, entry) = (self.run.id.clone(), self.user.clone(), &self.entry);
        let passwords = Arc::clone(&self.passwords);
        let follow = Follow { run, entry, old, run_key, user, passwords, reporter, wishes, stop, build: BUILD };
        Ok(follow_again(follow, digested).await)
    }

    /// Shows again all that the journal has after the first of these numbers and up to the second.
    fn show_all(&self, reporter: &Reporter, numbers: Range<u64>, over: bool) -> Result<(), JournalError> {
        Reader::new(&self.run.journal(self.name()))?.read_on(&mut |number, record| {
            if let Record::Told { wall_ms, update } = record
                && number <= numbers.end
                // Of a host that goes on it is not the end any more.
                && (over || !matches!(update, Update::Summary(_)))
            {
                reporter.show_again(&[Told { number, wall_ms, update }], numbers.start, &mut None);
            }
        })
    }
}
