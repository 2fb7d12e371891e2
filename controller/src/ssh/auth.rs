//! Who we are: keys in an agent, keys in files, or the run's own key.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use anemos_proto::Secret;
use russh::client::Handle;
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::{AgentClient, AgentStream};
use russh::keys::{HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKey};
use russh::{MethodKind, Signer, client::AuthResult};
use tokio::sync::{Mutex, MutexGuard};

use super::{Address, Callbacks, HostKey, RunKey, plain};

/// What we show to a host that proved who it is.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// The user's own, as `ssh` would use them.
    User(Arc<UserCredentials>),
    /// The key of a run.
    Run(RunKey),
}

/// Asks a person for passphrases.
pub trait Passphrases: std::fmt::Debug + Send + Sync {
    /// Whether there is any point in asking.
    fn possible(&self) -> bool;

    /// Asks for a line that must not be seen. An error says why there is none.
    fn ask(&self, prompt: String) -> Pin<Box<dyn Future<Output = Result<Secret, String>> + Send + '_>>;
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
    /// Asks for the passphrases of these keys.
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
    /// Every key was tried.
    #[error("`{user}` was not let in; tried {}", list(tried))]
    Refused {
        /// Who.
        user: String,
        /// What was tried, and what came of it.
        tried: Vec<String>,
    },
    /// The connection died meanwhile.
    #[error("the connection was lost while logging in as `{user}`: {why}; tried {}", list(tried))]
    Lost {
        /// Who.
        user: String,
        /// Why.
        why: String,
        /// What was tried, and what came of it.
        tried: Vec<String>,
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

type Decrypted = HashMap<PathBuf, Result<Arc<PrivateKey>, String>>;

/// Passphrases are asked for once per file and process, and one at a time.
async fn decrypted() -> MutexGuard<'static, Decrypted> {
    static KEYS: std::sync::LazyLock<Mutex<Decrypted>> = std::sync::LazyLock::new(Mutex::default);
    KEYS.lock().await
}

/// Tries keys until one is let in; returns that one's public half.
pub(super) async fn authenticate(
    handle: &mut Handle<Callbacks>,
    user: &str,
    credentials: &Credentials,
) -> Result<HostKey, AuthError> {
    let mut attempt = Attempt { handle, user, tried: Vec::new(), rsa_hash: None };
    let result = match credentials {
        Credentials::Run(key) => attempt.private_key(Arc::clone(&key.0), "the run's key").await,
        Credentials::User(user) => attempt.user_keys(user).await,
    };
    let Attempt { tried, .. } = attempt;
    match result {
        Ok(Some(key)) => Ok(key),
        Ok(None) => Err(AuthError::Refused { user: user.into(), tried }),
        Err(why) => Err(AuthError::Lost { user: user.into(), why, tried }),
    }
}

/// One login: the keys tried so far. Its methods return the key that was let in, `None` to go on, or why the
/// connection is of no more use.
struct Attempt<'a> {
    handle: &'a mut Handle<Callbacks>,
    user: &'a str,
    tried: Vec<String>,
    /// What to sign with RSA keys, once asked.
    rsa_hash: Option<HashAlg>,
}

/// A key file, as far as it can be read without a passphrase.
struct KeyFile {
    path: PathBuf,
    public: Option<PublicKey>,
    private: Result<PrivateKey, String>,
}

impl KeyFile {
    /// `None` if there is neither the file nor its `.pub`.
    fn read(path: &Path) -> Option<Self> {
        let mut pub_path = path.as_os_str().to_owned();
        pub_path.push(".pub");
        let from_pub =
            std::fs::read_to_string(&pub_path).ok().and_then(|text| PublicKey::from_openssh(text.trim()).ok());
        let text = std::fs::read_to_string(path);
        if text.is_err() && from_pub.is_none() {
            return None;
        }
        // `IdentityFile` may also name a public key whose private half the agent has.
        let named_public = text.as_ref().ok().and_then(|text| PublicKey::from_openssh(text.trim()).ok());
        let private = match &text {
            Err(error) => Err(error.to_string()),
            Ok(_) if named_public.is_some() => Err("it is a public key".into()),
            Ok(text) => PrivateKey::from_openssh(text)
                .or_else(|e| russh::keys::decode_secret_key(text, None).map_err(|_| e))
                .map_err(|e| format!("it can't be read as a private key ({e})")),
        };
        let own = private.as_ref().ok().map(|key| key.public_key().clone());
        Some(Self { path: path.into(), public: own.or(from_pub).or(named_public), private })
    }
}

