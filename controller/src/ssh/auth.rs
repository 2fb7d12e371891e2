//! Logging in: keys, certificates, and what a person types.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::signature::Signer as _;
use russh::keys::ssh_key::{Signature, private::KeypairData};
use russh::keys::{HashAlg, PrivateKey};
use russh::{MethodKind, MethodSet, client::AuthResult};
use tokio::net::UnixStream;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::identities::{Files, Offer, Order, Signer};
use super::passwords::{Passphrases, Passwords, Tried};
use super::{Address, Algorithms, Connected, HostKey, RunKey, Session, plain};

/// What we show to a host that proved who it is.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// The user's own, as `ssh` would use them.
    User(Arc<UserCredentials>),
    /// The key of a run.
    Run(RunKey),
}

/// Where the user's keys are.
#[derive(Debug)]
pub struct UserCredentials {
    /// Socket of an SSH agent.
    pub agent: Option<PathBuf>,
    /// Only keys that `identity_files` name, also from the agent.
    pub identities_only: bool,
    /// Private keys, in this order.
    pub identity_files: Vec<PathBuf>,
    /// `identity_files` come before all that the agent has besides: hosts.toml names them.
    pub named_first: bool,
    /// Certificates of the user's; if there are none, what lies beside the keys as `NAME-cert.pub`.
    pub certificate_files: Vec<PathBuf>,
    /// Which keys may be shown, and how they may sign.
    pub algorithms: Algorithms,
    /// Asks for the passphrases of these keys, and for passwords.
    pub asks: Arc<dyn Passphrases>,
}

impl Credentials {
    /// Whether logging in may wait for somebody who types.
    pub fn may_ask(&self) -> bool {
        match self {
            Self::User(user) => user.asks.possible(),
            Self::Run(_) => false,
        }
    }
}

/// Why a host didn't let us in.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// Everything was tried.
    #[error("`{user}` was not let in; tried {}{}", list(tried), said(more))]
    Refused {
        /// Who.
        user: String,
        /// What was tried, and what came of it.
        tried: Vec<String>,
        /// What else there is to say of it.
        more: Vec<String>,
    },
    /// The connection died meanwhile.
    #[error("the connection was lost while logging in as `{user}`: {why}; tried {}{}", list(tried), said(more))]
    Lost {
        /// Who.
        user: String,
        /// Why.
        why: String,
        /// What was tried, and what came of it.
        tried: Vec<String>,
        /// What else there is to say of it.
        more: Vec<String>,
    },
    /// Too slow.
    #[error("logging into {address} did not end in time")]
    Timeout {
        /// Where.
        address: Address,
    },
}

fn list(tried: &[String]) -> String {
    if tried.is_empty() {
        "nothing: there is no SSH agent and no key file; give `identity_file` in hosts.toml".into()
    } else {
        tried.join("; ")
    }
}

fn said(more: &[String]) -> String {
    more.iter().flat_map(|text| ["; ", text]).collect()
}

/// Connections that one login may take. A server counts refused keys, and hangs up after some (`MaxAuthTries`, 6 by
/// default); one that has been left so several times shuts the client's address out for a while.
const CONNECTIONS: usize = 3;

type Decrypted = HashMap<PathBuf, Result<Arc<PrivateKey>, String>>;

/// Passphrases are asked for once per file and process, and one at a time.
async fn decrypted() -> MutexGuard<'static, Decrypted> {
    static KEYS: std::sync::LazyLock<Mutex<Decrypted>> = std::sync::LazyLock::new(Mutex::default);
    KEYS.lock().await
}

/// Tries what `credentials` have until something is let in. With `ask`, a person is asked for a password where nothing
/// else opens. `deadline` is for connections that have to be made anew.
pub(super) async fn authenticate(
    connected: Connected,
    user: &str,
    credentials: &Credentials,
    ask: bool,
    deadline: Instant,
) -> Result<Session, AuthError> {
    let asks: Option<&dyn Passphrases> = match credentials {
        Credentials::User(user) => Some(&*user.asks),
        Credentials::Run(_) => None,
    };
    let may_type = asks.filter(|asks| ask && asks.possible());
    let mut login = Login {
        passwords: Passwords::new(may_type, &connected.host_key, user, &connected.address.host),
        connected,
        user,
        asks,
        algorithms: Algorithms::default(),
        agent: None,
        agent_socket: None,
        rsa_hash: None,
        methods: None,
        tried: Vec::new(),
        taken: Vec::new(),
        opened_by: None,
        deadline,
    };
    let offers = match credentials {
        Credentials::Run(key) => vec![Offer {
            key: key.0.public_key().clone(),
            certificate: None,
            signer: Signer::File(PathBuf::new(), Arc::clone(&key.0)),
            shown: format!("the run's key ({})", key.public()),
        }],
        Credentials::User(user) => login.offers(user).await,
    };
    match login.run(&offers).await {
        Ok(true) => {
            let by_password = login.opened_by.is_none();
            // Who came by a password has keys for the next time, if any.
            let first = offers.first().map(|offer| HostKey::of(&offer.key));
            let our_key = login.opened_by.or(first);
            let Connected { handle, host_key, life, .. } = login.connected;
            Ok(Session { handle, host_key, our_key, by_password, life })
        }
        Ok(false) => {
            let more = login.last_words();
            Err(AuthError::Refused { user: user.into(), tried: login.tried, more })
        }
        Err(why) => {
            let more = login.last_words();
            Err(AuthError::Lost { user: user.into(), why, tried: login.tried, more })
        }
    }
}

