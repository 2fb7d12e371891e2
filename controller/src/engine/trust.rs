//! Which host keys of the old system are trusted, and remembering those that were new.

use std::path::{Path, PathBuf};

use crate::known_hosts::{self, Known, KnownHosts, PublicKey, Verdict};
use crate::ssh::{HostKey, Judgement, Policy};
use crate::ssh_config::Effective;

/// What known_hosts says of one host.
#[derive(Debug, Clone)]
pub struct Trust {
    known: Known,
    name: String,
    port: u16,
    /// Where a new key is remembered.
    file: Option<PathBuf>,
    hash: bool,
    accept_new: bool,
    /// Files that could not be read.
    pub unread: Vec<String>,
}

impl Trust {
    /// Reads the files. Where one can't be read, nothing new is accepted: it may know, or have revoked, the host's key.
    pub fn load(ssh: &Effective, accept_new: bool) -> Self {
        let (name, port) = ssh.known_hosts_name();
        let files: Vec<&Path> = ssh.known_hosts_files().map(PathBuf::as_path).collect();
        let addr = ssh.host_name.parse().ok();
        let all = KnownHosts::load(&files);
        let unread: Vec<_> =
            all.warnings().iter().filter(|warning| warning.line.is_none()).map(ToString::to_string).collect();
        Self {
            known: all.lookup(name, port, addr),
            name: name.into(),
            port,
            file: ssh.user_known_hosts.first().cloned(),
            hash: ssh.hash_known_hosts,
            accept_new: accept_new && unread.is_empty(),
            unread,
        }
    }

    /// For the connection.
    pub fn policy(&self) -> Policy {
        let prefer = self.known.algorithms().into_iter().map(str::to_owned).collect();
        let this = self.clone();
        Policy::new(prefer, move |key| this.judge(key))
    }

    fn judge(&self, key: &HostKey) -> Judgement {
        let Ok(key) = PublicKey::parse(key.line()) else { return Judgement::Unknown };
        match self.known.check(&key) {
            Verdict::Match(_) => Judgement::Trusted,
            Verdict::Unknown if self.accept_new => Judgement::Trusted,
            Verdict::Unknown => Judgement::Unknown,
            Verdict::Revoked(_) => Judgement::Revoked,
            Verdict::Changed(known) => Judgement::Changed(vec![describe(&known)]),
            Verdict::OtherAlgorithm(known) => Judgement::Changed(known.iter().map(describe).collect()),
        }
    }

    /// Remembers a key that was accepted though nothing was known of the host. Returns what to tell the user.
    pub fn remember(&self, key: &HostKey) -> Option<Result<String, String>> {
        let parsed = PublicKey::parse(key.line()).ok()?;
        if !self.accept_new || self.known.check(&parsed) != Verdict::Unknown {
            return None;
        }
        let Some(file) = &self.file else { return Some(Err("there is no known_hosts file to put it in".into())) };
        Some(match known_hosts::add_line(file, &self.name, self.port, &parsed, self.hash) {
            Ok(()) => Ok(format!("took the new host key {key} on trust, and put it into {}", file.display())),
            Err(error) => Err(error.to_string()),
        })
    }
}

fn describe(known: &known_hosts::KnownKey) -> String {
    format!(
        "{} {} ({}:{})",
        known.key.algorithm(),
        known.key.fingerprint(),
        known.place.file.display(),
        known.place.line
    )
}
