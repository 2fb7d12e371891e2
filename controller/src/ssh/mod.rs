//! SSH as the deployment needs it. The only place where russh is used.
//!
//! A connection is made in two steps that the types keep apart: [`connect`] proves which host answers, and only then
//! [`Connected::authenticate`] shows it a key. So callers can meet a host key that they know and don't want, and leave.

mod algorithms;
mod askpass;
mod auth;
mod certificate;
mod channel;
mod counting;
mod identities;
mod keys;
mod passwords;
mod shell;
mod stream;
mod sys;
mod through;
mod trunk;
mod way;

#[cfg(test)]
mod login_tests;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use russh::client;
use russh::keys::PublicKeyOrCertificate;
use tokio::time::{Instant, timeout_at};

pub use algorithms::Algorithms;
pub use askpass::handed_on;
pub use auth::{AuthError, Credentials, UserCredentials};
pub use certificate::HostCertificate;
pub use channel::{Exec, ExecError, Exit, Output, Writer};
pub use counting::Counters;
pub use keys::{HostKey, RunKey, new_seed};
pub use passwords::Passphrases;
pub use shell::{ShellError, interactive};
pub use trunk::ask_at_jump_hosts;
#[cfg(test)]
pub use way::Hop;
pub use way::{Family, Fault, Origin, Way};

use counting::Counting;
use stream::{Speaks, Stream};
use through::Life;
use trunk::Trunks;

use crate::patience;

/// Where to connect, and how.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Address {
    /// Name or IP address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The way there.
    #[serde(default, skip_serializing_if = "Way::is_plain")]
    pub way: Way,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} port {}", self.host, self.port)?;
        if self.way.is_direct() { Ok(()) } else { write!(f, " {}", self.way) }
    }
}

/// What a host key is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// It is one of the keys that are expected.
    Trusted,
    /// Nothing is known about the host.
    Unknown,
    /// Other keys are known for the host: those, as text for people.
    Changed(Vec<String>),
    /// The key was revoked, by this file.
    Revoked(String),
    /// It can't be told whether it is to be trusted, because …
    Undecided(String),
}

/// Decides about host keys, and the certificates that hosts show for them.
type Judge = dyn Fn(&HostKey, Option<&HostCertificate>) -> Judgement + Send + Sync;

/// Decides about host keys.
#[derive(Clone)]
pub struct Policy {
    prefer: Vec<String>,
    /// A host may show a certificate.
    certificates: bool,
    /// Whoever asks knows who answers, and by which key.
    pinned: bool,
    judge: Arc<Judge>,
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy").field("prefer", &self.prefer).finish_non_exhaustive()
    }
}

impl Policy {
    /// Exactly these keys.
    pub fn pinned(keys: Vec<HostKey>) -> Self {
        let prefer = keys.iter().map(|key| key.algorithm().to_owned()).collect();
        let judge = move |key: &HostKey, _: Option<&HostCertificate>| {
            if keys.contains(key) {
                Judgement::Trusted
            } else {
                Judgement::Changed(keys.iter().map(ToString::to_string).collect())
            }
        };
        Self { prefer, certificates: false, pinned: true, judge: Arc::new(judge) }
    }

    /// As `judge` says, which may take its time; `prefer` names the algorithms under which the host is known. With
    /// `certificates`, the host is asked for a certificate first.
    pub fn new(
        prefer: Vec<String>,
        certificates: bool,
        judge: impl Fn(&HostKey, Option<&HostCertificate>) -> Judgement + Send + Sync + 'static,
    ) -> Self {
        Self { prefer, certificates, pinned: false, judge: Arc::new(judge) }
    }
}