/// One login, over several connections if need be.
struct Login<'a> {
    connected: Connected,
    user: &'a str,
    asks: Option<&'a dyn Passphrases>,
    passwords: Passwords<'a>,
    agent: Option<AgentClient<UnixStream>>,
    agent_socket: Option<PathBuf>,
    /// How keys may sign.
    algorithms: Algorithms,
    /// What to sign with RSA keys, once asked.
    rsa_hash: Option<HashAlg>,
    /// What the server would take now, once it has said.
    methods: Option<MethodSet>,
    tried: Vec<String>,
    /// Offers that were taken, and were not enough.
    taken: Vec<usize>,
    /// The last key that was taken.
    opened_by: Option<HostKey>,
    deadline: Instant,
}

/// What a server says to one try.
enum Answer {
    In,
    /// Taken, and more is asked for.
    More,
    No,
    /// It hung up.
    HungUp,
}

impl Login<'_> {
    /// What can be shown, with what the agent has.
    async fn offers(&mut self, credentials: &UserCredentials) -> Vec<Offer> {
        let mut files = Files::read(&credentials.identity_files, &credentials.certificate_files);
        self.agent_socket.clone_from(&credentials.agent);
        let mut held = Vec::new();
        if let Some(socket) = &credentials.agent {
            match self.open_agent().await {
                Ok(identities) => held = identities,
                Err(why) => files.useless.push(format!("SSH agent at {} ({why})", socket.display())),
            }
        }
        let order = Order { only_named: credentials.identities_only, named_first: credentials.named_first };
        let mut offers = files.offers(held, order);
        if self.agent.is_some() && !offers.iter().any(|offer| matches!(offer.signer, Signer::Agent(_))) {
            files.useless.push("SSH agent (it has no key for this host)".into());
        }
        self.algorithms = credentials.algorithms.clone();
        offers.retain(|offer| {
            let why_not = self.algorithms.forbids(&offer.key, offer.certificate.is_some());
            files.useless.extend(why_not.iter().map(|why| format!("{} ({why})", offer.shown)));
            why_not.is_none()
        });
        self.tried = files.useless;
        offers
    }

    /// Tells the agent what connection it is to sign for, and asks what it has.
    async fn open_agent(&mut self) -> Result<Vec<AgentIdentity>, String> {
        self.agent = None;
        let Some(socket) = &self.agent_socket else { return Ok(Vec::new()) };
        let mut agent = AgentClient::connect_uds(socket).await.map_err(|e| e.to_string())?;
        if let Some(binding) = self.connected.handle.agent_session_binding() {
            // Agents other than OpenSSH's refuse this extension, and can do without.
            let _ = agent.bind_session(binding, false).await;
        }
        let identities = agent.request_identities().await.map_err(|e| format!("it gave no list of keys: {e}"))?;
        self.agent = Some(agent);
        Ok(identities)
    }

    /// Whether we are in. An error says why the connection is of no more use.
    async fn run(&mut self, offers: &[Offer]) -> Result<bool, String> {
        let mut connections = 1;
        let mut queue: VecDeque<usize> = (0..offers.len()).collect();
        loop {
            let answer = if let Some(number) = self.next_key(&mut queue) {
                let answer = self.show(&offers[number]).await?;
                match answer {
                    Answer::In | Answer::More => {
                        self.opened_by = Some(HostKey::of(&offers[number].key));
                        self.taken.push(number);
                    }
                    // A server that takes no keys yet has not judged this one.
                    Answer::No if !self.takes(MethodKind::PublicKey) => queue.push_front(number),
                    Answer::No | Answer::HungUp => {}
                }
                answer
            } else if self.methods.is_none() {
                let result = self.connected.handle.authenticate_none(self.user).await.map_err(|e| plain(&e))?;
                self.judge(result, None)
            } else if let Some(method) = self.methods.as_ref().and_then(|methods| self.passwords.method(methods)) {
                self.type_in(method).await
            } else {
                self.say_of_passwords();
                return Ok(false);
            };
            match answer {
                Answer::In => return Ok(true),
                Answer::More | Answer::No => {}
                Answer::HungUp => {
                    let more = !queue.is_empty() || (self.takes_typing() && self.passwords.may_go_on());
                    // Nothing was refused by a server that was lost otherwise.
                    let cut = self.methods.is_some() || self.connected.parting().is_some();
                    let why = self.connected.parting().unwrap_or_else(|| "the server hung up".into());
                    if !cut || !more || connections == CONNECTIONS {
                        if !queue.is_empty() {
                            let left: Vec<&str> = queue.iter().map(|number| offers[*number].shown.as_str()).collect();
                            let hint = "name the right key by `identity_file` in hosts.toml";
                            self.tried.push(format!("not tried: {}; {hint}", left.join(", ")));
                        }
                        return Err(why);
                    }
                    connections += 1;
                    tracing::debug!(why, left = queue.len(), "connecting anew for what was not tried yet");
                    self.connect_anew(&why).await?;
                    // What was taken is not remembered by a new connection.
                    self.taken.drain(..).rev().for_each(|number| queue.push_front(number));
                }
            }
        }
    }

    fn next_key(&self, queue: &mut VecDeque<usize>) -> Option<usize> {
        if self.takes(MethodKind::PublicKey) { queue.pop_front() } else { None }
    }

    /// Whether the server takes this, as far as it has said.
    fn takes(&self, kind: MethodKind) -> bool {
        self.methods.as_ref().is_none_or(|methods| methods.contains(&kind))
    }

    fn takes_typing(&self) -> bool {
        let methods = self.methods.as_ref();
        methods.is_some_and(|all| all.contains(&MethodKind::Password) || all.contains(&MethodKind::KeyboardInteractive))
    }

    async fn connect_anew(&mut self, why: &str) -> Result<(), String> {
        let again = self.connected.again(self.deadline).await;
        self.connected = again.map_err(|error| format!("{why}, and then {error}"))?;
        self.methods = None;
        // The agent is bound to one connection. Without it, what it has is refused, and said to be.
        let _ = self.open_agent().await;
        Ok(())
    }

    /// Shows a key or certificate, and signs if the server would take it.
    async fn show(&mut self, offer: &Offer) -> Result<Answer, String> {
        let hash = self.hash_for(offer).await?;
        let mut signing = Signing { agent: self.agent.as_mut(), signer: &offer.signer, asks: self.asks };
        let handle = &mut self.connected.handle;
        let result = match &offer.certificate {
            None => handle.authenticate_publickey_with(self.user, offer.key.clone(), hash, &mut signing).await,
            Some(certificate) => {
                handle.authenticate_certificate_with(self.user, certificate.clone(), hash, &mut signing).await
            }
        };
        match result {
            Ok(result) => Ok(self.judge(result, Some(&offer.shown))),
            Err(NotSigned::Because(why)) => {
                self.tried.push(format!("{} ({why})", offer.shown));
                Ok(Answer::No)
            }
            Err(NotSigned::Gone) => Ok(Answer::HungUp),
        }
    }

    /// Tries what a person types.
    async fn type_in(&mut self, method: MethodKind) -> Answer {
        match self.passwords.try_one(&mut self.connected.handle, method).await {
            Tried::Said(result) => self.judge(result, Some(<&str>::from(&method))),
            Tried::Not(why) => {
                self.tried.push(format!("{} ({why})", <&str>::from(&method)));
                Answer::No
            }
        }
    }

    /// Says that a password was not asked for, where it might have opened.
    fn say_of_passwords(&mut self) {
        if self.takes_typing() && !self.passwords.was_asked() && self.asks.is_some() {
            self.tried.push(
                "a password (the host takes one; Anemos asks for it only on a terminal, when it first logs into a host)"
                    .into(),
            );
        }
    }

    /// The hash for RSA signatures: what the server says it takes, else SHA-512, unless ssh_config has only the other;
    /// SHA-1 never.
    async fn hash_for(&mut self, offer: &Offer) -> Result<Option<HashAlg>, String> {
        if !offer.key.algorithm().is_rsa() {
            return Ok(None);
        }
        if self.rsa_hash.is_none() {
            let best = self.connected.handle.best_supported_rsa_hash().await.map_err(|e| plain(&e))?;
            self.rsa_hash = best.flatten().or(Some(HashAlg::Sha512));
        }
        Ok(self.rsa_hash.map(|best| self.algorithms.rsa_hash(best, offer.certificate.is_some())))
    }

    fn judge(&mut self, result: AuthResult, what: Option<&str>) -> Answer {
        let (answer, why) = match result {
            AuthResult::Success => return Answer::In,
            AuthResult::Failure { remaining_methods, partial_success } => {
                let more = remaining_methods.iter().map(<&str>::from).collect::<Vec<_>>().join(", ");
                // A server that hangs up says nothing of methods.
                let hung_up = remaining_methods.is_empty();
                if !hung_up {
                    self.methods = Some(remaining_methods);
                }
                match (hung_up, partial_success) {
                    (true, _) => (Answer::HungUp, "refused, and the server hung up".into()),
                    (false, true) => (Answer::More, format!("taken, but {more} is asked for too")),
                    (false, false) => (Answer::No, "refused".to_owned()),
                }
            }
        };
        self.tried.extend(what.map(|what| format!("{what} ({why})")));
        answer
    }

    /// What a server that lets nobody in has said besides.
    fn last_words(&self) -> Vec<String> {
        let mut words = Vec::new();
        if let Some(methods) = self.methods.as_ref().filter(|methods| !methods.contains(&MethodKind::PublicKey)) {
            let names: Vec<&str> = methods.iter().map(<&str>::from).collect();
            words.push(format!("the server takes no keys, only {}", names.join(", ")));
        }
        words.extend(self.connected.banner().map(|text| format!("the server says: {text}")));
        words
    }
}

