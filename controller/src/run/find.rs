//! Finds runs, and what their journals say.

use crate::journal::{self, Digested, HostEntry, JournalError, Keep, RunDir, RunStore};
use crate::report::Ending;

use super::error::RunError;

/// The run, and the host if one is named; a single name may be either's.
pub fn pick(run: Option<&str>, host: Option<&str>) -> Result<(RunDir, Option<String>), RunError> {
    pick_in(&RunStore::open()?, run, host)
}

fn pick_in(store: &RunStore, run: Option<&str>, host: Option<&str>) -> Result<(RunDir, Option<String>), RunError> {
    let found = store.find(run);
    let (Some(name), None) = (run, host) else { return Ok((found?, host.map(str::to_owned))) };
    match (found, newest_with(store, name)?) {
        (Err(JournalError::NoRun(_)), Some(run)) => Ok((run, Some(name.to_owned()))),
        (Err(JournalError::NoRun(_)), None) => Err(RunError::bad_input(format!(
            "there is no run `{name}`, and no run has a host of that name in RAM; `anemos status` lists runs"
        ))),
        // A part of a run's name may be the name of a host as well; a whole one is meant as what it is.
        (Ok(run), Some(other)) if run.id.as_str() != name => Err(RunError::bad_input(format!(
            "`{name}` may be run {} or host `{name}` of run {}; write more of the run, or run and host",
            run.id, other.id
        ))),
        (Err(error @ JournalError::Ambiguous { .. }), Some(other)) => {
            Err(RunError::bad_input(format!("{error}, or give run and host for host `{name}` of run {}", other.id)))
        }
        (found, _) => Ok((found?, None)),
    }
}

/// The newest run that has the host and its key, or the one named.
pub fn run_of(host: &str, name: Option<&str>) -> Result<RunDir, RunError> {
    let store = RunStore::open()?;
    if name.is_some() {
        return Ok(store.find(name)?);
    }
    newest_with(&store, host)?
        .ok_or_else(|| RunError::bad_input(format!("no run has the host `{host}` in RAM; `anemos status` lists runs")))
}

/// The newest run that has the host and its key.
fn newest_with(store: &RunStore, host: &str) -> Result<Option<RunDir>, RunError> {
    // A key that can't be read is there all the same; whoever needs it says what is wrong with it.
    let has_key = |run: &RunDir| !matches!(run.key(), Ok(None));
    let has_host = |run: &RunDir| run.load().is_ok_and(|file| file.hosts.iter().any(|entry| entry.name == host));
    Ok(store.runs()?.into_iter().find(|run| has_key(run) && has_host(run)))
}

/// The journal of a host, without what was told; one that was never begun is empty.
pub fn read(run: &RunDir, host: &str) -> Result<Digested, JournalError> {
    journal::digest(&run.journal(host), Keep::Nothing)
}

/// Why a host can't be in RAM any more.
pub(super) fn not_in_ram(digested: &Digested) -> Option<String> {
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

/// Those of the hosts that can be in RAM, or an error with the reasons if there are none.
pub fn some_in_ram(run: &RunDir, hosts: &[HostEntry]) -> Result<Vec<String>, RunError> {
    let (mut in_ram, mut reasons) = (Vec::new(), Vec::new());
    for host in hosts {
        match read(run, &host.name).map(|journal| not_in_ram(&journal)) {
            Ok(None) => in_ram.push(host.name.clone()),
            Ok(Some(why)) => reasons.push(format!("{}: {why}", host.name)),
            Err(error) => reasons.push(format!("{}: {error}", host.name)),
        }
    }
    if in_ram.is_empty() { Err(RunError::bad_input(reasons.join("\n"))) } else { Ok(in_ram) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::samples::{run_file, run_key};

    #[test]
    fn a_name_that_may_be_a_run_s_or_a_host_s_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let store = RunStore::at(dir.path().join("runs"));
        for (id, host) in [
            ("20261123-093000-db01", "web1"),
            ("20261123-093000-0a1b", "db01"),
            ("20261124-093000-cafe", "a"),
            ("20261125-093000-cafe", "cafe"),
        ] {
            drop(store.create(&run_file(id, &[host]), &run_key()).unwrap());
        }
        let picked = |name: &str| match pick_in(&store, Some(name), None) {
            Ok((run, host)) => format!("{} {}", run.id, host.unwrap_or_default()),
            Err(error) => error.message,
        };
        assert_eq!(picked("web1"), "20261123-093000-db01 web1");
        assert_eq!(picked("0a1b"), "20261123-093000-0a1b ");
        assert_eq!(picked("20261123-093000-db01"), "20261123-093000-db01 ");
        assert_eq!(
            picked("db01"),
            "`db01` may be run 20261123-093000-db01 or host `db01` of run 20261123-093000-0a1b; write more of the run, \
             or run and host"
        );
        let several = picked("cafe");
        assert!(several.contains("20261124-093000-cafe") && several.contains("host `cafe` of run"), "{several}");
        assert!(picked("none").contains("there is no run `none`"));
    }
}
