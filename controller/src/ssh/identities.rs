//! What a user can show a server, in the order in which it is shown. As ssh_config(5) has it for `IdentityFile`,
//! `CertificateFile` and `IdentitiesOnly`; but keys that hosts.toml names come before all others.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anemos_base::Time;
use russh::keys::agent::AgentIdentity;
use russh::keys::ssh_key::certificate::CertType;
use russh::keys::{Algorithm, Certificate, HashAlg, PrivateKey, PublicKey};

use super::HostKey;
use crate::text::quoted;

/// A key or a certificate to show, and who can sign for it.
#[derive(Clone)]
pub(super) struct Offer {
    /// The key, which a certificate contains.
    pub key: PublicKey,
    /// What an authority says of it.
    pub certificate: Option<Certificate>,
    pub signer: Signer,
    /// In words for people.
    pub shown: String,
}

/// Who can sign.
#[derive(Clone)]
pub(super) enum Signer {
    /// The agent, with what it calls this.
    Agent(Box<AgentIdentity>),
    /// A key from a file, which may have a passphrase.
    File(PathBuf, Arc<PrivateKey>),
}

/// A key file, as far as it can be read without a passphrase.
pub(super) struct KeyFile {
    path: PathBuf,
    public: Option<PublicKey>,
    private: Result<Arc<PrivateKey>, String>,
}

/// A certificate of the user's, from a file.
struct CertificateFile {
    path: PathBuf,
    certificate: Certificate,
}

/// What files hold.
#[derive(Default)]
pub(super) struct Files {
    keys: Vec<KeyFile>,
    /// `CertificateFile`.
    certificates: Vec<CertificateFile>,
    /// Beside the key with this number.
    beside: Vec<(usize, CertificateFile)>,
    /// What is of no use, and why.
    pub useless: Vec<String>,
}

/// Which of them, and in what order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order {
    /// Of the agent's keys only those that files name.
    pub only_named: bool,
    /// All that files name comes before the agent's other keys, also what the agent does not hold.
    pub named_first: bool,
}

impl KeyFile {
    /// `None` if there is neither the file nor its `.pub`.
    fn read(path: &Path) -> Option<Self> {
        let from_pub = std::fs::read_to_string(with_suffix(path, ".pub"))
            .ok()
            .and_then(|text| PublicKey::from_openssh(text.trim()).ok());
        let text = std::fs::read_to_string(path);
        if text.is_err() && from_pub.is_none() {
            return None;
        }
        // `IdentityFile` may also name a public key whose private half the agent has.
        let named_public = text.as_ref().ok().and_then(|text| PublicKey::from_openssh(text.trim()).ok());
        let private = match &text {
            Err(error) => Err(error.to_string()),
            Ok(_) if named_public.is_some() => Err("it is a public key, whose private half no agent has".into()),
            Ok(text) => PrivateKey::from_openssh(text)
                .or_else(|e| russh::keys::decode_secret_key(text, None).map_err(|_| e))
                .map_err(|e| format!("it can't be read as a private key ({e})")),
        };
        let own = private.as_ref().ok().map(|key| key.public_key().clone());
        let private = private.and_then(|key| match key.public_key().algorithm() {
            Algorithm::SkEd25519 | Algorithm::SkEcdsaSha2NistP256 => Err(format!(
                "it is a FIDO key, for which only an SSH agent can ask its token: `ssh-add {}`",
                quoted(&path.display().to_string())
            )),
            _ => Ok(Arc::new(key)),
        });
        Some(Self { path: path.into(), public: own.or(from_pub).or(named_public), private })
    }
}

impl Files {
    /// Reads key files, and certificates: those given, else what lies beside each key as `NAME-cert.pub`.
    pub fn read(keys: &[PathBuf], certificates: &[PathBuf]) -> Self {
        let mut all = Self::default();
        for path in certificates {
            match std::fs::read_to_string(path) {
                Ok(text) => all.certificates.extend(certificate(path, &text, &mut all.useless)),
                Err(error) => all.useless.push(format!("{} ({error})", path.display())),
            }
        }
        for path in keys {
            let Some(key) = KeyFile::read(path) else {
                all.useless.push(format!("{} (not there)", path.display()));
                continue;
            };
            all.keys.push(key);
            if certificates.is_empty() {
                let path = with_suffix(path, "-cert.pub");
                let text = std::fs::read_to_string(&path).ok();
                let found = text.and_then(|text| certificate(&path, &text, &mut all.useless));
                all.beside.extend(found.map(|found| (all.keys.len() - 1, found)));
            }
        }
        all
    }

