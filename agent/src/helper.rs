//! What a payload can tell the agent, through `anemos-agent step`, `progress` and `note`.
//!
//! A connection carries one line each way: the payload sends a word and its arguments, separated by tabs; the agent
//! answers `ok` or the error.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anemos_proto::event::AgentState;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::app::App;

/// Longest line that the agent reads, in bytes.
const MAX_LINE: u64 = 8 * 1024;
const DEADLINE: Duration = Duration::from_secs(10);

/// What the payload says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// A new step begins.
    Step(String),
    /// How far the step is.
    Progress {
        /// Done.
        done: u64,
        /// In all.
        total: Option<u64>,
        /// What is being worked on.
        what: Option<String>,
    },
    /// Something to know.
    Note(String),
}

/// A call and its answer.
pub struct Plea {
    /// The call.
    pub call: Call,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Result<(), String>>,
}

impl Call {
    /// From the words of a command line after the subcommand.
    pub fn parse(word: &str, arguments: &[String]) -> Result<Self, String> {
        let text = arguments.join(" ");
        if text.is_empty() {
            return Err(format!("`{word}` needs something to say"));
        }
        match word {
            "step" => Ok(Self::Step(text)),
            "note" => Ok(Self::Note(text)),
            "progress" => {
                let (done, total) = match arguments[0].split_once('/') {
                    Some((done, total)) => (done, Some(total)),
                    None => (arguments[0].as_str(), None),
                };
                let number = |text: &str| {
                    text.trim().parse::<u64>().map_err(|_| format!("`{text}` is no number, in `{}`", arguments[0]))
                };
                let what = Some(arguments[1..].join(" ")).filter(|what| !what.is_empty());
                Ok(Self::Progress { done: number(done)?, total: total.map(number).transpose()?, what })
            }
            _ => Err(format!("unknown word `{word}`")),
        }
    }

    pub fn line(&self) -> String {
        let clean = |text: &str| text.replace(['\t', '\n', '\r'], " ");
        match self {
            Self::Step(name) => format!("step\t{}\n", clean(name)),
            Self::Note(text) => format!("note\t{}\n", clean(text)),
            Self::Progress { done, total, what } => {
                let total = total.map(|total| format!("/{total}")).unwrap_or_default();
                let what = what.as_ref().map(|what| format!("\t{}", clean(what))).unwrap_or_default();
                format!("progress\t{done}{total}{what}\n")
            }
        }
    }

    pub fn from_line(line: &str) -> Result<Self, String> {
        let mut fields = line.trim_end_matches('\n').split('\t').map(str::to_owned);
        let word = fields.next().unwrap_or_default();
        Self::parse(&word, &fields.collect::<Vec<_>>())
    }
}

/// The payload's side.
pub fn tell(socket: &Path, call: &Call) -> Result<(), String> {
    let talk = || -> std::io::Result<String> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(2 * DEADLINE))?;
        stream.write_all(call.line().as_bytes())?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        Ok(answer)
    };
    let answer = talk().map_err(|e| {
        format!(
            "can't reach the agent at {}: {e}. This works only inside a payload that the agent runs.",
            socket.display()
        )
    })?;
    match answer.trim_end() {
        "ok" => Ok(()),
        "" => Err("the agent did not answer".into()),
        error => Err(error.into()),
    }
}

/// The agent's side: hands calls over to whoever runs the payload.
pub fn listen(app: Arc<App>, pleas: mpsc::UnboundedSender<Plea>) -> std::io::Result<()> {
    let path = app.paths.socket();
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    // Limits the calls that are served at a time, so that a payload which forks helpers without end can't exhaust the
    // agent.
    let room = Arc::new(Semaphore::new(16));
    tokio::spawn(async move {
        loop {
            let Ok(permit) = room.clone().acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let (app, pleas) = (app.clone(), pleas.clone());
            tokio::spawn(async move {
                let _ = tokio::time::timeout(DEADLINE, answer(&app, stream, &pleas)).await;
                drop(permit);
            });
        }
    });
    Ok(())
}

async fn answer(app: &App, mut stream: tokio::net::UnixStream, pleas: &mpsc::UnboundedSender<Plea>) {
    let (reader, mut writer) = stream.split();
    let mut line = String::new();
    let mut reader = tokio::io::BufReader::new(reader).take(MAX_LINE);
    let result = match reader.read_line(&mut line).await {
        Ok(_) if line.ends_with('\n') => match Call::from_line(&line) {
            Ok(call) => plead(app, call, pleas).await,
            Err(error) => Err(error),
        },
        Ok(_) => Err(format!("longer than {MAX_LINE} bytes")),
        Err(e) => Err(format!("can't be read: {e}")),
    };
    let text = result.map_or_else(|error| format!("{error}\n"), |()| "ok\n".into());
    let _ = writer.write_all(text.as_bytes()).await;
}

async fn plead(app: &App, call: Call, pleas: &mpsc::UnboundedSender<Plea>) -> Result<(), String> {
    if *app.state.borrow() != AgentState::Running {
        return Err("no payload is running".into());
    }
    let (answer, heard) = oneshot::channel();
    let _ = pleas.send(Plea { call, answer });
    heard.await.unwrap_or_else(|_| Err("no payload is running".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_survive_the_way() {
        let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let cases = [
            ("step", words(&["make", "file systems"]), Call::Step("make file systems".into())),
            ("note", words(&["two\nlines"]), Call::Note("two lines".into())),
            ("progress", words(&["3/10"]), Call::Progress { done: 3, total: Some(10), what: None }),
            ("progress", words(&["7"]), Call::Progress { done: 7, total: None, what: None }),
            (
                "progress",
                words(&["1/2", "bash", "5"]),
                Call::Progress { done: 1, total: Some(2), what: Some("bash 5".into()) },
            ),
        ];
        for (word, arguments, expected) in cases {
            let call = Call::parse(word, &arguments).unwrap();
            assert_eq!(Call::from_line(&call.line()).unwrap(), expected);
        }
    }

    #[test]
    fn nonsense_is_refused_with_the_word_in_question() {
        let error = |word: &str, argument: &str| Call::parse(word, &[argument.to_owned()]).unwrap_err();
        assert!(error("progress", "ten/20").contains("`ten`"));
        assert!(error("progress", "1/").contains("`1/`"));
        assert!(error("dance", "x").contains("`dance`"));
        assert!(Call::parse("step", &[]).unwrap_err().contains("`step`"));
    }
}