/// Signs once a server has said that it would take the key: so a passphrase is only asked for where that is worth it.
struct Signing<'a> {
    agent: Option<&'a mut AgentClient<UnixStream>>,
    signer: &'a Signer,
    asks: Option<&'a dyn Passphrases>,
}

/// No signature was made.
#[derive(Debug)]
enum NotSigned {
    /// The connection is gone.
    Gone,
    Because(String),
}

impl From<russh::SendError> for NotSigned {
    fn from(_: russh::SendError) -> Self {
        Self::Gone
    }
}

impl russh::Signer for Signing<'_> {
    type Error = NotSigned;

    async fn auth_sign(
        &mut self,
        _: &AgentIdentity,
        hash: Option<HashAlg>,
        mut data: Vec<u8>,
    ) -> Result<Vec<u8>, NotSigned> {
        match (self.signer, self.agent.as_mut()) {
            (Signer::Agent(identity), Some(agent)) => agent
                .sign_request(identity, hash, data)
                .await
                .map_err(|error| NotSigned::Because(format!("the agent would not sign: {error}"))),
            (Signer::Agent(_), None) => Err(NotSigned::Because("the agent is gone".into())),
            (Signer::File(path, key), _) => {
                let key = if key.is_encrypted() {
                    let asks = self.asks.ok_or_else(|| NotSigned::Because("it has a passphrase".into()))?;
                    decrypt(path, key, asks).await.map_err(NotSigned::Because)?
                } else {
                    Arc::clone(key)
                };
                let signature = sign(&key, hash, &data).map_err(NotSigned::Because)?;
                data.extend(u32::try_from(signature.len()).unwrap_or(u32::MAX).to_be_bytes());
                data.extend(signature);
                Ok(data)
            }
        }
    }
}

