//! Asking for a passphrase on the terminal, with the screen out of the way.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::pin::Pin;

use anemos_proto::Secret;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::screen::Control;
use crate::ssh::Passphrases;

/// Asks whoever sits at the terminal.
#[derive(Debug)]
pub(super) struct OnTerminal(pub Control);

impl Passphrases for OnTerminal {
    fn possible(&self) -> bool {
        tty().is_some()
    }

    fn ask(&self, prompt: String) -> Pin<Box<dyn Future<Output = Result<Secret, String>> + Send + '_>> {
        Box::pin(async move {
            let Some(tty) = tty() else {
                return Err("there is no terminal to ask for its passphrase: add the key to an SSH agent".into());
            };
            let _paused = self.0.pause().await;
            hidden_line(tty, &prompt).await.map_err(|error| format!("its passphrase could not be read: {error}"))
        })
    }
}

/// The terminal that this process was started from, wherever its streams lead.
fn tty() -> Option<File> {
    OpenOptions::new().read(true).write(true).open("/dev/tty").ok()
}

async fn hidden_line(mut tty: File, prompt: &str) -> std::io::Result<Secret> {
    let keyboard = tty.try_clone()?;
    // Shows again what is typed when this is dropped, which Ctrl-C does as well.
    let mut hidden = Hidden::new(tty.try_clone()?)?;
    tty.write_all(prompt.as_bytes())?;
    let read = tokio::task::spawn_blocking(move || {
        let mut line = Vec::new();
        BufReader::with_capacity(1, keyboard).read_until(b'\n', &mut line)?;
        if line.pop_if(|last| *last == b'\n').is_none() {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Secret::new(line))
    });
    let line = read.await.map_err(std::io::Error::other)?;
    hidden.answered = line.is_ok();
    line
}

/// While it lives, what is typed is not shown.
struct Hidden {
    tty: File,
    before: Termios,
    answered: bool,
}

impl Hidden {
    fn new(tty: File) -> std::io::Result<Self> {
        let before = tcgetattr(&tty)?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        hidden.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(&tty, OptionalActions::Flush, &hidden)?;
        Ok(Self { tty, before, answered: false })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(&self.tty, OptionalActions::Flush, &self.before);
        if !self.answered {
            // What comes next must not stand behind the question.
            let _ = self.tty.write_all(b"\n");
        }
    }
}