/// Why there is no connection to a host that is known to be the right one.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name can't be resolved.
    #[error("{address} can't be resolved: {source}")]
    Resolve {
        /// The name.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No TCP connection.
    #[error("no connection to {address}: {source}")]
    Tcp {
        /// Where to.
        address: Address,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What leads to the host ended, or leads nowhere.
    #[error("no connection to {address}: {}", way_text(*fault, said))]
    Way {
        /// Where to.
        address: Address,
        /// Whose fault it is.
        fault: Fault,
        /// What it said, line by line, or nothing.
        said: String,
    },
    /// A host that is to run its system is in RAM.
    #[error("an Anemos agent answers at {address}")]
    Agent {
        /// Where.
        address: Address,
    },
    /// Too slow.
    #[error("{address} did not answer in time while {doing}")]
    Timeout {
        /// Where to.
        address: Address,
        /// What was being waited for.
        doing: &'static str,
    },
    /// It answered, but not as an SSH server that we can talk to.
    #[error("SSH handshake with {address} failed: {why}")]
    Handshake {
        /// Where to.
        address: Address,
        /// Why.
        why: String,
    },
    /// The host proved to have a key that is not trusted. Nothing was shown to it.
    #[error("{address} has the host key {key}, which is not trusted: {}", judgement_text(judgement))]
    HostKey {
        /// Where to.
        address: Address,
        /// Which key.
        key: HostKey,
        /// Why not.
        judgement: Judgement,
    },
}

impl ConnectError {
    /// Why, without where: for whoever has said that.
    pub fn why(&self) -> String {
        match self {
            Self::Resolve { source, .. } | Self::Tcp { source, .. } => os_text(source),
            Self::Way { fault, said, .. } => way_text(*fault, said),
            Self::Timeout { doing, .. } => format!("no answer in time while {doing}"),
            Self::Agent { .. } => "an Anemos agent answers there: the host is in RAM, in another deployment".into(),
            Self::Handshake { why, .. } => why.clone(),
            Self::HostKey { key, judgement, .. } => {
                format!("it has the host key {key}, which is not trusted: {}", judgement_text(judgement))
            }
        }
    }
}

/// An error of the system's, without its number.
fn os_text(error: &io::Error) -> String {
    let text = error.to_string();
    text.split_once(" (os error").map_or(text.clone(), |(text, _)| text.to_owned())
}

fn way_text(fault: Fault, said: &str) -> String {
    // The last ones say how it ended.
    let lines: Vec<&str> = said.lines().collect();
    let last = lines[lines.len().saturating_sub(4)..].join("; ");
    if last.is_empty() { fault.text().into() } else { format!("{}: {last}", fault.text()) }
}

fn judgement_text(judgement: &Judgement) -> String {
    match judgement {
        Judgement::Trusted => "trusted".into(),
        Judgement::Unknown => "no key is known for this host".into(),
        Judgement::Changed(known) => format!("known for this host: {}", known.join(", ")),
        Judgement::Revoked(by) => format!("it is revoked by {by}"),
        Judgement::Undecided(why) => why.clone(),
    }
}

/// How a connection behaves.
#[derive(Debug, Clone)]
pub struct Tuning {
    /// After this long without a word from the other side, ask whether it is alive.
    pub keepalive: Duration,
    /// The connection is dead after so many unanswered questions.
    pub keepalive_max: usize,
    /// The connection is dead after the other side's kernel has taken nothing for so long: while bytes wait to be sent,
    /// nobody asks whether it is alive.
    pub stalled: Duration,
    /// Bytes after which keys are exchanged anew; `None`: 1 GiB.
    pub rekey_bytes: Option<usize>,
    /// What may be used.
    pub algorithms: Algorithms,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            keepalive: Duration::from_secs(5),
            keepalive_max: 4,
            stalled: Duration::from_secs(30),
            rekey_bytes: None,
            algorithms: Algorithms::default(),
        }
    }
}

/// What a server has shown and said besides what was asked for.
#[derive(Debug, Default)]
struct Heard {
    /// Its host key, what that is worth, and whether the host showed it in a certificate.
    key: Option<(HostKey, Judgement, bool)>,
    /// Why its host key is not even judged.
    too_short: Option<String>,
    banner: Option<String>,
    /// Why it ended the connection.
    parting: Option<String>,
}

/// Characters of a server's own words that are kept.
const WORDS_MOST: usize = 500;

impl Heard {
    fn lock(heard: &Mutex<Self>) -> MutexGuard<'_, Self> {
        heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Words in one line; `None` where there are none.
    fn words(text: &str) -> Option<String> {
        let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(WORDS_MOST).collect();
        Some(text).filter(|text| !text.is_empty())
    }
}

/// What russh calls back: it only notes and judges.
pub(crate) struct Callbacks {
    policy: Policy,
    algorithms: Algorithms,
    heard: Arc<Mutex<Heard>>,
}

impl client::Handler for Callbacks {
    type Error = russh::Error;