impl Attempt<'_> {
    async fn user_keys(&mut self, credentials: &UserCredentials) -> Result<Option<HostKey>, String> {
        let files: Vec<KeyFile> = credentials.identity_files.iter().filter_map(|path| KeyFile::read(path)).collect();
        for path in &credentials.identity_files {
            if !files.iter().any(|file| file.path == *path) {
                self.tried.push(format!("{} (not there)", path.display()));
            }
        }
        let mut in_agent = Vec::new();
        if let Some(socket) = &credentials.agent {
            match AgentClient::connect_uds(socket).await {
                Ok(agent) => {
                    let keep = |key: &PublicKey| {
                        let named = files.iter().any(|file| file.public.as_ref().is_some_and(|p| same(p, key)));
                        if credentials.identities_only { named.then_some(0) } else { Some(u8::from(!named)) }
                    };
                    if let Some(key) = self.agent_keys(agent, keep, &mut in_agent).await? {
                        return Ok(Some(key));
                    }
                }
                Err(error) => self.tried.push(format!("SSH agent at {} ({error})", socket.display())),
            }
        }
        for file in files {
            let done = file.public.as_ref().is_some_and(|public| in_agent.iter().any(|key| same(public, key)));
            if !done && let Some(key) = self.key_file(file, &*credentials.asks).await? {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }

    /// Tries the agent's keys for which `rank` gives a number, the lowest first.
    async fn agent_keys<S: AgentStream + Unpin + Send + 'static>(
        &mut self,
        mut agent: AgentClient<S>,
        rank: impl Fn(&PublicKey) -> Option<u8>,
        offered: &mut Vec<PublicKey>,
    ) -> Result<Option<HostKey>, String> {
        if let Some(binding) = self.handle.agent_session_binding() {
            // Agents other than OpenSSH's refuse this extension, and can do without.
            let _ = agent.bind_session(binding, false).await;
        }
        let identities = match agent.request_identities().await {
            Ok(identities) => identities,
            Err(error) => {
                self.tried.push(format!("SSH agent (it gave no list of keys: {error})"));
                return Ok(None);
            }
        };
        let mut keys: Vec<(u8, PublicKey, String)> = identities
            .into_iter()
            .filter_map(|identity| match identity {
                AgentIdentity::PublicKey { key, comment } => rank(&key).map(|rank| (rank, key, comment)),
                AgentIdentity::Certificate { .. } => None,
            })
            .collect();
        keys.sort_by_key(|(rank, ..)| *rank);
        if keys.is_empty() {
            self.tried.push("SSH agent (it has no key for this host)".into());
        }
        for (_, key, comment) in keys {
            let hash = self.hash_for(&key).await?;
            let what = format!("agent key {} `{comment}`", key.fingerprint(HashAlg::Sha256));
            let result = self.handle.authenticate_publickey_with(self.user, key.clone(), hash, &mut agent).await;
            offered.push(key.clone());
            let result = match result {
                Ok(result) => result,
                Err(error) => {
                    self.tried.push(format!("{what} (the agent would not sign: {error})"));
                    continue;
                }
            };
            if self.outcome(result, &what)? {
                return Ok(Some(HostKey::of(&key)));
            }
        }
        Ok(None)
    }

    async fn key_file(&mut self, file: KeyFile, asks: &dyn Passphrases) -> Result<Option<HostKey>, String> {
        let shown = file.path.display().to_string();
        let key = match file.private {
            Ok(key) => key,
            Err(why) => {
                self.tried.push(format!("{shown} ({why})"));
                return Ok(None);
            }
        };
        if !key.is_encrypted() {
            return self.private_key(Arc::new(key), &shown).await;
        }
        let public = key.public_key().clone();
        let hash = self.hash_for(&public).await?;
        // A passphrase is only worth asking for if the host would take the key.
        let mut asked = Asked(false);
        match self.handle.authenticate_publickey_with(self.user, public, hash, &mut asked).await {
            Err(NotSigned) if asked.0 => {}
            Err(NotSigned) => return Err("the connection is gone".into()),
            Ok(result) => {
                self.outcome(result, &shown)?;
                return Ok(None);
            }
        }
        match decrypt(&file.path, key, asks).await {
            Ok(key) => self.private_key(key, &shown).await,
            Err(why) => {
                self.tried.push(format!("{shown} ({why})"));
                Ok(None)
            }
        }
    }

    async fn private_key(&mut self, key: Arc<PrivateKey>, what: &str) -> Result<Option<HostKey>, String> {
        let hash = self.hash_for(key.public_key()).await?;
        let public = HostKey::of(key.public_key());
        let key = PrivateKeyWithHashAlg::new(key, hash);
        let result = self.handle.authenticate_publickey(self.user, key).await.map_err(|e| plain(&e))?;
        let what = format!("{what} ({public})");
        Ok(self.outcome(result, &what)?.then_some(public))
    }

    /// The hash for RSA signatures: what the server says it takes, else SHA-512; SHA-1 never.
    async fn hash_for(&mut self, key: &PublicKey) -> Result<Option<HashAlg>, String> {
        if !key.algorithm().is_rsa() {
            return Ok(None);
        }
        if self.rsa_hash.is_none() {
            let best = self.handle.best_supported_rsa_hash().await.map_err(|e| plain(&e))?;
            self.rsa_hash = best.flatten().or(Some(HashAlg::Sha512));
        }
        Ok(self.rsa_hash)
    }

    fn outcome(&mut self, result: AuthResult, what: &str) -> Result<bool, String> {
        match result {
            AuthResult::Success => Ok(true),
            AuthResult::Failure { remaining_methods, partial_success } => {
                let more = remaining_methods.iter().map(<&str>::from).collect::<Vec<_>>().join(", ");
                let why =
                    if partial_success { format!("taken, but {more} is asked for too") } else { "refused".into() };
                self.tried.push(format!("{what} ({why})"));
                if remaining_methods.is_empty() || self.handle.is_closed() {
                    Err("the server hung up".into())
                } else if remaining_methods.contains(&MethodKind::PublicKey) {
                    Ok(false)
                } else {
                    Err(format!("the server takes no keys, only {more}"))
                }
            }
        }
    }
}

