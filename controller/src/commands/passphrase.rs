//! Asking for passphrases and passwords on the terminal, with the screen out of the way.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::pin::Pin;
use std::time::Duration;

use anemos_proto::Secret;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::screen::Control;
use crate::screen::text::sanitise_str;
use crate::ssh::Passphrases;

/// Time between two looks at what was typed.
const TYPED_EVERY: Duration = Duration::from_millis(50);

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
                return Err("there is no terminal to ask on: add the key to an SSH agent".into());
            };
            let _paused = self.0.pause().await;
            // It may hold what a host says.
            let lines: Vec<String> = prompt.split('\n').map(sanitise_str).collect();
            let typed = hidden_line(tty, &lines.join("\n")).await;
            typed.map_err(|error| format!("what was typed could not be read: {error}"))
        })
    }
}

/// The terminal that this process was started from, wherever its streams lead.
fn tty() -> Option<File> {
    OpenOptions::new().read(true).write(true).open("/dev/tty").ok()
}

async fn hidden_line(mut tty: File, prompt: &str) -> std::io::Result<Secret> {
    // Opened anew, because not to wait holds for all who share an open file.
    let keyboard = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/tty")?;
    // Shows again what is typed when this is dropped, which Ctrl-C does as well.
    let mut hidden = Hidden::new(tty.try_clone()?)?;
    tty.write_all(prompt.as_bytes())?;
    let line = line(keyboard).await;
    hidden.answered = line.is_ok();
    line
}

/// A line, without its end, from a file that doesn't wait. No thread reads on once this is dropped: what is typed then
/// is for somebody else.
async fn line(mut keyboard: File) -> std::io::Result<Secret> {
    let mut line = Vec::new();
    loop {
        let mut byte = [0];
        match keyboard.read(&mut byte) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) if byte == *b"\n" => return Ok(Secret::new(line)),
            Ok(_) => line.extend(byte),
            Err(error) if error.kind() == ErrorKind::WouldBlock => tokio::time::sleep(TYPED_EVERY).await,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
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

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn an_answer_that_nobody_waits_for_is_left_to_the_next() {
        let (mut typing, tty) = UnixStream::pair().unwrap();
        tty.set_nonblocking(true).unwrap();
        let tty = File::from(OwnedFd::from(tty));
        let keyboard = || tty.try_clone().unwrap();
        let asked = tokio::time::timeout(Duration::from_millis(100), line(keyboard())).await;
        assert!(asked.is_err(), "{asked:?}");
        typing.write_all(b"for another\nthe next\n").unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(line(keyboard()).await.unwrap().expose(), b"for another");
        assert_eq!(line(keyboard()).await.unwrap().expose(), b"the next");
        drop(typing);
        assert_eq!(line(keyboard()).await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }
}
