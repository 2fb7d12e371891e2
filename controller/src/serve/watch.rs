//! What happens to the hosts of a run, as their journals tell it: whoever writes these, and whoever reads slowly.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::api::Fault;
use crate::journal::{Follower, JournalError, Keep, RunDir};
use crate::report::Report;

/// The length of a file and the time of its last change.
type Stamp = (u64, SystemTime);

/// Follows the journals of a run's hosts.
pub struct Watch {
    hosts: Vec<Watched>,
}

struct Watched {
    host: String,
    /// Whoever reads has got everything up to this number.
    seen: u64,
    path: PathBuf,
    journal: Follower,
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
        keep: impl Fn(u64) -> Keep,
    ) -> Result<Self, Fault> {
        let mut hosts = run.load().map_err(|error| fault(&error))?.hosts;
        if let Some(host) = after.keys().map(String::as_str).chain(only).find(|n| !hosts.iter().any(|h| h.name == *n)) {
            return Err(Fault::input(format!("run {} has no host `{host}`", run.id)));
        }
        hosts.retain(|host| only.is_none_or(|only| host.name == only));
        let watched = hosts.into_iter().map(|entry| {
            let (path, host) = (run.journal(&entry.name), entry.name);
            let seen = after.get(&host).copied().unwrap_or(0);
            let journal = Follower::new(&path, keep(seen))?;
            Ok(Watched { host, seen, path, journal, stamp: None })
        });
        let hosts: Result<_, JournalError> = watched.collect();
        Ok(Self { hosts: hosts.map_err(|error| fault(&error))? })
    }

    /// The names of the hosts.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().map(|watched| watched.host.as_str())
    }

    /// Reads on. `show` gets what is new, the place of its host among [`Watch::hosts`], and how many lines of output
    /// were left out before it. Blocks the thread, for as long as `show` does.
    pub fn poll(&mut self, show: &mut dyn FnMut(usize, Report, u64)) -> Result<(), Fault> {
        for (place, Watched { host, seen, path, journal, stamp }) in self.hosts.iter_mut().enumerate() {
            let now = std::fs::metadata(path).ok().and_then(|file| Some((file.len(), file.modified().ok()?)));
            if now.is_some() && now == *stamp {
                continue;
            }
            *stamp = now;
            let polled = journal.poll(&mut |told, left_out| {
                if told.number > *seen {
                    let (number, wall_ms, update) = (Some(told.number), told.wall_ms, told.update);
                    show(place, Report { host: host.clone(), number, wall_ms, update }, left_out);
                }
            });
            polled.map_err(|error| fault(&error))?;
            *seen = (*seen).max(journal.digested().number);
        }
        Ok(())
    }

    /// Whether each of the hosts has its end.
    pub fn is_over(&self) -> bool {
        self.hosts.iter().all(|watched| watched.journal.digested().summary.is_some())
    }
}
