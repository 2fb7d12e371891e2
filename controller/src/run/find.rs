//! Finds runs, and what their journals say.

use crate::journal::{self, Digested, HostEntry, JournalError, Keep, RunDir, RunStore};
use crate::report::Ending;

use super::error::RunError;

/// The run, and the host if one is named; a single name may be either's.
pub fn pick(run: Option<&str>, host: Option<&str>) -> Result<(RunDir, Option<String>), RunError> {
    let found = RunStore::open()?.find(run);
    match (found, run, host) {
        (Err(JournalError::NoRun(_)), Some(name), None) => {
            let run = run_of(name, None).map_err(|_| {
                RunError::bad_input(format!(
                    "there is no run `{name}`, and no run has a host of that name in RAM; `anemos status` lists runs"
                ))
            })?;
            Ok((run, Some(name.to_owned())))
        }
        (found, ..) => Ok((found?, host.map(str::to_owned))),
    }
}

/// The newest run that has the host and its key, or the one named.
pub fn run_of(host: &str, name: Option<&str>) -> Result<RunDir, RunError> {
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
    Err(RunError::bad_input(format!("no run has the host `{host}` in RAM; `anemos status` lists runs")))
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

/// An error with the reasons if none of the hosts can be in RAM.
pub fn some_in_ram(run: &RunDir, hosts: &[HostEntry]) -> Result<(), RunError> {
    let mut reasons = Vec::new();
    for host in hosts {
        match read(run, &host.name).map(|journal| not_in_ram(&journal)) {
            Ok(None) => return Ok(()),
            Ok(Some(why)) => reasons.push(format!("{}: {why}", host.name)),
            Err(error) => reasons.push(format!("{}: {error}", host.name)),
        }
    }
    Err(RunError::bad_input(reasons.join("\n")))
}
