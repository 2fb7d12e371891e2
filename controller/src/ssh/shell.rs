//! A shell on the other side, bridged to this terminal.

use std::io;

use rustix::fd::AsFd;
use rustix::termios::{self, OptionalActions, Termios};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};

use super::{ExecError, Exit, Output, Session};
use crate::signals::Leaving;

/// Why there is no shell.
#[derive(Debug, thiserror::Error)]
pub enum ShellError {
    /// The other side.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// This terminal.
    #[error("this terminal: {0}")]
    Terminal(#[from] io::Error),
    /// Nobody said how it ended over there.
    #[error("the link was lost; what ran there may go on")]
    Lost,
    /// This process was told to end.
    #[error("ended here by signal {0}")]
    Ended(i32),
}

/// Puts a terminal into raw mode for as long as it lives.
struct Raw<T: AsFd> {
    terminal: T,
    before: Termios,
}

impl<T: AsFd> Raw<T> {
    fn enter(terminal: T) -> io::Result<Self> {
        let before = termios::tcgetattr(&terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(&terminal, OptionalActions::Flush, &raw)?;
        Ok(Self { terminal, before })
    }
}

impl<T: AsFd> Drop for Raw<T> {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = termios::tcsetattr(&self.terminal, OptionalActions::Flush, &self.before);
    }
}

fn window() -> (u32, u32) {
    termios::tcgetwinsize(io::stdout()).map_or((80, 24), |size| (size.ws_col.into(), size.ws_row.into()))
}

/// Runs `command` (or a login shell) over there, as if it were here. Without a terminal it is a plain command, fed from
/// standard input. SIGTERM and SIGHUP end it here, so that the terminal is as it was.
pub async fn interactive(session: &Session, command: Option<&str>) -> Result<Exit, ShellError> {
    let terminal = io::IsTerminal::is_terminal(&io::stdin()) && io::IsTerminal::is_terminal(&io::stdout());
    bridge(session, command, terminal, tokio::io::stdin()).await
}

/// The same with another input.
pub(super) async fn bridge(
    session: &Session,
    command: Option<&str>,
    terminal: bool,
    mut input: impl AsyncRead + Send + Unpin + 'static,
) -> Result<Exit, ShellError> {
    let mut exec = if terminal {
        let term = std::env::var("TERM").unwrap_or_else(|_| "vt100".into());
        session.pty(&term, window(), command).await?
    } else {
        session.exec(command.unwrap_or("exec sh")).await?
    };
    let mut ended = Leaving::of(&[SignalKind::terminate(), SignalKind::hangup()])?;
    let raw = if terminal { Some(Raw::enter(io::stdin())?) } else { None };
    let mut resized = signal(SignalKind::window_change())?;
    let writer = exec.writer().clone();
    // Reading the terminal can't be cancelled, so a task does it; it dies with the process at the latest.
    let reading = tokio::spawn(async move {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            match input.read(&mut buffer).await {
                Ok(0) | Err(_) => break writer.end().await,
                Ok(n) => writer.send(buffer[..n].to_vec()).await?,
            }
        }
    });
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    let by = loop {
        tokio::select! {
            output = exec.next() => match output {
                Some(Output::Stdout(bytes)) => {
                    stdout.write_all(&bytes).await?;
                    stdout.flush().await?;
                }
                Some(Output::Stderr(bytes)) => {
                    stderr.write_all(&bytes).await?;
                    stderr.flush().await?;
                }
                None => break None,
            },
            signal = ended.next() => break Some(signal),
            _ = resized.recv(), if terminal => {
                let (columns, rows) = window();
                exec.writer().window(columns, rows).await?;
            }
        }
    };
    reading.abort();
    drop(raw);
    match (by, exec.exit()) {
        (Some(signal), _) => Err(ShellError::Ended(signal)),
        (None, Exit::Unknown) => Err(ShellError::Lost),
        (None, exit) => Ok(exit),
    }
}

#[cfg(test)]
mod tests {
    use rustix::termios::LocalModes;

    use super::*;

    #[test]
    fn a_terminal_is_raw_for_as_long_as_it_must_be() {
        let ours = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).unwrap();
        let cooked = || termios::tcgetattr(&ours).unwrap().local_modes.contains(LocalModes::ICANON | LocalModes::ECHO);
        assert!(cooked());
        let raw = Raw::enter(&ours).unwrap();
        assert!(!cooked());
        drop(raw);
        assert!(cooked());
    }
}