    async fn check_server_key(&mut self, server_key: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        if let Some(why) = self.algorithms.too_short(&server_key.public_key()) {
            Heard::lock(&self.heard).too_short = Some(why);
            return Ok(false);
        }
        let key = HostKey::of(&server_key.public_key());
        let certificate = server_key.certificate().map(HostCertificate::of);
        let certified = certificate.is_some();
        let (judge, shown) = (Arc::clone(&self.policy.judge), key.clone());
        // It may ask another program.
        let judgement = tokio::task::spawn_blocking(move || judge(&shown, certificate.as_ref())).await;
        let judgement = judgement.unwrap_or_else(|error| Judgement::Undecided(error.to_string()));
        let trusted = judgement == Judgement::Trusted;
        Heard::lock(&self.heard).key = Some((key, judgement, certified));
        Ok(trusted)
    }

    async fn auth_banner(&mut self, banner: &str, _: &mut client::Session) -> Result<(), Self::Error> {
        Heard::lock(&self.heard).banner = Heard::words(banner);
        Ok(())
    }

    async fn disconnected(&mut self, reason: client::DisconnectReason<Self::Error>) -> Result<(), Self::Error> {
        match reason {
            client::DisconnectReason::ReceivedDisconnect(info) => {
                Heard::lock(&self.heard).parting = Heard::words(&info.message);
                Ok(())
            }
            client::DisconnectReason::Error(error) => Err(error),
        }
    }
}

/// A host that proved who it is and knows nothing about us yet.
pub struct Connected {
    handle: client::Handle<Callbacks>,
    heard: Arc<Mutex<Heard>>,
    counters: Arc<Counters>,
    tuning: Tuning,
    /// The key that it proved to have.
    pub host_key: HostKey,
    /// The host showed the key in a certificate.
    pub certified: bool,
    /// Where it is.
    pub address: Address,
    /// What leads there.
    life: Option<Life>,
    /// The deadline by which it was to be made, moved by the time in which this process was stopped.
    pub deadline: Instant,
}

impl fmt::Debug for Connected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connected")
            .field("address", &self.address)
            .field("host_key", &self.host_key)
            .finish_non_exhaustive()
    }
}

/// An authenticated connection.
pub struct Session {
    handle: client::Handle<Callbacks>,
    /// The key that the host proved to have.
    pub host_key: HostKey,
    /// The key that let us in; where it was a password, the first of the user's keys, if there are any.
    pub our_key: Option<HostKey>,
    /// No key let us in.
    pub by_password: bool,
    /// What leads there.
    life: Option<Life>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("host_key", &self.host_key).finish_non_exhaustive()
    }
}

/// A jump host that has too many clients is asked again after this long.
const AGAIN: Duration = Duration::from_secs(3);

/// Connects, and has the host prove that it holds a key which `policy` trusts.
pub async fn connect(
    address: &Address,
    policy: &Policy,
    counters: &Arc<Counters>,
    deadline: Instant,
    tuning: &Tuning,
) -> Result<Connected, ConnectError> {
    connect_by(Trunks::own(), address, policy, counters, deadline, tuning).await
}

