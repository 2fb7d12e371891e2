//! What journals amount to, for lists of runs and hosts that are looked at again and again: a journal that has not
//! changed is not read again.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use serde_json::{Value, json};

use super::clean;
use crate::journal::{RunDir, RunFile, glance};
use crate::report::{Ending, Phase};
use crate::screen::status::StatusRow;
use crate::screen::text::now_ms;
use crate::serve::{Runs, State, Who};

/// Runs in a list: the newest.
const RUNS: usize = 100;

/// A host of a run, by its journal.
#[derive(Debug)]
pub(super) struct Glance {
    pub row: StatusRow,
    /// When something was told of it last, milliseconds since the Unix epoch.
    pub last_ms: Option<u64>,
    /// Bytes written to and read from the sockets of its SSH connections so far.
    pub counted: (u64, u64),
}

type Stamp = (u64, SystemTime);

/// By journal: what it was like when it was read, and what it amounted to.
type Known = HashMap<PathBuf, (Option<Stamp>, Arc<Glance>)>;

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Glances(Mutex<Known>);

/// A run, and its hosts if it can be read.
pub(super) struct Seen {
    pub dir: RunDir,
    pub file: Result<RunFile, String>,
    pub hosts: Vec<Arc<Glance>>,
}

impl Glances {
    /// A host of a run. Blocks the thread while it reads.
    fn of(&self, run: &RunDir, host: &str) -> Arc<Glance> {
        let path = run.journal(host);
        let stamp = std::fs::metadata(&path).ok().and_then(|file| Some((file.len(), file.modified().ok()?)));
        let known =
            |seen: &Known| seen.get(&path).filter(|(was, _)| *was == stamp).map(|(_, glance)| Arc::clone(glance));
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known(&lock()) {
            return known;
        }
        let glance = Arc::new(match glance(&path) {
            Ok(journal) => Glance {
                row: StatusRow::of(host, &journal, now_ms()),
                last_ms: journal.last_ms,
                counted: journal.counted,
            },
            Err(error) => {
                Glance { row: StatusRow::unreadable(host, error.to_string()), last_ms: None, counted: (0, 0) }
            }
        });
        lock().insert(path, (stamp, Arc::clone(&glance)));
        glance
    }

    /// A run with its hosts. Blocks the thread while it reads.
    pub(super) fn run(&self, dir: RunDir) -> Seen {
        let file = dir.load().map_err(|error| error.to_string());
        let hosts = file.iter().flat_map(|file| &file.hosts).map(|host| self.of(&dir, &host.name)).collect();
        Seen { dir, file, hosts }
    }

    /// The newest runs that somebody may see, and whether there are more. Blocks the thread while it reads.
    pub(super) fn runs(&self, runs: &Runs, who: &Who) -> Result<(Vec<Seen>, bool), String> {
        let mut dirs = runs.store.runs().map_err(|error| error.to_string())?;
        dirs.retain(|dir| who.sees(dir));
        let more = dirs.len() > RUNS;
        dirs.truncate(RUNS);
        // What was deleted, or is too old for a list, is not kept in mind.
        let kept = |path: &PathBuf| path.parent().is_some_and(|run| dirs.iter().any(|dir| dir.path() == run));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|path, _| kept(path));
        Ok((dirs.into_iter().map(|dir| self.run(dir)).collect(), more))
    }
}

/// What a run is waiting for: `meeting` while its hosts are looked at, `met` until somebody decides, `decided`;
/// `elsewhere` if another process follows it; `over`.
pub(super) fn state(runs: &Runs, seen: &RunDir) -> &'static str {
    match runs.get(seen.id.as_str()) {
        Ok(owned) => match *owned.state.borrow() {
            State::Meeting => "meeting",
            State::Met(_) => "met",
            State::Decided(_) => "decided",
        },
        Err(_) if seen.follower().is_some() => "elsewhere",
        Err(_) => "over",
    }
}

fn host(glance: &Glance) -> Value {
    let StatusRow { host, phase, state, outcome, reason, .. } = &glance.row;
    json!({
        "host": host, "phase": phase, "state": state, "outcome": outcome, "reason": reason, "last_ms": glance.last_ms,
    })
}

/// A run for a list: how many of its hosts are where.
pub(super) fn brief(runs: &Runs, seen: &Seen) -> Value {
    let count = |wanted: Option<Ending>| seen.hosts.iter().filter(|glance| glance.row.outcome == wanted).count();
    let (file, why) = (seen.file.as_ref().ok(), seen.file.as_ref().err());
    let all_ended = file.is_some() && count(None) == 0;
    clean::value(json!({
        "run": seen.dir.id.to_string(),
        "state": if all_ended && !runs.has(&seen.dir.id) { "over" } else { state(runs, &seen.dir) },
        "started_ms": file.map(|file| file.started_ms),
        "hosts_file": file.map(|file| file.hosts_file.display().to_string()),
        "hosts": seen.hosts.len(),
        "going": count(None),
        "deployed": count(Some(Ending::Deployed)),
        "untouched": count(Some(Ending::Untouched)),
        "held": count(Some(Ending::Held)),
        "unreadable": why,
    }))
}

/// A run with its hosts.
pub(super) fn full(runs: &Runs, seen: &Seen) -> Value {
    let mut value = brief(runs, seen);
    let hosts: Vec<Value> = seen.hosts.iter().map(|glance| clean::value(host(glance))).collect();
    value["hosts"] = hosts.into();
    value["phases"] = Phase::ALL.map(Phase::name).as_slice().into();
    value
}

/// The hosts of all these runs, each by the newest run that it was in.
pub(super) fn hosts(all: &[Seen]) -> Value {
    let mut known = std::collections::BTreeSet::new();
    let mut hosts = Vec::new();
    for seen in all {
        for glance in &seen.hosts {
            if known.insert(glance.row.host.as_str()) {
                let mut value = clean::value(host(glance));
                value["run"] = seen.dir.id.as_str().into();
                hosts.push(value);
            }
        }
    }
    hosts.sort_by(|a, b| a["host"].as_str().cmp(&b["host"].as_str()));
    hosts.into()
}
