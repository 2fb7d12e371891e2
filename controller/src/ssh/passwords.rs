//! Passwords and what else a server asks a person (RFC 4256), where no key opens. What is typed is kept in this
//! process, so that the same host needn't be asked about twice, and nowhere else.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{LazyLock, Mutex, PoisonError};

use anemos_proto::Secret;
use russh::client::{Handle, KeyboardInteractiveAuthResponse, Prompt};
use russh::{MethodKind, MethodSet, client::AuthResult};

use super::{Callbacks, HostKey};

/// Asks a person for passphrases and passwords.
pub trait Passphrases: std::fmt::Debug + Send + Sync {
    /// Whether there is any point in asking.
    fn possible(&self) -> bool;

    /// Asks for a line that must not be seen. The prompt may hold text of a host's. An error says why there is none.
    fn ask(&self, prompt: String) -> Pin<Box<dyn Future<Output = Result<Secret, String>> + Send + '_>>;
}

/// Times that a person may try.
const TRIES: usize = 3;

/// Answers to a server's questions.
#[derive(Debug)]
pub(super) struct Passwords<'a> {
    /// Asks a person; `None` where nobody may be asked.
    asks: Option<&'a dyn Passphrases>,
    /// Whose host and whose account it is: what is typed is for no other.
    place: (HostKey, String),
    /// How the account is called in questions.
    account: String,
    tries: usize,
    /// A password that opened this account before, and was not tried yet.
    known: Option<Secret>,
    /// The password that was sent last.
    sent: Option<Secret>,
    /// The server offers keyboard-interactive and asks nothing by it.
    mute: bool,
    asked: bool,
}

/// What was typed before, by host key and user.
static KNOWN: LazyLock<Mutex<HashMap<(HostKey, String), Secret>>> = LazyLock::new(Mutex::default);

/// Why there is no answer to give.
enum NoAnswer {
    /// Nobody may be asked, or nobody answers.
    Nobody(String),
    /// The connection is gone.
    Gone,
}

impl From<russh::Error> for NoAnswer {
    fn from(_: russh::Error) -> Self {
        Self::Gone
    }
}

/// What one try came to.
pub(super) enum Tried {
    /// What the server says.
    Said(AuthResult),
    /// It was not tried: nobody answers, because …
    Not(String),
}

impl<'a> Passwords<'a> {
    pub fn new(asks: Option<&'a dyn Passphrases>, host: &HostKey, user: &str, address: &str) -> Self {
        let place = (host.clone(), user.to_owned());
        let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner).get(&place).cloned();
        Self {
            asks,
            place,
            account: format!("{user}@{address}"),
            tries: 0,
            known,
            sent: None,
            mute: false,
            asked: false,
        }
    }

    /// Which of the methods that the server takes is to be tried now.
    pub fn method(&self, methods: &MethodSet) -> Option<MethodKind> {
        if self.tries >= TRIES || (self.known.is_none() && self.asks.is_none()) {
            return None;
        }
        let wanted = [MethodKind::KeyboardInteractive, MethodKind::Password];
        wanted.into_iter().find(|kind| methods.contains(kind) && !(self.mute && *kind == wanted[0]))
    }

    /// Whether what is typed might be right the next time.
    pub fn may_go_on(&self) -> bool {
        self.tries < TRIES && self.asks.is_some()
    }

    /// Whether a person was asked anything.
    pub fn was_asked(&self) -> bool {
        self.asked
    }

    pub async fn try_one(&mut self, handle: &mut Handle<Callbacks>, method: MethodKind) -> Tried {
        self.sent = None;
        let known = self.known.is_some();
        let said = match method {
            MethodKind::Password => self.password(handle).await,
            _ => self.conversation(handle).await,
        };
        let said = match said {
            Ok(said) => said,
            Err(NoAnswer::Nobody(why)) => {
                self.tries = TRIES;
                return Tried::Not(why);
            }
            // As russh tells of it when the other methods are tried.
            Err(NoAnswer::Gone) => {
                AuthResult::Failure { remaining_methods: MethodSet::empty(), partial_success: false }
            }
        };
        let opened = matches!(said, AuthResult::Success | AuthResult::Failure { partial_success: true, .. });
        let mut all = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        match (opened, self.sent.take()) {
            (true, Some(password)) => drop(all.insert(self.place.clone(), password)),
            (false, Some(_)) if known => drop(all.remove(&self.place)),
            _ => {}
        }
        let asked_nothing = self.mute && method == MethodKind::KeyboardInteractive;
        if !opened && !known && !asked_nothing {
            self.tries += 1;
        }
        Tried::Said(said)
    }

    async fn password(&mut self, handle: &mut Handle<Callbacks>) -> Result<AuthResult, NoAnswer> {
        let question = format!("{}Password of {}: ", self.again(), self.account);
        let password = self.answer(question, true).await?;
        let user = self.place.1.clone();
        Ok(handle.authenticate_password(user, password).await?)
    }

    /// Answers whatever the server asks, until it has decided.
    async fn conversation(&mut self, handle: &mut Handle<Callbacks>) -> Result<AuthResult, NoAnswer> {
        use KeyboardInteractiveAuthResponse as Response;
        let mut asked = 0;
        let mut again = self.again();
        let mut response = handle.authenticate_keyboard_interactive_start(self.place.1.clone(), None).await?;
        loop {
            match response {
                Response::Success => return Ok(AuthResult::Success),
                Response::Failure { remaining_methods, partial_success } => {
                    self.mute = asked == 0 && !partial_success;
                    return Ok(AuthResult::Failure { remaining_methods, partial_success });
                }
                Response::InfoRequest { name, instructions, prompts } => {
                    let mut said: Vec<&str> = [name.trim(), instructions.trim()].into();
                    said.retain(|text| !text.is_empty());
                    let mut lead = said.iter().fold(std::mem::take(&mut again), |lead, text| format!("{lead}{text}\n"));
                    let mut answers = Vec::new();
                    for prompt in &prompts {
                        let question = format!("{}({}) {}", std::mem::take(&mut lead), self.account, prompt.prompt);
                        answers.push(self.answer(question, is_password(prompt, prompts.len())).await?);
                        asked += 1;
                    }
                    // What comes without a question, such as that a password was changed, is said with the next.
                    again = lead;
                    response = handle.authenticate_keyboard_interactive_respond(answers).await?;
                }
            }
        }
    }

    fn again(&self) -> String {
        if self.tries == 0 { String::new() } else { "That was not it. ".into() }
    }

    /// An answer, typed now or, if a password is asked for, before.
    async fn answer(&mut self, question: String, password: bool) -> Result<String, NoAnswer> {
        let answer = match (password.then(|| self.known.take()).flatten(), self.asks) {
            (Some(known), _) => known,
            (None, Some(asks)) => {
                self.asked = true;
                asks.ask(question).await.map_err(NoAnswer::Nobody)?
            }
            (None, None) => return Err(NoAnswer::Nobody("nobody is asked for it here".into())),
        };
        let text = String::from_utf8(answer.expose().to_vec());
        if password {
            self.sent = Some(answer);
        }
        text.map_err(|_| NoAnswer::Nobody("what was typed is not UTF-8".into()))
    }
}

/// Whether a question is the one for the account's password, and nothing that changes from time to time.
fn is_password(prompt: &Prompt, among: usize) -> bool {
    let text = prompt.prompt.to_lowercase();
    among == 1
        && !prompt.echo
        && text.contains("password")
        && !["new", "current", "retype", "one-time", "otp"].iter().any(|word| text.contains(word))
}