/// Stands in for a signer, to learn whether the server asks for a signature at all.
struct Asked(bool);

/// No signature was made.
#[derive(Debug)]
struct NotSigned;

impl From<russh::SendError> for NotSigned {
    fn from(_: russh::SendError) -> Self {
        Self
    }
}

impl Signer for Asked {
    type Error = NotSigned;

    async fn auth_sign(&mut self, _: &AgentIdentity, _: Option<HashAlg>, _: Vec<u8>) -> Result<Vec<u8>, NotSigned> {
        self.0 = true;
        Err(NotSigned)
    }
}

fn same(a: &PublicKey, b: &PublicKey) -> bool {
    a.key_data() == b.key_data()
}

/// Times that a passphrase is asked for.
const TRIES: usize = 3;

/// Asks for the passphrase of a key, unless that was done before.
async fn decrypt(path: &Path, key: PrivateKey, asks: &dyn Passphrases) -> Result<Arc<PrivateKey>, String> {
    let mut known = decrypted().await;
    if let Some(result) = known.get(path) {
        return result.clone();
    }
    let result = ask_and_decrypt(path, key, asks).await;
    known.insert(path.to_owned(), result.clone());
    result
}

async fn ask_and_decrypt(path: &Path, key: PrivateKey, asks: &dyn Passphrases) -> Result<Arc<PrivateKey>, String> {
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