/// The same with other trunks than this process's own.
async fn connect_by(
    trunks: Option<&Arc<Trunks>>,
    address: &Address,
    policy: &Policy,
    counters: &Arc<Counters>,
    mut deadline: Instant,
    tuning: &Tuning,
) -> Result<Connected, ConnectError> {
    loop {
        let stream = match Stream::reach(address, &mut deadline, trunks).await {
            // Its key is not the host's, and must neither be remembered nor taken for an impostor's.
            Ok((_, Speaks::AsAgent)) if !policy.pinned => return Err(ConnectError::Agent { address: address.clone() }),
            Ok((stream, _)) => stream,
            Err(ConnectError::Way { fault: Fault::Busy, .. }) if Instant::now() + AGAIN < deadline => {
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        let reached = Reached { stream, address: address.clone() };
        return handshake(reached, policy, counters, deadline, tuning).await;
    }
}

/// Has a server that was reached prove that it holds a key which `policy` trusts.
pub async fn handshake(
    reached: Reached,
    policy: &Policy,
    counters: &Arc<Counters>,
    mut deadline: Instant,
    tuning: &Tuning,
) -> Result<Connected, ConnectError> {
    let Reached { mut stream, address } = reached;
    stream.give_up_after(tuning.stalled);
    let life = stream.life();

    let mut limits = russh::Limits::default();
    if let Some(bytes) = tuning.rekey_bytes {
        limits.rekey_read_limit = bytes;
        limits.rekey_write_limit = bytes;
    }
    let config = client::Config {
        keepalive_interval: Some(tuning.keepalive),
        keepalive_max: tuning.keepalive_max,
        limits,
        // Each message may be one of the largest packets, 256 KiB, whatever size we said we take.
        channel_buffer_size: 8,
        preferred: algorithms::preferred(&policy.prefer, policy.certificates, &tuning.algorithms),
        ..client::Config::default()
    };
    let heard = Arc::new(Mutex::new(Heard::default()));
    let callbacks =
        Callbacks { policy: policy.clone(), algorithms: tuning.algorithms.clone(), heard: Arc::clone(&heard) };
    let stream = Counting::new(stream, Arc::clone(counters));
    let handshake = client::connect_stream(Arc::new(config), stream, callbacks);
    let result = patience::until(&mut deadline, handshake).await;
    let seen = Heard::lock(&heard).key.clone();
    tracing::debug!(%address, ?seen, answered = result.is_ok(), "handshake");
    if let Some(why) = Heard::lock(&heard).too_short.take() {
        return Err(ConnectError::Handshake { address, why: format!("its host key is too short: {why}") });
    }
    match (result, seen) {
        (Ok(Ok(handle)), Some((host_key, Judgement::Trusted, certified))) => {
            let (counters, tuning) = (Arc::clone(counters), tuning.clone());
            Ok(Connected { handle, heard, counters, tuning, host_key, certified, address, life, deadline })
        }
        (_, Some((key, judgement, _))) if judgement != Judgement::Trusted => {
            Err(ConnectError::HostKey { address, key, judgement })
        }
        (Ok(Ok(_)), _) => Err(ConnectError::Handshake { address, why: "it showed no host key".into() }),
        (Ok(Err(error)), _) => {
            let said = match life {
                Some(life) => life.last_words().await,
                None => String::new(),
            };
            if said.is_empty() {
                Err(ConnectError::Handshake { address, why: plain(&error) })
            } else {
                Err(ConnectError::Way { address, fault: Fault::of(&said), said })
            }
        }
        (Err(_), _) => Err(ConnectError::Timeout { address, doing: "exchanging SSH keys" }),
    }
}

/// How long one knock of [`reach`] may take at most.
const KNOCK_MOST: Duration = Duration::from_secs(30);

/// A knock may take the time that was waited so far, divided by this. So a host that comes up is noticed after about a
/// tenth more of that time, and a host that is slow to answer gets more time the longer it takes.
const KNOCK_SHARE: u32 = 4;

/// How [`reach`] knocks. A host that boots swallows packets, and TCP then waits longer and longer before it sends the
/// next: knocking anew is faster than waiting. But each client that does not wait makes a server that is slow to speak
/// slower still.
#[derive(Debug, Clone, Copy)]
pub struct Knocking {
    /// How long a knock takes at least.
    least: Duration,
    /// Knocks at one address that are on their way at once. All but one are dropped when the server comes up.
    at_once: u32,
    /// How much longer it takes until the next.
    pause: Duration,
}

impl Knocking {
    /// For the agent: it starts within seconds, and lets one address have more connections than these.
    pub const BRISK: Self = Self { least: Duration::from_millis(800), at_once: 4, pause: Duration::ZERO };
    /// For a system that boots: OpenSSH shuts out a client that drops many connections without logging in
    /// (`PerSourcePenalties`, `MaxStartups`).
    pub const CALM: Self = Self { least: Duration::from_secs(2), at_once: 2, pause: Duration::ZERO };
    /// Through a jump host, whatever is wished: each knock costs a process here and a login there.
    const THROUGH: Self = Self { least: Duration::from_secs(5), at_once: 1, pause: Duration::from_secs(1) };
}

/// A server that has begun to speak; nothing has been said to it.
#[derive(Debug)]
pub struct Reached {
    stream: Stream,
    /// Where it is.
    pub address: Address,
}

/// How long the last words may take on their way through a program.
const LEAVING: Duration = Duration::from_secs(3);

/// Knocks at `addresses` until one of them speaks. On slow links and at booting hosts several knocks are on their way
/// at once; a knock sends nothing. `since` is when the waiting began, which may be before this call: callers call again
/// and again.
pub async fn reach(
    addresses: &[Address],
    knocking: Knocking,
    since: Instant,
    deadline: Instant,
) -> Result<Reached, ConnectError> {
    let straight = addresses.iter().all(|address| address.way.is_direct());
    let knocking = if straight { knocking } else { Knocking::THROUGH };
    let mut knocks = tokio::task::JoinSet::new();
    let mut last = None;
    loop {
        let patience = (since.elapsed() / KNOCK_SHARE).clamp(knocking.least, KNOCK_MOST);
        for address in addresses {
            if knocks.len() >= knocking.at_once as usize * addresses.len() {
                break;
            }
            let address = address.clone();
            knocks.spawn(async move {
                let until = deadline.min(Instant::now() + patience);
                knock(&address, until).await.map(|stream| Reached { stream, address })
            });
        }
        // Knocks start at even distances, so that one was always sent a moment ago.
        let next = Instant::now() + patience / knocking.at_once + knocking.pause;
        loop {
            match timeout_at(next.min(deadline), knocks.join_next()).await {
                Ok(Some(Ok(Ok(reached)))) => return Ok(reached),
                Ok(Some(Ok(Err(error)))) => last = Some(error),
                Ok(Some(Err(_))) => {}
                Ok(None) => break tokio::time::sleep_until(next.min(deadline)).await,
                Err(_) => break,
            }
        }
        if Instant::now() >= deadline {
            return Err(last.unwrap_or_else(|| ConnectError::Timeout {
                address: addresses.first().cloned().unwrap_or(Address {
                    host: String::new(),
                    port: 0,
                    way: Way::Direct,
                }),
                doing: "connecting",
            }));
        }
    }
}

async fn knock(address: &Address, mut deadline: Instant) -> Result<Stream, ConnectError> {
    Stream::reach(address, &mut deadline, Trunks::own()).await.map(|(stream, _)| stream)
}

/// russh's errors in words for people.
fn plain(error: &russh::Error) -> String {
    match error {
        russh::Error::Disconnect | russh::Error::HUP => "the other side closed the connection".into(),
        russh::Error::KeepaliveTimeout | russh::Error::InactivityTimeout | russh::Error::ConnectionTimeout => {
            "the other side stopped answering".into()
        }
        russh::Error::SendError | russh::Error::RecvError => "the connection is gone".into(),
        russh::Error::NoCommonAlgo { kind, ours, theirs } => algorithms::nothing_common(kind, ours, theirs),
        other => other.to_string(),
    }
}

impl Connected {
    /// Logs in with keys, and with a password only if one opened this account before in this process.
    pub async fn authenticate(
        self,
        user: &str,
        credentials: &Credentials,
        deadline: Instant,
    ) -> Result<Session, AuthError> {
        self.log_in(user, credentials, false, deadline).await
    }

    /// Logs in with keys, and has a person type a password where nothing else opens.
    pub async fn authenticate_or_ask(
        self,
        user: &str,
        credentials: &Credentials,
        deadline: Instant,
    ) -> Result<Session, AuthError> {
        self.log_in(user, credentials, true, deadline).await
    }

    async fn log_in(
        self,
        user: &str,
        credentials: &Credentials,
        ask: bool,
        mut deadline: Instant,
    ) -> Result<Session, AuthError> {
        let address = self.address.clone();
        let until = deadline;
        let session = patience::until(&mut deadline, auth::authenticate(self, user, credentials, ask, until))
            .await
            .map_err(|_| AuthError::Timeout { address: address.clone() })??;
        let by_password = session.by_password;
        tracing::debug!(%address, user, key = ?session.our_key, by_password, "logged in");
        Ok(session)
    }

    /// Another connection to the same host.
    async fn again(&self, deadline: Instant) -> Result<Self, ConnectError> {
        let policy = Policy::pinned(vec![self.host_key.clone()]);
        let again = connect(&self.address, &policy, &self.counters, deadline, &self.tuning).await?;
        Ok(Self { certified: self.certified, ..again })
    }

    /// Why the server ended the connection, in its own words.
    fn parting(&self) -> Option<String> {
        Heard::lock(&self.heard).parting.clone()
    }

    /// What the server shows to everybody who logs in.
    fn banner(&self) -> Option<String> {
        Heard::lock(&self.heard).banner.clone()
    }
}

impl Session {
    /// Whether the connection is known to be gone.
    pub fn is_closed(&self) -> bool {
        self.handle.is_closed()
    }

    /// Says goodbye, so that the other side needn't wait.
    pub async fn close(&self) {
        // A connection that is gone already needs no goodbye.
        let bye = self.handle.disconnect(russh::Disconnect::ByApplication, "", "");
        let _ = tokio::time::timeout(Duration::from_secs(1), bye).await;
        // What was sent last may still be on its way through a program, which ends when it is done.
        if let Some(life) = &self.life {
            life.end(LEAVING).await;
        }
    }

    /// Asks for new keys now.
    #[cfg(test)]
    pub(crate) async fn rekey(&self) -> bool {
        self.handle.rekey_soon().await.is_ok()
    }
}