    /// What to show, the first first. What nobody can sign for goes to `useless`.
    pub fn offers(&mut self, agent: Vec<AgentIdentity>, order: Order) -> Vec<Offer> {
        let mut useless = std::mem::take(&mut self.useless);
        let mut offers = Vec::new();
        for file in &self.certificates {
            match self.for_certificate(file, &agent) {
                Some(offer) => offers.push(offer),
                None => useless.push(format!("{} (its private key is nowhere)", file.path.display())),
            }
        }
        let mut named = Vec::new();
        for (number, file) in self.keys.iter().enumerate() {
            match (file.held_by(&agent), &file.private) {
                (Some(offer), _) => named.push(offer),
                (None, Ok(key)) => named.push(Offer {
                    key: key.public_key().clone(),
                    certificate: None,
                    signer: Signer::File(file.path.clone(), Arc::clone(key)),
                    shown: format!("{} ({})", file.path.display(), HostKey::of(key.public_key())),
                }),
                (None, Err(why)) => useless.push(format!("{} ({why})", file.path.display())),
            }
            let beside = self.beside.iter().filter(|(of, _)| *of == number);
            named.extend(beside.filter_map(|(_, file)| self.for_certificate(file, &agent)));
        }
        let is_named =
            |key: &PublicKey| self.keys.iter().any(|file| file.public.as_ref().is_some_and(|p| same(p, key)));
        let (held, from_files): (Vec<_>, Vec<_>) =
            named.into_iter().partition(|offer| order.named_first || matches!(offer.signer, Signer::Agent(_)));
        offers.extend(held);
        let (mut others, rest): (Vec<_>, Vec<_>) = agent
            .into_iter()
            .filter_map(|identity| agent_offer(identity, &mut useless))
            .partition(|offer| is_named(&offer.key));
        others.extend(rest.into_iter().filter(|_| !order.only_named));
        for offer in others.into_iter().chain(from_files) {
            if !offers.iter().any(|other: &Offer| other.same_as(&offer)) {
                offers.push(offer);
            }
        }
        self.useless = useless;
        offers
    }

    /// A certificate whose key the agent or a file has.
    fn for_certificate(&self, file: &CertificateFile, agent: &[AgentIdentity]) -> Option<Offer> {
        let key = PublicKey::new(file.certificate.public_key().clone(), "");
        let by_agent = agent.iter().find(|identity| match identity {
            AgentIdentity::PublicKey { key: held, .. } => same(held, &key),
            AgentIdentity::Certificate { certificate, .. } => same_certificate(certificate, &file.certificate),
        });
        let in_file = || {
            self.keys.iter().find_map(|named| {
                let private = named.private.as_ref().ok()?;
                same(private.public_key(), &key).then(|| Signer::File(named.path.clone(), Arc::clone(private)))
            })
        };
        let signer = by_agent.map(|identity| Signer::Agent(Box::new(identity.clone()))).or_else(in_file)?;
        let shown = format!("certificate {} ({})", file.path.display(), HostKey::of(&key));
        Some(Offer { key, certificate: Some(file.certificate.clone()), signer, shown })
    }
}

impl KeyFile {
    fn held_by(&self, agent: &[AgentIdentity]) -> Option<Offer> {
        let public = self.public.as_ref()?;
        let held = agent.iter().find(|identity| match identity {
            AgentIdentity::PublicKey { key, .. } => same(key, public),
            AgentIdentity::Certificate { .. } => false,
        })?;
        agent_offer(held.clone(), &mut Vec::new())
    }
}

impl Offer {
    fn same_as(&self, other: &Self) -> bool {
        same(&self.key, &other.key)
            && match (&self.certificate, &other.certificate) {
                (None, None) => true,
                (Some(a), Some(b)) => same_certificate(a, b),
                _ => false,
            }
    }
}

fn agent_offer(identity: AgentIdentity, useless: &mut Vec<String>) -> Option<Offer> {
    let (key, certificate) = match &identity {
        AgentIdentity::PublicKey { key, .. } => (key.clone(), None),
        AgentIdentity::Certificate { certificate, .. } => {
            (PublicKey::new(certificate.public_key().clone(), ""), Some(certificate.clone()))
        }
    };
    let what = if certificate.is_some() { "certificate" } else { "key" };
    let shown = format!("agent {what} {} `{}`", key.fingerprint(HashAlg::Sha256), identity.comment());
    if let Some(why) = certificate.as_ref().and_then(|certificate| unusable(certificate, now())) {
        useless.push(format!("{shown} ({why})"));
        return None;
    }
    Some(Offer { key, certificate, signer: Signer::Agent(Box::new(identity)), shown })
}

fn certificate(path: &Path, text: &str, useless: &mut Vec<String>) -> Option<CertificateFile> {
    let read = Certificate::from_openssh(text.trim()).map_err(|e| format!("it can't be read as a certificate: {e}"));
    let usable = read.and_then(|certificate| unusable(&certificate, now()).map_or(Ok(certificate), Err));
    match usable {
        Ok(certificate) => Some(CertificateFile { path: path.into(), certificate }),
        Err(why) => {
            useless.push(format!("{} ({why})", path.display()));
            None
        }
    }
}

/// Why no server would take a user's certificate, whoever its authority is.
fn unusable(certificate: &Certificate, now: u64) -> Option<String> {
    if certificate.cert_type() != CertType::User {
        return Some("it is a certificate of a host, not of a user".into());
    }
    out_of_date(certificate.valid_after(), certificate.valid_before(), now)
}

/// Whether `now` is outside the time for which a certificate is valid, all in seconds since 1970.
pub(super) fn out_of_date(after: u64, before: u64, now: u64) -> Option<String> {
    let time = |seconds| Time::from_unix(u32::try_from(seconds).unwrap_or(u32::MAX));
    if now < after {
        Some(format!("the certificate is not valid before {}, and here it is {}", time(after), time(now)))
    } else if now >= before {
        Some(format!("the certificate expired at {}, and here it is {}", time(before), time(now)))
    } else {
        None
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    Time::now().unix().into()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn same(a: &PublicKey, b: &PublicKey) -> bool {
    a.key_data() == b.key_data()
}

/// Comments don't count.
fn same_certificate(a: &Certificate, b: &Certificate) -> bool {
    a.signature() == b.signature() && a.public_key() == b.public_key() && a.serial() == b.serial()
}
