//! The commands.

mod at_end;
mod base;
mod copy;
mod described;
mod handover;
mod hosts_file;
mod init;
mod login;
mod logs;
mod look_back;
mod passphrase;
mod ram;
mod reenter;
mod runs;
mod saved;
mod serve;
mod shell;
mod up;

use std::fmt;
use std::io::Write;

use tokio::sync::watch as signal;

use crate::cli::{Cli, Command, Less, OfRun};
use crate::engine::Stop;
use crate::journal::JournalError;
use crate::report::{Ending, Summary};
use crate::run::{Asked, Kind, RunError};

/// The exit status, as `--help` lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// All went well.
    Done,
    /// Something that should not happen.
    Internal,
    /// Packages of a lock have left the mirror.
    Left,
    /// Bad input or usage.
    BadInput,
    /// The plan was refused.
    Refused,
    /// Some host was not deployed.
    NotAll,
    /// Some host would be changed.
    Change,
    /// Stopped or detached by Ctrl-C.
    Interrupted,
    /// That of a command that ran in RAM.
    Of(u8),
}

impl Status {
    /// Its number.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Internal | Self::Left => 1,
            Self::BadInput => 2,
            Self::Refused => 3,
            Self::NotAll => 4,
            Self::Change => 5,
            Self::Interrupted => 130,
            Self::Of(status) => status,
        }
    }
}

/// Makes the receiver that tells when the user wants to leave. Commands that don't wait for anything leave Ctrl-C to
/// the kernel.
pub type Stopping = fn() -> std::io::Result<signal::Receiver<Stop>>;

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

impl From<RunError> for CommandError {
    fn from(error: RunError) -> Self {
        let status = match error.kind {
            Kind::BadInput => Status::BadInput,
            Kind::Internal => Status::Internal,
            Kind::NotAll => Status::NotAll,
        };
        Self { status, message: error.message }
    }
}

impl From<JournalError> for CommandError {
    fn from(error: JournalError) -> Self {
        RunError::from(error).into()
    }
}

/// What is to be found, by the command line; `in_ram`: for something that can be done in RAM only.
fn asked(of: &OfRun, in_ram: bool) -> Asked {
    let OfRun { words, run, less: Less { limit, exclude } } = of.clone();
    Asked { words, run, limit, exclude, in_ram }
}

/// Does what the command line says.
pub async fn run(cli: Cli, stopping: Stopping) -> Result<Status, CommandError> {
    match cli.command {
        Command::Up(args) if args.serve || handover::is_wanted() => handover::up(args, stopping).await,
        Command::Up(args) => up::up(args, stopping).await,
        Command::Plan(args) => up::plan(args, stopping).await,
        Command::Attach(args) => reenter::attach(args, stopping).await,
        Command::Retry(args) => reenter::retry(args, stopping).await,
        Command::Abort(args) => reenter::abort(args, stopping).await,
        Command::Finish(args) => reenter::finish(args, stopping).await,
        Command::Shell(args) => shell::shell(args).await,
        Command::Ssh(args) => login::ssh(args).await,
        Command::Cp(args) => copy::copy(args, stopping).await,
        Command::Status(args) => look_back::status(&args),
        Command::Logs(args) => logs::logs(&args).await,
        Command::Report(args) => at_end::report(&args),
        Command::Runs(args) => runs::runs(&args),
        Command::Serve(args) => serve::serve(args, stopping).await,
        Command::Base(args) => base::run(args).await,
        Command::Doctor(args) => up::doctor(args, stopping).await,
        Command::Init(args) => init::init(args, stopping).await,
        Command::Validate(args) => hosts_file::validate(args).await,
        Command::Schema => Ok(hosts_file::schema()),
        Command::Completions { shell } => Ok(described::completions(shell)),
        Command::ManPages { directory } => described::man_pages(&directory),
    }
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
