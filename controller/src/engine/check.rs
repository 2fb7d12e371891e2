//! Runs the user's check on a new system, as root.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::look::exit_text;
use super::root::{Questions, Reply, Way, says_wrong};
use super::said::Said;
use super::script::marked;
use super::terminal::{self, Refused};
use crate::patience;
use crate::ssh::{ExecError, Exit, Output, Session};

/// Reads the script that it runs, so that any login shell can hand it over. Its words on standard output come after
/// a mark.
const READ: &str = "printf \"anemos: root\\n\"; sh -c \"$(cat)\" </dev/null";

/// The password is another one there. Whoever gave it should not do so again: some systems lock such a user out.
#[derive(Debug, PartialEq, Eq)]
pub struct WrongPassword;

/// Runs a command on a system as root. The inner error is why it did not succeed. `user` has logged in.
pub async fn check(
    session: &Session,
    user: &str,
    way: &Way,
    text: &str,
    deadline: Instant,
) -> Result<Result<(), String>, WrongPassword> {
    // The last try before a deadline still gets a moment.
    let mut until = deadline.max(Instant::now() + CHECK_AT_LEAST);
    match patience::until(&mut until, checked(session, user, way, text)).await {
        Ok(Err(Some(why))) => Ok(Err(why)),
        Ok(Err(None)) => Err(WrongPassword),
        Ok(Ok(())) => Ok(Ok(())),
        Err(_) => Ok(Err("it did not end in time".into())),
    }
}

/// The same without an end. The error is `None` if the password is wrong.
async fn checked(session: &Session, user: &str, way: &Way, text: &str) -> Result<(), Option<String>> {
    let lost = |error: ExecError| Some(error.to_string());
    let mut exec = terminal::start(session, READ, way).await.map_err(|refused| match refused {
        Refused::WrongPassword(_) => None,
        other => Some(other.why()),
    })?;
    let (mut said, mut questions) = (Said::default(), Questions::new(way));
    let (mut line, mut root) = (Vec::new(), false);
    loop {
        // What the command itself says is no question to us.
        let quiet = questions.quiet().filter(|_| !root).unwrap_or(Duration::MAX);
        match timeout(quiet, exec.next()).await {
            Ok(None) => break,
            Ok(Some(Output::Stderr(bytes))) => {
                said.err(&bytes);
                questions.push(&bytes);
            }
            Err(_) => {
                let error = match questions.reply() {
                    Reply::Nothing => continue,
                    Reply::Line(answer) => {
                        exec.writer().send(answer).await.map_err(lost)?;
                        continue;
                    }
                    Reply::Wrong => None,
                    Reply::Unknown(question) => Some(format!("it asks `{question}`")),
                };
                // Whoever asks learns that nobody answers. It may have ended by itself.
                let _ = exec.writer().end().await;
                return Err(error);
            }
            Ok(Some(Output::Stdout(_))) if root => {}
            Ok(Some(Output::Stdout(bytes))) => {
                for byte in bytes {
                    line.push(byte);
                    if byte != b'\n' {
                        continue;
                    }
                    let text_line = String::from_utf8_lossy(&std::mem::take(&mut line)).into_owned();
                    match marked(&text_line) {
                        Some("root") => root = true,
                        Some(words) if words.starts_with("by ") => {}
                        Some(words) => return Err(Some(unable(user, words))),
                        None => said.out(text_line.as_bytes()),
                    }
                }
                if root {
                    // The command may end without reading.
                    let _ = exec.writer().send(text.as_bytes().to_vec()).await;
                    let _ = exec.writer().end().await;
                }
            }
        }
    }
    match exec.exit() {
        Exit::Status(0) if root => Ok(()),
        _ if !root && questions.answered() && said.text().is_some_and(|said| says_wrong(&said)) => Err(None),
        exit => Err(Some(format!("{}; {}", exit_text(&exit), said.text().unwrap_or_default()))),
    }
}

/// How long a check may take at least.
const CHECK_AT_LEAST: Duration = Duration::from_secs(1);

/// Why a check can't be run as root.
fn unable(user: &str, words: &str) -> String {
    match words.split_once(' ').unwrap_or((words, "")) {
        ("error", why) => why.to_owned(),
        ("password", how) => format!("the check is run as root, and `{user}` needs a password for that: {how}"),
        _ => words.to_owned(),
    }
}
