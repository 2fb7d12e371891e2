//! `anemos shell`: a terminal, or a command, in the RAM system.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::passphrase::OnTerminal;
use super::{CommandError, Status};
use crate::cli;
use crate::run::{Asked, Found, read};
use crate::screen;
use crate::ssh::{self, Address, Credentials, Exit, Passphrases, Policy, ShellError, Tuning};

/// How long a shell may take to be reached.
const REACH: Duration = Duration::from_secs(30);

pub(super) async fn shell(args: cli::Shell) -> Result<Status, CommandError> {
    let words = vec![args.host.to_string()];
    let Found { run, mut hosts, .. } = Asked { words, run: args.run, in_ram: true, ..Asked::default() }.find()?;
    if hosts.len() > 1 {
        let names: Vec<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
        let why = format!("`{}` means {} of run {}; a shell is in one host", args.host, names.join(", "), run.id);
        return Err(CommandError::bad_input(why));
    }
    let entry = hosts.remove(0);
    let digested = read(&run, &entry.name)?;
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
    let failed = |what: &dyn std::fmt::Display| CommandError {
        status: Status::NotAll,
        message: format!("{}: the RAM system can't be reached: {what}", entry.name),
    };
    let counters = Arc::default();
    let connected =
        ssh::connect(&address, &policy, &counters, deadline, &Tuning::default()).await.map_err(|e| failed(&e))?;
    let session = connected.authenticate("root", &Credentials::Run(key), deadline).await.map_err(|e| failed(&e))?;
    let command = (!args.command.is_empty()).then(|| args.command.join(" "));
    let exit = ssh::interactive(&session, command.as_deref()).await;
    session.close().await;
    // The status of what ran there is the status here, as with ssh.
    let of = |status: u32| Status::Of(u8::try_from(status).unwrap_or(255));
    match exit {
        Ok(Exit::Status(0)) => Ok(Status::Done),
        Ok(Exit::Status(status)) => Ok(of(status)),
        Ok(Exit::Signal(_) | Exit::Unknown) => Ok(of(255)),
        // As the kernel's default for the signal would have it, and the shell that started this.
        Err(ShellError::Ended(signal)) => Ok(of(128 + signal.unsigned_abs())),
        Err(why @ ShellError::Lost) => Err(CommandError { status: of(255), message: format!("{}: {why}", entry.name) }),
        Err(error) => Err(failed(&error)),
    }
}
