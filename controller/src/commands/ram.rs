//! The way into a host's RAM system, for commands that do something there.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::passphrase::OnTerminal;
use super::{CommandError, Status};
use crate::journal::{HostEntry, RunDir};
use crate::run::{Asked, Found, read};
use crate::screen;
use crate::select::Pattern;
use crate::ssh::{self, Address, Credentials, Passphrases, Policy, Session, Tuning};

/// How long it may take to be reached.
const REACH: Duration = Duration::from_secs(30);

/// The one host that is meant, in the newest run that has it in RAM, or in the run that is named. `what` is for one
/// host only, for an error.
pub(super) fn one(host: &Pattern, run: Option<String>, what: &str) -> Result<(RunDir, HostEntry), CommandError> {
    let asked = Asked { words: vec![host.to_string()], run, in_ram: true, ..Asked::default() };
    let Found { run, mut hosts, .. } = asked.find()?;
    match hosts.pop() {
        Some(entry) if hosts.is_empty() => Ok((run, entry)),
        last => {
            let names: Vec<&str> = hosts.iter().chain(&last).map(|host| host.name.as_str()).collect();
            let why = format!("`{host}` means {} of run {}; {what} one host", names.join(", "), run.id);
            Err(CommandError::bad_input(why))
        }
    }
}

/// Connects to the RAM system of a host.
pub(super) async fn reach(run: &RunDir, entry: &HostEntry) -> Result<Session, CommandError> {
    let digested = read(run, &entry.name)?;
    // Where the journal is damaged, that it knows of no boot proves nothing.
    let agent_port = match digested.old {
        Some(old) => Some(old.agent_port),
        None => digested.damaged.map(|_| entry.address.port),
    };
    let (Some(port), Some(key)) = (agent_port, run.key()?) else {
        return Err(CommandError::bad_input(format!("`{}` is not in RAM in run {}", entry.name, run.id)));
    };
    let address = Address { port, ..entry.address.clone() };
    // There is no screen to put out of the way.
    let asks: Arc<dyn Passphrases> = Arc::new(OnTerminal(screen::control().0));
    ssh::ask_at_jump_hosts(&asks);
    let deadline = Instant::now() + REACH;
    let policy = Policy::pinned(vec![entry.agent_key.clone()]);
    let failed = |what: &dyn fmt::Display| unreached(&entry.name, what);
    let (counters, tuning) = (Arc::default(), Tuning::default());
    let connected = ssh::connect(&address, &policy, &counters, deadline, &tuning).await;
    let connected = connected.map_err(|error| failed(&error))?;
    connected.authenticate("root", &Credentials::Run(key), deadline).await.map_err(|error| failed(&error))
}

/// That nothing can be done there, because …
pub(super) fn unreached(host: &str, what: &dyn fmt::Display) -> CommandError {
    CommandError { status: Status::NotAll, message: format!("{host}: the RAM system can't be reached: {what}") }
}
