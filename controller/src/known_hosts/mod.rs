//! known_hosts: which key a host has, as OpenSSH's files say (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT").
//!
//! Names are looked up as OpenSSH's client does: lower-cased, and as `[host]:port` where the port is not 22. With such
//! a port and nothing known under `[host]:port`, what is known under the plain name can *confirm* a key, but never
//! contradicts one: several machines may answer behind one address. A key revoked under either name, or for the address
//! that the name led to, is refused, whatever else the files say; there Anemos is stricter than OpenSSH, which looks at
//! the plain name's revocations only to decide whether the plain name confirms.
//!
//! A line that can't be read is a warning and matches nothing. One that could have been a revocation is worth showing.

mod append;
mod key;
mod line;
mod pattern;
mod revoked;

#[cfg(test)]
mod openssh_tests;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

pub use append::add_line;
pub use key::PublicKey;
use line::{Entry, Marker};
pub use revoked::revoked;
use serde::{Deserialize, Serialize};

/// The port whose keys are filed under the plain name.
const SSH_PORT: u16 = 22;

/// What the files say, in their order.
#[derive(Debug, Clone, Default)]
pub struct KnownHosts {
    entries: Vec<(Place, Entry)>,
    warnings: Vec<Warning>,
}

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// Something that could not be read, and so matches nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The file.
    pub file: PathBuf,
    /// Line, from 1, unless the whole file is meant.
    pub line: Option<usize>,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        self.line.map_or(Ok(()), |line| write!(f, ":{line}"))?;
        write!(f, ": {}", self.message)
    }
}

/// A key and the line that says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownKey {
    /// The key.
    pub key: PublicKey,
    /// Where it is written.
    pub place: Place,
}

/// What is known of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Its keys, in the order of the files.
    pub keys: Vec<KnownKey>,
    /// Keys that must never be accepted from it.
    pub revoked: Vec<KnownKey>,
    /// Authorities that may certify its keys.
    pub authorities: Vec<KnownKey>,
    /// `keys` are those of the plain name, as nothing is known under `[host]:port`.
    pub by_plain_name: bool,
}

impl Known {
    /// The algorithms of the known keys, each once, in the order of the files.
    pub fn algorithms(&self) -> Vec<&str> {
        let mut algorithms: Vec<&str> = Vec::new();
        for known in &self.keys {
            if !algorithms.contains(&known.key.algorithm()) {
                algorithms.push(known.key.algorithm());
            }
        }
        algorithms
    }
}

/// What the files say of a key that a host has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is a known key of the host.
    Match(Place),
    /// The host has another key of this algorithm: the first such one.
    Changed(KnownKey),
    /// Only keys of other algorithms are known: these. The host can't be told from another by this key.
    OtherAlgorithm(Vec<KnownKey>),
    /// The key must never be accepted.
    Revoked(Place),
    /// Nothing is known of the host.
    Unknown,
}

impl KnownHosts {
    /// Reads files, in this order. One that doesn't exist is empty; one that can't be read is a warning.
    pub fn load<P: AsRef<Path>>(files: &[P]) -> Self {
        let mut all = Self::default();
        for file in files.iter().map(AsRef::as_ref) {
            match fs::read(file) {
                Ok(bytes) => all.add(&String::from_utf8_lossy(&bytes), file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => all.warnings.push(Warning {
                    file: file.to_owned(),
                    line: None,
                    message: format!("can't be read: {error}"),
                }),
            }
        }
        all
    }

    /// Reads a text that came from `file`.
    #[cfg(any(test, fuzzing))]
    pub fn parse(text: &str, file: &Path) -> Self {
        let mut known_hosts = Self::default();
        known_hosts.add(text, file);
        known_hosts
    }

    /// Reads another text after what is there.
    pub fn add(&mut self, text: &str, file: &Path) {
        for (number, line) in text.split('\n').enumerate() {
            match line::parse(line) {
                Ok(Some(entry)) => self.entries.push((Place { file: file.to_owned(), line: number + 1 }, entry)),
                Ok(None) => {}
                Err(message) => {
                    self.warnings.push(Warning { file: file.to_owned(), line: Some(number + 1), message });
                }
            }
        }
    }

    /// Lines and files that could not be read.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// What is known of `host`, as named by the user (after `HostName` and `HostKeyAlias` of ssh_config).
    ///
    /// `addr` is the address it led to: only keys revoked for it count, as OpenSSH's default `CheckHostIP no` has it.
    pub fn lookup(&self, host: &str, port: u16, addr: Option<IpAddr>) -> Known {
        let plain = host.to_lowercase();
        let full = filed_under(host, port);
        let mut known = self.under(&full);
        if full != plain {
            let fallback = self.under(&plain);
            if known.keys.is_empty() && !fallback.keys.is_empty() {
                known.keys = fallback.keys;
                known.by_plain_name = true;
            }
            merge(&mut known.revoked, fallback.revoked);
            merge(&mut known.authorities, fallback.authorities);
        }
        if let Some(addr) = addr {
            for name in [addr.to_string(), filed_under(&addr.to_string(), port)] {
                merge(&mut known.revoked, self.under(&name).revoked);
            }
        }
        known
    }

    /// Judges a key that `host` has shown.
    #[cfg(test)]
    pub fn check(&self, host: &str, port: u16, key: &PublicKey) -> Verdict {
        self.lookup(host, port, None).check(key)
    }

    fn under(&self, name: &str) -> Known {
        let mut known = Known::default();
        for (place, entry) in &self.entries {
            if entry.names.matches(name) {
                let list = match entry.marker {
                    Marker::None => &mut known.keys,
                    Marker::Revoked => &mut known.revoked,
                    Marker::CertAuthority => &mut known.authorities,
                };
                list.push(KnownKey { key: entry.key.clone(), place: place.clone() });
            }
        }
        known
    }
}

impl Known {
    /// Judges a key that the host has shown.
    pub fn check(&self, key: &PublicKey) -> Verdict {
        if let Some(revoked) = self.revoked.iter().find(|known| known.key == *key) {
            return Verdict::Revoked(revoked.place.clone());
        }
        if let Some(known) = self.keys.iter().find(|known| known.key == *key) {
            return Verdict::Match(known.place.clone());
        }
        if self.by_plain_name || self.keys.is_empty() {
            return Verdict::Unknown;
        }
        match self.keys.iter().find(|known| known.key.algorithm() == key.algorithm()) {
            Some(other) => Verdict::Changed(other.clone()),
            None => Verdict::OtherAlgorithm(self.keys.clone()),
        }
    }
}

fn merge(into: &mut Vec<KnownKey>, more: Vec<KnownKey>) {
    for key in more {
        if !into.contains(&key) {
            into.push(key);
        }
    }
}

/// The name under which OpenSSH files a host: `host`, or `[host]:port` where the port is not 22; lower-case.
pub fn filed_under(host: &str, port: u16) -> String {
    let host = host.to_lowercase();
    if port == SSH_PORT || port == 0 { host } else { format!("[{host}]:{port}") }
}
