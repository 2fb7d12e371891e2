//! Looks on at a run that another process follows.

use std::time::Duration;

use anemos_proto::event::Level;
use anemos_proto::ids::RunId;

use super::error::RunError;
use super::intent::{Intent, left_out};
use super::order;
use crate::engine::now_ms;
use crate::journal::{Follower, HostEntry, JournalError, Lock, RunDir, Told, not_known};
use crate::report::{Feed, Report, Summary, Update};

/// Time between two looks at a journal that another process writes.
pub(super) const FOLLOW_EVERY: Duration = Duration::from_millis(250);

/// A host, as far as its journal has been shown.
pub(super) struct Watched {
    pub host: HostEntry,
    /// The screens have got all up to this number.
    pub seen: u64,
    pub summary: Option<Summary>,
    /// Why it can't be shown.
    pub problem: Option<String>,
}

impl Watched {
    pub(super) fn new(host: HostEntry, intent: &Intent) -> Self {
        Self { seen: intent.after(&host.name), host, summary: None, problem: None }
    }

    /// Shows what is new.
    fn look(&mut self, run: &RunId, journal: &mut Follower, reports: &Feed) {
        let (host, seen) = (&self.host.name, self.seen);
        let show = |number, wall_ms, update| {
            reports.send_all(Report { host: host.clone(), number, wall_ms, update });
        };
        let polled = journal.poll(&mut |Told { number, wall_ms, update }, lines| {
            if lines > 0 {
                show(None, wall_ms, left_out(lines, run, host));
            }
            if number > seen {
                show(Some(number), wall_ms, update);
            }
        });
        if let Err(error) = polled {
            self.problem = Some(error.to_string());
            return;
        }
        self.seen = self.seen.max(journal.digested().number);
        let digested = journal.digested();
        self.summary.clone_from(&digested.summary);
        // It is shown to its end, and then nothing is concluded from it.
        if let (Some(_), Some(doubt)) = (&self.summary, &digested.damaged) {
            self.problem = Some(not_known(doubt));
        }
    }
}

/// Shows what another process writes, until every host has its summary, or that process is gone and left some without:
/// then with the lock, to go on where it stopped.
pub(super) async fn look_on(
    run: &RunDir,
    hosts: Vec<HostEntry>,
    reports: &Feed,
    intent: &Intent,
) -> Result<(Option<Lock>, Vec<Watched>), RunError> {
    let mut watched = Vec::new();
    for host in hosts {
        let journal = Follower::new(&run.journal(&host.name), intent.keep(intent.after(&host.name)))?;
        watched.push((Watched::new(host, intent), journal));
    }
    let mut ticks = tokio::time::interval(FOLLOW_EVERY);
    loop {
        ticks.tick().await;
        let lock = match run.follower() {
            Some(_) => None,
            // Whoever starts it again finds its hosts as they were, and those that wait for their turn waiting.
            None if order::is_kept(run) => None,
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
                let (host, wall_ms) = (host.host.name.clone(), now_ms());
                reports.send(Report { host, number: None, wall_ms, update });
            }
            return Ok((lock, watched.into_iter().map(|(host, _)| host).collect()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::samples::{ended, run_file, run_key};
    use crate::journal::{Appender, Keep, Record, RunStore};
    use crate::report::{Ending, feed};

    #[tokio::test(flavor = "multi_thread")]
    async fn an_onlooker_concludes_nothing_from_a_damaged_journal() {
        let dir = tempfile::tempdir().unwrap();
        let store = RunStore::at(dir.path().join("runs"));
        let file = run_file("20261123-093000-0a1b", &["web1", "web2"]);
        let (run, lock) = store.create(&file, &run_key()).unwrap();
        drop(lock);
        let mut begun = 0;
        for host in ["web1", "web2"] {
            // Each that writes begins a stream of its own, so what the second wrote can be read in any case.
            for record in [Record::BootSent { wall_ms: 1 }, ended(host, Ending::Deployed)] {
                begun = std::fs::metadata(run.journal(host)).map_or(begun, |metadata| metadata.len());
                let (mut journal, _) = Appender::open(&run.journal(host), Keep::All).unwrap();
                journal.append(&record).unwrap();
                journal.sync().unwrap();
            }
        }
        let mut bytes = std::fs::read(run.journal("web2")).unwrap();
        bytes[usize::try_from(begun).unwrap() - 2] ^= 0xff;
        std::fs::write(run.journal("web2"), bytes).unwrap();
        let (reports, _received) = feed();
        let (lock, watched) = look_on(&run, file.hosts, &reports, &Intent::default()).await.unwrap();
        assert!(lock.is_some());
        let [web1, web2] = &watched[..] else { panic!("{} hosts", watched.len()) };
        assert!(web1.summary.is_some() && web1.problem.is_none(), "{:?}", web1.problem);
        let why = web2.problem.as_deref().unwrap();
        assert!(why.starts_with("whether a disk was written is not known: the journal is damaged at byte "), "{why}");
    }
}
