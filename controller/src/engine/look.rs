//! Looking at a system that is up: which one is it?

use tokio::time::Instant;

use super::said::Said;
use super::script;
use crate::ssh::{ExecError, Exit, Session};

/// A system, as it says itself over a connection whose host key was proved.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Look {
    /// Its boot id.
    pub boot_id: String,
    /// What its root file system is: number of the file system and machine id. Empty parts where it can't say.
    pub identity: String,
    /// `PRETTY_NAME` of its os-release, or empty.
    pub os: String,
    /// What the last RAM system that noted something in this machine's firmware noted: see
    /// [`anemos_proto::agent::NOTE`].
    pub note: String,
}

/// At most so many bytes of an answer are read.
const LIMIT: usize = 64 * 1024;

/// Asks a system what it is, before `deadline`. An error says why it did not tell.
pub async fn look(session: &Session, deadline: Instant) -> Result<Look, String> {
    let (stdout, stderr, exit) =
        session.output(&script::look(), LIMIT, deadline).await.map_err(|e: ExecError| e.to_string())?;
    let look = parse(&String::from_utf8_lossy(&stdout));
    if look.boot_id.is_empty() {
        let mut said = Said::default();
        said.out(&stdout);
        said.err(&stderr);
        let said = said.text().unwrap_or_default();
        return Err(format!("it did not tell its boot id ({said}; {})", exit_text(&exit)));
    }
    Ok(look)
}

pub fn parse(text: &str) -> Look {
    let mut look = Look::default();
    for line in text.lines().filter_map(script::marked) {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("boot", id) => look.boot_id = id.trim().into(),
            ("root", id) => look.identity = id.trim().into(),
            ("os", name) => look.os = name.trim().into(),
            ("note", note) => look.note = note.trim().into(),
            _ => {}
        }
    }
    look
}

/// How a command ended, in words.
pub fn exit_text(exit: &Exit) -> String {
    match exit {
        Exit::Status(status) => format!("exit status {status}"),
        Exit::Signal(signal) => format!("ended by SIG{signal}"),
        Exit::Unknown => "the connection ended first".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_among_noise() {
        let look = parse(
            "Welcome!\n\x1b[0manemos: boot 1234\nanemos: root abc-def\r\nanemos: os Debian GNU/Linux 13 (trixie)\n\
             anemos: note run 1\n",
        );
        assert_eq!(
            look,
            Look {
                boot_id: "1234".into(),
                identity: "abc-def".into(),
                os: "Debian GNU/Linux 13 (trixie)".into(),
                note: "run 1".into()
            }
        );
        assert_eq!(parse("nothing"), Look::default());
    }
}
