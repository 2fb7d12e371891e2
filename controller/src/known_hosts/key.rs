//! A public key as SSH's text files have it.

use std::fmt;

use data_encoding::{BASE64, BASE64_NOPAD};
use ring::digest;
use serde::{Deserialize, Serialize};

/// An SSH public key: `ssh-ed25519 AAAA…`. Equal means the same key; the comment does not count and is not kept.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PublicKey {
    algorithm: String,
    blob: Vec<u8>,
}

impl PublicKey {
    /// Reads `ALGORITHM BASE64 [COMMENT]`, as in `.pub` files. Options before it are an error.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        if text.contains('\n') {
            return Err(KeyError::SeveralLines);
        }
        let mut words = text.split_ascii_whitespace();
        let algorithm = words.next().unwrap_or_default();
        if !is_algorithm(algorithm) {
            return Err(KeyError::Algorithm(algorithm.chars().filter(|c| !c.is_control()).take(40).collect()));
        }
        let blob = words.next().and_then(decode).ok_or(KeyError::Base64)?;
        Self::from_blob(blob).filter(|key| key.algorithm == algorithm).ok_or(KeyError::Blob)
    }

    /// From the wire form, which begins with the algorithm's name.
    pub fn from_blob(blob: Vec<u8>) -> Option<Self> {
        let (length, rest) = blob.split_first_chunk::<4>()?;
        let name = rest.get(..u32::from_be_bytes(*length) as usize)?;
        // A blob of nothing but the name has no key in it.
        if rest.len() == name.len() {
            return None;
        }
        let algorithm = std::str::from_utf8(name).ok().filter(|name| is_algorithm(name))?.to_owned();
        Some(Self { algorithm, blob })
    }

    /// The key's type, such as `ssh-ed25519`.
    pub fn algorithm(&self) -> &str {
        &self.algorithm
    }

    /// The wire form in Base64, as in the files.
    pub fn base64(&self) -> String {
        BASE64.encode(&self.blob)
    }

    /// `SHA256:…`, as `ssh-keygen -l` shows it.
    pub fn fingerprint(&self) -> String {
        format!("SHA256:{}", BASE64_NOPAD.encode(digest::digest(&digest::SHA256, &self.blob).as_ref()))
    }
}

/// The line that [`PublicKey::parse`] reads, without a comment.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.algorithm, self.base64())
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

impl TryFrom<String> for PublicKey {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        Self::parse(&text)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({} {})", self.algorithm, self.fingerprint())
    }
}

/// OpenSSH takes Base64 with or without padding.
fn decode(text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text.as_bytes()).or_else(|_| BASE64_NOPAD.decode(text.as_bytes())).ok()
}

/// The plain key types of OpenSSH. DSA is among them so that old files are read without complaint.
fn is_algorithm(name: &str) -> bool {
    matches!(
        name,
        "ssh-ed25519"
            | "ecdsa-sha2-nistp256"
            | "ecdsa-sha2-nistp384"
            | "ecdsa-sha2-nistp521"
            | "ssh-rsa"
            | "ssh-dss"
            | "sk-ssh-ed25519@openssh.com"
            | "sk-ecdsa-sha2-nistp256@openssh.com"
    )
}

/// Text that is not a public key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The first word is no key type.
    #[error("`{0}` is not a kind of public key (options before the key are not supported)")]
    Algorithm(String),
    /// The second word is missing or not Base64.
    #[error("the key after its kind is missing, cut short or not Base64")]
    Base64,
    /// What the Base64 says is no key of that type.
    #[error("the key is cut short or of another kind than it says")]
    Blob,
    /// More than one key.
    #[error("there is more than one line")]
    SeveralLines,
}
