//! Keys as Anemos passes them around: text outside, russh's types inside.

use std::fmt;
use std::sync::Arc;

use anemos_proto::Secret;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::{Algorithm, HashAlg, PrivateKey, PublicKey};
use serde::{Deserialize, Serialize};

/// A public key in its text form, `ALGORITHM BASE64`, without a comment. Two are equal if the keys are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HostKey(String);

impl HostKey {
    /// Reads a line of a `.pub` file; the comment is left out.
    pub fn parse(line: &str) -> Option<Self> {
        let key = PublicKey::from_openssh(line.trim()).ok()?;
        Some(Self::of(&key))
    }

    pub(super) fn of(key: &PublicKey) -> Self {
        // Encoding a key that was decoded can't fail; an empty line would match nothing.
        let mut key = key.clone();
        key.set_comment("");
        Self(key.to_openssh().map(|line| line.trim().to_owned()).unwrap_or_default())
    }

    /// `ALGORITHM BASE64`.
    pub fn line(&self) -> &str {
        &self.0
    }

    /// The algorithm's name, such as `ssh-ed25519`.
    pub fn algorithm(&self) -> &str {
        self.0.split(' ').next().unwrap_or_default()
    }

    /// `SHA256:…`.
    pub fn fingerprint(&self) -> String {
        PublicKey::from_openssh(&self.0).map(|key| key.fingerprint(HashAlg::Sha256).to_string()).unwrap_or_default()
    }
}

impl fmt::Display for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.algorithm(), self.fingerprint())
    }
}

/// A key pair that the controller made for one run.
#[derive(Clone)]
pub struct RunKey(pub(super) Arc<PrivateKey>);

impl fmt::Debug for RunKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RunKey({})", self.public())
    }
}

/// The machine gave no random numbers, or a stored key is none.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// No random numbers.
    #[error("the system gave no random numbers for a new key")]
    Random,
    /// The text is no OpenSSH private key.
    #[error("the stored key of the run is damaged: {0}")]
    Damaged(String),
}

/// 32 random bytes: the seed of an Ed25519 key.
pub fn new_seed() -> Result<Secret, KeyError> {
    let mut seed = vec![0; 32];
    SystemRandom::new().fill(&mut seed).map_err(|_| KeyError::Random)?;
    Ok(Secret::new(seed))
}

impl RunKey {
    /// The key pair of a seed.
    pub fn from_seed(seed: &Secret) -> Result<Self, KeyError> {
        let seed: &[u8; 32] = seed.expose().try_into().map_err(|_| KeyError::Damaged("not 32 bytes".into()))?;
        Ok(Self(Arc::new(PrivateKey::from(Ed25519Keypair::from_seed(seed)))))
    }

    /// Reads what [`RunKey::to_openssh`] wrote.
    pub fn from_openssh(text: &str) -> Result<Self, KeyError> {
        PrivateKey::from_openssh(text).map(|key| Self(Arc::new(key))).map_err(|e| KeyError::Damaged(e.to_string()))
    }

    /// As an OpenSSH private key file, so that `ssh -i` can use it too.
    pub fn to_openssh(&self) -> Result<String, KeyError> {
        self.0.to_openssh(LineEnding::LF).map(|text| text.to_string()).map_err(|e| KeyError::Damaged(e.to_string()))
    }

    /// The seed of another key, for this purpose: whoever has the run's key can make it again, and nobody else.
    /// RFC 2104 (HMAC) with SHA-256.
    pub fn derived(&self, purpose: &str) -> Result<Secret, KeyError> {
        let own = self.0.key_data().ed25519().map(|pair| pair.private.to_bytes());
        let own = own.ok_or_else(|| KeyError::Damaged("it is no Ed25519 key".into()))?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &own);
        let mut context = hmac::Context::with_key(&key);
        context.update(b"anemos agent ");
        context.update(purpose.as_bytes());
        Ok(Secret::new(context.sign().as_ref().to_vec()))
    }

    /// Its public half.
    pub fn public(&self) -> HostKey {
        HostKey::of(self.0.public_key())
    }
}

/// russh's algorithms for the names that known_hosts uses, in order, then all the others.
pub(super) fn preferred_algorithms(known: &[String]) -> Vec<Algorithm> {
    let all = russh::Preferred::DEFAULT.key;
    // A key called ssh-rsa is proved with SHA-2 signatures; with SHA-1 never.
    let usable = all.iter().filter(|algorithm| !matches!(algorithm, Algorithm::Rsa { hash: None }));
    let is_known = |algorithm: &Algorithm| match algorithm {
        Algorithm::Rsa { .. } => known.iter().any(|name| name == "ssh-rsa"),
        other => known.iter().any(|name| name == other.as_str()),
    };
    let (mut first, rest): (Vec<_>, Vec<_>) = usable.cloned().partition(is_known);
    first.extend(rest);
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_key_survives_its_file() {
        let key = RunKey::from_seed(&new_seed().unwrap()).unwrap();
        let again = RunKey::from_openssh(&key.to_openssh().unwrap()).unwrap();
        assert_eq!(key.public(), again.public());
        assert!(key.public().line().starts_with("ssh-ed25519 AAAA"));
        assert!(!format!("{key:?}").contains("PRIVATE"));
    }

    #[test]
    fn what_is_derived_is_each_time_the_same_and_of_this_key_only() {
        let key = |byte| RunKey::from_seed(&Secret::new(vec![byte; 32])).unwrap();
        let derived = |key: RunKey, purpose| key.derived(purpose).unwrap();
        let seeds = [derived(key(1), "a"), derived(key(1), "b"), derived(key(2), "a"), Secret::new(vec![1; 32])];
        assert_eq!(derived(RunKey::from_openssh(&key(1).to_openssh().unwrap()).unwrap(), "a"), seeds[0]);
        for (at, seed) in seeds.iter().enumerate() {
            assert!(seed.expose().len() == 32 && seeds.iter().skip(at + 1).all(|other| other != seed));
        }
    }

    #[test]
    fn comments_do_not_matter() {
        let key = RunKey::from_seed(&Secret::new(vec![7; 32])).unwrap().public();
        assert_eq!(HostKey::parse(&format!("{} root@example\n", key.line())), Some(key));
        assert_eq!(HostKey::parse("ssh-ed25519 nonsense"), None);
    }

    #[test]
    fn known_algorithms_come_first_and_sha1_never() {
        let order = preferred_algorithms(&["ssh-rsa".into()]);
        assert!(matches!(order[0], Algorithm::Rsa { hash: Some(HashAlg::Sha512) }));
        assert!(!order.contains(&Algorithm::Rsa { hash: None }));
        assert!(order.contains(&Algorithm::Ed25519));
    }
}