/// A signature as the wire has it (RFC 4253, 6.6).
fn sign(key: &PrivateKey, hash: Option<HashAlg>, data: &[u8]) -> Result<Vec<u8>, String> {
    let signature: Result<Signature, _> = match key.key_data() {
        KeypairData::Rsa(pair) => (pair, hash).try_sign(data),
        _ => key.try_sign(data),
    };
    let signature = signature.map_err(|error| format!("it can't sign: {error}"))?;
    Vec::try_from(signature).map_err(|error| format!("it can't sign: {error}"))
}

/// Times that a passphrase is asked for.
const TRIES: usize = 3;

/// Asks for the passphrase of a key, unless that was done before.
async fn decrypt(path: &Path, key: &PrivateKey, asks: &dyn Passphrases) -> Result<Arc<PrivateKey>, String> {
    let mut known = decrypted().await;
    if let Some(result) = known.get(path) {
        return result.clone();
    }
    let result = ask_and_decrypt(path, key, asks).await;
    known.insert(path.to_owned(), result.clone());
    result
}

async fn ask_and_decrypt(path: &Path, key: &PrivateKey, asks: &dyn Passphrases) -> Result<Arc<PrivateKey>, String> {
    for attempt in 0..TRIES {
        let again = if attempt == 0 { "" } else { "That was not it. " };
        let passphrase = asks.ask(format!("{again}Passphrase for {}: ", path.display())).await?;
        let locked = key.clone();
        // A passphrase takes long to try, on purpose: not on a thread that drives connections.
        let unlocked = tokio::task::spawn_blocking(move || locked.decrypt(passphrase.expose()));
        if let Ok(Ok(key)) = unlocked.await {
            return Ok(Arc::new(key));
        }
    }
    Err(format!("the passphrase was wrong {TRIES} times"))
}
