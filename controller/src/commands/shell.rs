//! `anemos shell`: a terminal, or a command, in the RAM system.

use super::ram::{one, reach, unreached};
use super::{CommandError, Status};
use crate::cli;
use crate::ssh::{self, Exit, Session, ShellError};

pub(super) async fn shell(args: cli::Shell) -> Result<Status, CommandError> {
    let (run, entry) = one(&args.host, args.run, "a shell is in")?;
    let session = reach(&run, &entry).await?;
    within(session, &entry.name, &args.command).await
}

/// Bridges this terminal to the RAM system, or has a command run there. The status of what ran there is the status
/// here, as with ssh.
pub(super) async fn within(session: Session, host: &str, command: &[String]) -> Result<Status, CommandError> {
    let command = (!command.is_empty()).then(|| command.join(" "));
    let exit = ssh::interactive(&session, command.as_deref()).await;
    session.close().await;
    let of = |status: u32| Status::Of(u8::try_from(status).unwrap_or(255));
    match exit {
        Ok(Exit::Status(0)) => Ok(Status::Done),
        Ok(Exit::Status(status)) => Ok(of(status)),
        Ok(Exit::Signal(_) | Exit::Unknown) => Ok(of(255)),
        // As the kernel's default for the signal would have it, and the shell that started this.
        Err(ShellError::Ended(signal)) => Ok(of(128 + signal.unsigned_abs())),
        Err(why @ ShellError::Lost) => Err(CommandError { status: of(255), message: format!("{host}: {why}") }),
        Err(error) => Err(unreached(host, &error)),
    }
}
