//! Runs the user's check on a new system, as root, and asks for the password that this takes: it may have been typed
//! into a process that has ended since, or be another one there.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::before::TYPING;
use super::look::exit_text;
use super::password::Passwords;
use super::root::{Questions, Reply, Way, says_wrong};
use super::said::Said;
use super::script::marked;
use super::terminal::{self, Refused};
use crate::config::Become;
use crate::patience::{until, within};
use crate::ssh::{ExecError, Exit, Output, Session};

/// Reads the script that it runs, so that any login shell can hand it over. Its words on standard output come after
/// a mark.
const READ: &str = "printf \"anemos: root\\n\"; sh -c \"$(cat)\" </dev/null";

/// Times that a password is asked for.
const TRIES: usize = 3;

/// How long a check may take at least.
const CHECK_AT_LEAST: Duration = Duration::from_secs(1);

/// The same after somebody has typed a password.
const TYPED: Duration = Duration::from_secs(30);

/// How the checks of a host become root, one after the other.
#[derive(Debug)]
pub struct Checks {
    passwords: Arc<Passwords>,
    host: String,
    /// Times that the password was wrong.
    wrong: usize,
    /// The one that was given is wrong. It is not given again: some systems lock such a user out.
    distrusted: bool,
    /// Why there is no password, once somebody was to be asked for it. Nobody is asked again and again.
    vain: Option<String>,
}

impl Checks {
    /// For this host, with what was typed so far.
    pub fn new(passwords: &Arc<Passwords>, host: &str) -> Self {
        let passwords = Arc::clone(passwords);
        Self { passwords, host: host.to_owned(), wrong: 0, distrusted: false, vain: None }
    }

    /// Runs a command as root, and asks for the password that this takes. The error is why it did not succeed. `user`
    /// has logged in.
    pub async fn run(
        &mut self,
        session: &Session,
        (user, becomes): (&str, Option<Become>),
        text: &str,
        mut deadline: Instant,
    ) -> Result<(), String> {
        let passwords = Arc::clone(&self.passwords);
        let host = self.host.clone();
        // Once it was asked for one, it may want another.
        let _open = passwords.open(&host);
        loop {
            let given = passwords.given(&host, user).filter(|_| !self.distrusted);
            let way = match (Way::of(user, becomes), becomes, given) {
                (Way::Free(_), Some(by), Some(password)) => Way::Password(by, password),
                (way, ..) => way,
            };
            let (by, wrong) = match check(session, &way, text, deadline).await {
                Ok(result) => return result,
                Err(NotRoot::Needs(by)) => (by, false),
                Err(NotRoot::WrongPassword(by)) => (by, true),
            };
            self.distrusted |= wrong;
            self.wrong += usize::from(wrong);
            if self.vain.is_none() {
                self.vain = if self.wrong == TRIES {
                    Some(format!("it was wrong {TRIES} times ({by}); `anemos attach` asks again"))
                } else {
                    let typed = within(TYPING, passwords.get(&host, user, by, self.distrusted)).await;
                    let late = |_| Err(format!("{by} wants it, and nobody typed it in time"));
                    typed.unwrap_or_else(late).err().map(|why| format!("{why}; `anemos attach` on a terminal asks"))
                };
            }
            if let Some(why) = &self.vain {
                let other = if self.distrusted { "another" } else { "a" };
                return Err(format!("it is run as root, for which `{user}` needs {other} password there: {why}"));
            }
            self.distrusted = false;
            deadline = deadline.max(Instant::now() + TYPED);
        }
    }
}

/// Why a command is not run as root.
#[derive(Debug, PartialEq, Eq)]
pub enum NotRoot {
    /// The user needs a password for this.
    Needs(Become),
    /// The password is another one there.
    WrongPassword(Become),
}

/// Runs a command as root. The inner error is why it did not succeed.
pub async fn check(session: &Session, way: &Way, text: &str, deadline: Instant) -> Result<Result<(), String>, NotRoot> {
    // The last try before a deadline still gets a moment.
    let mut deadline = deadline.max(Instant::now() + CHECK_AT_LEAST);
    match until(&mut deadline, checked(session, way, text)).await {
        Ok(Err(Not::Done(why))) => Ok(Err(why)),
        Ok(Err(Not::Root(why))) => Err(why),
        Ok(Ok(())) => Ok(Ok(())),
        Err(_) => Ok(Err("it did not end in time".into())),
    }
}

/// Why a check did not succeed.
enum Not {
    Root(NotRoot),
    Done(String),
}

/// The same without an end.
async fn checked(session: &Session, way: &Way, text: &str) -> Result<(), Not> {
    let lost = |error: ExecError| Not::Done(error.to_string());
    let by = if let Way::Password(by, _) = way { *by } else { Become::Sudo };
    let wrong = || Not::Root(NotRoot::WrongPassword(by));
    let mut exec = terminal::start(session, READ, way).await.map_err(|refused| match refused {
        Refused::WrongPassword(by) => Not::Root(NotRoot::WrongPassword(by)),
        other => Not::Done(other.why()),
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
                    Reply::Wrong => wrong(),
                    Reply::Unknown(question) => Not::Done(format!("it asks `{question}`")),
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
                        Some(words) => return Err(unable(words)),
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
        _ if !root && questions.answered() && said.text().is_some_and(|said| says_wrong(&said)) => Err(wrong()),
        exit => Err(Not::Done(format!("{}; {}", exit_text(&exit), said.text().unwrap_or_default()))),
    }
}

/// Why a check can't be run as root.
fn unable(words: &str) -> Not {
    let (first, rest) = words.split_once(' ').unwrap_or((words, ""));
    let by = Become::named(rest.split(' ').next().unwrap_or_default());
    match (first, by) {
        ("error", _) => Not::Done(rest.to_owned()),
        ("password", Some(by)) => Not::Root(NotRoot::Needs(by)),
        _ => Not::Done(words.to_owned()),
    }
}
