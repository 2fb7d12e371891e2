//! What happens to the hosts of a run, as their journals tell it: whoever writes these, and whoever reads slowly.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use crate::api::Fault;
use crate::journal::{Follower, JournalError, Keep, RunDir};
use crate::report::Report;

/// A journal of which nothing was new for so long is put away, since an open one takes memory for what it has
/// decompressed: most hosts of a long run wait for their turn, or are over. If it goes on, it is read again.
const PUT_AWAY: Duration = Duration::from_secs(10);

/// The length of a file and the time of its last change.
type Stamp = (u64, SystemTime);

/// Follows the journals of a run's hosts.
pub struct Watch {
    hosts: Vec<Watched>,
    /// What is kept of a journal that is read after a number.
    keep: Box<dyn Fn(u64) -> Keep + Send>,
}

struct Watched {
    host: String,
    /// Whoever reads has got everything up to this number.
    seen: u64,
    path: PathBuf,
    /// `None`: it was put away.
    journal: Option<Follower>,
    /// When something new was read last.
    read: Instant,
    /// Whether the host has its end.
    over: bool,
    /// Of the journal as it was before it was read last: one that has not changed is not read again.
    stamp: Option<Stamp>,
}

fn fault(error: &JournalError) -> Fault {
    Fault::internal(error.to_string())
}

impl Watch {
    /// Of these hosts, in the order of the run, each after the number that `after` has for it. An error says which of
    /// the names is none of a host, or why the run can't be read.
    pub fn new(
        run: &RunDir,
        only: Option<&str>,
        after: &BTreeMap<String, u64>,
        keep: impl Fn(u64) -> Keep + Send + 'static,
    ) -> Result<Self, Fault> {
        let mut hosts = run.load().map_err(|error| fault(&error))?.hosts;
        if let Some(host) = after.keys().map(String::as_str).chain(only).find(|n| !hosts.iter().any(|h| h.name == *n)) {
            return Err(Fault::input(format!("run {} has no host `{host}`", run.id)));
        }
        hosts.retain(|host| only.is_none_or(|only| host.name == only));
        let watched = hosts.into_iter().map(|entry| {
            let (path, host) = (run.journal(&entry.name), entry.name);
            let seen = after.get(&host).copied().unwrap_or(0);
            Watched { host, seen, path, journal: None, read: Instant::now(), over: false, stamp: None }
        });
        Ok(Self { hosts: watched.collect(), keep: Box::new(keep) })
    }

    /// The names of the hosts.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().map(|watched| watched.host.as_str())
    }

    /// Reads on. `show` gets what is new, the place of its host among [`Watch::hosts`], and how many lines of output
    /// were left out before it. Blocks the thread, for as long as `show` does.
    pub fn poll(&mut self, show: &mut dyn FnMut(usize, Report, u64)) -> Result<(), Fault> {
        for (place, watched) in self.hosts.iter_mut().enumerate() {
            let Watched { host, seen, path, journal, read, over, stamp } = watched;
            let now = std::fs::metadata(&*path).ok().and_then(|file| Some((file.len(), file.modified().ok()?)));
            if now.is_some() && now == *stamp {
                if read.elapsed() > PUT_AWAY {
                    *journal = None;
                }
                continue;
            }
            (*stamp, *read) = (now, Instant::now());
            let journal = match journal {
                Some(journal) => journal,
                None => journal.insert(Follower::new(path, (self.keep)(*seen)).map_err(|error| fault(&error))?),
            };
            let polled = journal.poll(&mut |told, left_out| {
                if told.number > *seen {
                    let (number, wall_ms, update) = (Some(told.number), told.wall_ms, told.update);
                    show(place, Report { host: host.clone(), number, wall_ms, update }, left_out);
                }
            });
            polled.map_err(|error| fault(&error))?;
            *seen = (*seen).max(journal.digested().number);
            *over = journal.digested().summary.is_some();
            if *over {
                watched.journal = None;
            }
        }
        Ok(())
    }

    /// Whether each of the hosts has its end.
    pub fn is_over(&self) -> bool {
        self.hosts.iter().all(|watched| watched.over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::samples::{run_file, run_key, summary};
    use crate::journal::{Appender, Record, RunStore};
    use crate::report::{Ending, Update};

    /// A host that is over takes no memory, and all that is told of it later is told once.
    #[test]
    fn a_journal_that_was_put_away_is_read_on() {
        let dir = tempfile::tempdir().unwrap();
        let store = RunStore::at(dir.path().to_owned());
        let (run, _lock) = store.create(&run_file("20261123-093000-0a1b", &["web1", "web2"]), &run_key()).unwrap();
        let (mut journal, _) = Appender::open(&run.journal("web1"), Keep::All).unwrap();
        let mut tell = |update| {
            journal.append(&Record::Told { wall_ms: 1, update }).unwrap();
            journal.sync().unwrap();
        };
        let mut watch = Watch::new(&run, None, &BTreeMap::from([("web1".into(), 1)]), |_| Keep::All).unwrap();
        let mut heard = move || {
            let mut numbers = Vec::new();
            watch.poll(&mut |place, report, _| numbers.push((place, report.number.unwrap()))).unwrap();
            let open: Vec<bool> = watch.hosts.iter().map(|watched| watched.journal.is_some()).collect();
            (numbers, open[0], watch.is_over())
        };
        let end = |ending| Update::Summary(Box::new(summary(ending)));
        let waits = |text: &str| Update::Waiting(text.into());
        tell(waits("one"));
        assert_eq!(heard(), (vec![], true, false));
        tell(waits("two"));
        assert_eq!(heard(), (vec![(0, 2)], true, false));
        tell(end(Ending::Held));
        assert_eq!(heard(), (vec![(0, 3)], false, false));
        assert_eq!(heard(), (vec![], false, false));
        // Somebody has it try again.
        tell(waits("four"));
        assert_eq!(heard().0, [(0, 4)]);
        tell(end(Ending::Deployed));
        assert_eq!(heard(), (vec![(0, 5)], false, false));
        let (mut other, _) = Appender::open(&run.journal("web2"), Keep::All).unwrap();
        other.append(&Record::Told { wall_ms: 1, update: end(Ending::Deployed) }).unwrap();
        other.sync().unwrap();
        assert_eq!(heard(), (vec![(1, 1)], false, true));
    }
}
