//! The commands.

mod base;
mod jobs;
mod look_back;
mod passphrase;
mod reenter;
mod runs;
mod up;

use std::fmt;
use std::io::Write;

use tokio::sync::watch as signal;

use crate::cli::{Cli, Command};
use crate::journal::JournalError;
use crate::report::{Ending, Summary};

/// The exit status, as `--help` lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// All went well.
    Done = 0,
    /// Something that should not happen.
    Internal = 1,
    /// Bad input or usage.
    BadInput = 2,
    /// The plan was refused.
    Refused = 3,
    /// Some host was not deployed.
    NotAll = 4,
    /// Stopped or detached by Ctrl-C.
    Interrupted = 130,
}

/// Why a command can't be done at all.
#[derive(Debug)]
pub struct CommandError {
    /// The exit status.
    pub status: Status,
    /// What the user is told.
    pub message: String,
}

impl CommandError {
    #[allow(clippy::needless_pass_by_value, reason = "so that it can be given to map_err")]
    fn bad_input(message: impl ToString) -> Self {
        Self { status: Status::BadInput, message: message.to_string() }
    }

    #[allow(clippy::needless_pass_by_value, reason = "so that it can be given to map_err")]
    fn internal(message: impl ToString) -> Self {
        Self { status: Status::Internal, message: message.to_string() }
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<JournalError> for CommandError {
    fn from(error: JournalError) -> Self {
        let status = match error {
            JournalError::NoRun(_)
            | JournalError::NoRuns(_)
            | JournalError::NoHome
            | JournalError::Ambiguous { .. }
            | JournalError::Unwritable { .. } => Status::BadInput,
            _ => Status::Internal,
        };
        Self { status, message: error.to_string() }
    }
}

/// Does what the command line says.
pub async fn run(cli: Cli) -> Result<Status, CommandError> {
    match cli.command {
        Command::Up(args) => up::up(args).await,
        Command::Plan(args) => up::plan(args).await,
        Command::Attach(args) => reenter::attach(args).await,
        Command::Retry(args) => reenter::retry(args).await,
        Command::Abort(args) => reenter::abort(args).await,
        Command::Finish(args) => reenter::finish(args).await,
        Command::Shell(args) => reenter::shell(args).await,
        Command::Status(args) => look_back::status(&args),
        Command::Logs(args) => look_back::logs(&args),
        Command::Runs(args) => runs::runs(&args),
        Command::Base(args) => base::run(args).await,
    }
}

/// Turns true at the first Ctrl-C (or SIGTERM); the second ends the process.
fn stop_signal() -> Result<signal::Receiver<bool>, CommandError> {
    use tokio::signal::unix::{SignalKind, signal as unix};
    let (sender, receiver) = signal::channel(false);
    let mut interrupt = unix(SignalKind::interrupt()).map_err(CommandError::internal)?;
    let mut terminate = unix(SignalKind::terminate()).map_err(CommandError::internal)?;
    tokio::spawn(async move {
        let mut times = 0;
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            times += 1;
            if times > 1 {
                std::process::exit(Status::Interrupted as i32);
            }
            // Nobody listening means that there is nothing left to stop.
            let _ = sender.send(true);
        }
    });
    Ok(receiver)
}

/// The exit status for how the hosts ended; `None` stands for one that was turned away from. `refused` names those that
/// were not begun with, because of their plan.
fn status_of(ends: &[Option<Summary>], refused: &[String], stopped: bool) -> Status {
    let failed = |end: &Summary| end.outcome != Ending::Deployed && !refused.contains(&end.host);
    if stopped || ends.iter().any(Option::is_none) {
        Status::Interrupted
    } else if ends.iter().flatten().any(failed) {
        Status::NotAll
    } else if refused.is_empty() {
        Status::Done
    } else {
        Status::Refused
    }
}

/// Writes a line to standard output. That its reader has gone is no error.
fn line(text: impl fmt::Display) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}
