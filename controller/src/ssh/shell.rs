//! A shell on the other side, bridged to this terminal.

use std::io;

use rustix::termios::{self, OptionalActions, Termios};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};

use super::{ExecError, Exit, Output, Session};

/// Why there is no shell.
#[derive(Debug, thiserror::Error)]
pub enum ShellError {
    /// The other side.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// This terminal.
    #[error("this terminal: {0}")]
    Terminal(#[from] io::Error),
}

/// Puts the terminal into raw mode for as long as it lives.
struct Raw(Termios);

impl Raw {
    fn enter() -> io::Result<Self> {
        let before = termios::tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(io::stdin(), OptionalActions::Flush, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}

fn window() -> (u32, u32) {
    termios::tcgetwinsize(io::stdout()).map_or((80, 24), |size| (size.ws_col.into(), size.ws_row.into()))
}

/// Runs `command` (or a login shell) over there, as if it were here. Without a terminal it is a plain command, fed from
/// standard input.
pub async fn interactive(session: &Session, command: Option<&str>) -> Result<Exit, ShellError> {
    let terminal = io::IsTerminal::is_terminal(&io::stdin()) && io::IsTerminal::is_terminal(&io::stdout());
    let mut exec = if terminal {
        let term = std::env::var("TERM").unwrap_or_else(|_| "vt100".into());
        session.pty(&term, window(), command).await?
    } else {
        session.exec(command.unwrap_or("exec sh")).await?
    };
    let raw = if terminal { Some(Raw::enter()?) } else { None };
    let mut resized = signal(SignalKind::window_change())?;
    let writer = exec.writer().clone();
    // Reading the terminal can't be cancelled, so a task does it; it dies with the process at the latest.
    let input = tokio::spawn(async move {
        let mut stdin = tokio::io::stdin();
        let mut buffer = vec![0; 16 * 1024];
        loop {
            match stdin.read(&mut buffer).await {
                Ok(0) | Err(_) => break writer.end().await,
                Ok(n) => writer.send(buffer[..n].to_vec()).await?,
            }
        }
    });
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    loop {
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
                None => break,
            },
            _ = resized.recv(), if terminal => {
                let (columns, rows) = window();
                exec.writer().window(columns, rows).await?;
            }
        }
    }
    input.abort();
    drop(raw);
    Ok(exec.exit())
}
