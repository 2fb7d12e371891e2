//! Which host keys of the old system are trusted, and remembering those that were new.

use std::path::{Path, PathBuf};

use crate::known_hosts::{self, Known, KnownHosts, PublicKey, Verdict};
use crate::ssh::{HostCertificate, HostKey, Judgement, Policy};
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
    /// Files of revoked keys.
    revoked: Vec<PathBuf>,
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
            revoked: ssh.revoked_host_keys.clone(),
            unread,
        }
    }

    /// For the connection.
    pub fn policy(&self) -> Policy {
        let prefer = self.known.algorithms().into_iter().map(str::to_owned).collect();
        let this = self.clone();
        let certificates = !self.known.authorities.is_empty();
        Policy::new(prefer, certificates, move |key, certificate| this.judge(key, certificate))
    }

    /// As OpenSSH has it: a certificate that is not good is not there, and its key is judged as a plain one; but such a
    /// key is never taken on trust.
    fn judge(&self, key: &HostKey, certificate: Option<&HostCertificate>) -> Judgement {
        let Ok(plain) = PublicKey::parse(key.line()) else { return Judgement::Unknown };
        let authority = certificate.and_then(|shown| PublicKey::parse(shown.authority.line()).ok());
        let line = certificate.map_or(key.line(), |shown| shown.line.as_str());
        let keys: Vec<&PublicKey> = std::iter::once(&plain).chain(&authority).collect();
        for key in &keys {
            if let Verdict::Revoked(place) = self.known.check(key) {
                return Judgement::Revoked(format!("@revoked in {place}"));
            }
        }
        match known_hosts::revoked(&self.revoked, line, &keys) {
            Ok(None) => {}
            Ok(Some(file)) => return Judgement::Revoked(file.display().to_string()),
            Err(why) => return Judgement::Undecided(why),
        }
        let fault = match certificate.map(|shown| self.fault(shown, authority.as_ref())) {
            Some(None) => return Judgement::Trusted,
            Some(fault) => fault,
            None => None,
        };
        match (self.judge_plain(&plain), self.known.check(&plain), fault) {
            (Judgement::Trusted | Judgement::Unknown, Verdict::Unknown, Some(fault)) => Judgement::Undecided(fault),
            (judgement, ..) => judgement,
        }
    }

    /// Why a certificate does not prove that this is the host.
    fn fault(&self, shown: &HostCertificate, authority: Option<&PublicKey>) -> Option<String> {
        let about = |why: String| format!("it shows the certificate `{}`: {why}", shown.id);
        if !self.known.authorities.iter().any(|known| Some(&known.key) == authority) {
            let whose = shown.authority.fingerprint();
            return Some(about(format!("its authority {whose} is not a @cert-authority for this host in known_hosts")));
        }
        shown.fault(&self.name.to_lowercase()).map(about)
    }

    fn judge_plain(&self, key: &PublicKey) -> Judgement {
        match self.known.check(key) {
            Verdict::Match(_) => Judgement::Trusted,
            Verdict::Unknown if self.accept_new => Judgement::Trusted,
            Verdict::Unknown => Judgement::Unknown,
            Verdict::Revoked(place) => Judgement::Revoked(format!("@revoked in {place}")),
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
