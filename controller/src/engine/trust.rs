//! Which host keys of the old system are trusted, and remembering those that were new.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::known_hosts::{self, Known, KnownHosts, KnownKey, PublicKey, Verdict};
use crate::ssh::{HostCertificate, HostKey, Judgement, Policy};
use crate::ssh_config::Effective;

/// What known_hosts says of one host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Trust {
    known: Known,
    /// Where that was read.
    files: Vec<PathBuf>,
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
            files: files.iter().map(|file| file.to_path_buf()).collect(),
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

impl Trust {
    /// What the files say by now.
    fn now(&self) -> Known {
        KnownHosts::load(&self.files).lookup(&self.name, self.port, None)
    }

    /// Whether known_hosts still has a key of the host that is none of these, which are all that its new system has:
    /// with that line the next ssh would say that the key has changed.
    pub fn is_stale(&self, keys: &[HostKey]) -> bool {
        let keys = parsed(keys);
        let known = self.now();
        !keys.is_empty() && !known.by_plain_name && known.keys.iter().any(|known| !keys.contains(&known.key))
    }

    /// Puts these keys in the place of all others that the user's known_hosts has of the host. Returns what was done.
    pub fn replace(&self, keys: &[HostKey]) -> Result<String, String> {
        let known = self.now();
        let keys = parsed(keys);
        let Some(file) = &self.file else { return Err("there is no known_hosts file to put them in".into()) };
        if let Some(revoked) = known.revoked.iter().find(|revoked| keys.contains(&revoked.key)) {
            return Err(format!("{} is revoked in {}", revoked.key.fingerprint(), revoked.place));
        }
        if let Some(elsewhere) = known.keys.iter().find(|known| known.place.file != *file) {
            return Err(format!("the old one is in {}: mend it there", elsewhere.place));
        }
        let name = known_hosts::filed_under(&self.name, self.port);
        // ssh-keygen takes out whole lines, whoever else they are for.
        let text = fs::read_to_string(file).unwrap_or_default();
        let of_others =
            |known: &&KnownKey| text.lines().nth(known.place.line - 1).is_some_and(|line| others(line, &name));
        if let Some(shared) = known.keys.iter().find(of_others).filter(|_| !known.by_plain_name) {
            return Err(format!("the old one is for other hosts as well, in {}: mend it there", shared.place));
        }
        let mut command = Command::new("ssh-keygen");
        command.args(["-R", &name, "-f"]).arg(file).stdin(Stdio::null());
        let output = command.output().map_err(|error| format!("ssh-keygen, which takes out the old ones: {error}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("`ssh-keygen -R {name} -f {}` failed: {}", file.display(), said.trim()));
        }
        for key in &keys {
            known_hosts::add_line(file, &self.name, self.port, key, self.hash).map_err(|error| error.to_string())?;
        }
        match self.now().keys.into_iter().find(|known| !keys.contains(&known.key)) {
            Some(left) => Err(format!("the new ones are in, and the old one still is, in {}", left.place)),
            None => Ok(format!("{} has the new host keys; what it was is in {}.old", file.display(), file.display())),
        }
    }
}

/// Whether a line is for other hosts than this one, by its names: for a pattern, or for a name that is no address.
fn others(line: &str, name: &str) -> bool {
    let names = line.split_whitespace().next().unwrap_or_default();
    let address = |other: &str| {
        let other = other.strip_prefix('[').and_then(|other| other.split_once(']')).map_or(other, |(other, _)| other);
        other.parse::<std::net::IpAddr>().is_ok()
    };
    // A hashed name is one.
    names.split(',').any(|other| !other.eq_ignore_ascii_case(name) && !other.starts_with("|1|") && !address(other))
}

fn parsed(keys: &[HostKey]) -> Vec<PublicKey> {
    keys.iter().filter_map(|key| PublicKey::parse(key.line()).ok()).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ssh_config::{Local, Overrides, resolve};

    /// `ssh-keygen -q -t TYPE -N '' -f key; cut -d' ' -f1,2 key.pub`
    const OLD: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBvMEaYrEAoJpg0YaZD5aPahfRI1O5ZQNNGGKHzSjDzv";
    const NEW: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIQr8xQuCc4EgyOdEyDMALuAkLUWsLkXbTJFWwT3jPW2";

    fn trust(file: &Path, port: u16) -> Trust {
        let answer = format!(
            "hostname web.example.org\nport {port}\nuserknownhostsfile {}\nglobalknownhostsfile none\n",
            file.display()
        );
        Trust::load(&resolve("web", &answer, None, &Overrides::default(), &Local::default()), false)
    }

    #[test]
    fn old_host_keys_make_way_for_those_that_were_proved() {
        let new = [HostKey::parse(NEW).unwrap()];
        for (port, name) in [(22, "web.example.org"), (2222, "[web.example.org]:2222")] {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("known_hosts");
            fs::write(&file, format!("# mine\nother {OLD}\n{name} {OLD} a comment\n")).unwrap();
            let trust = trust(&file, port);
            assert!(trust.is_stale(&new) && !trust.is_stale(&[HostKey::parse(OLD).unwrap()]));
            assert!(!trust.is_stale(&[]), "nothing is known of the new system's keys");
            let said = trust.replace(&new).unwrap();
            assert!(said.contains("known_hosts.old"), "{said}");
            assert_eq!(fs::read_to_string(&file).unwrap(), format!("# mine\nother {OLD}\n{name} {NEW}\n"));
            assert!(!trust.is_stale(&new));
        }
    }

    #[test]
    fn what_is_not_to_be_changed_is_said_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("known_hosts");
        let new = [HostKey::parse(NEW).unwrap()];
        let refused = |text: String| {
            fs::write(&file, &text).unwrap();
            let error = trust(&file, 22).replace(&new).unwrap_err();
            (error, fs::read_to_string(&file).unwrap() == text)
        };
        let (revoked, same) = refused(format!("web.example.org {OLD}\n@revoked * {NEW}\n"));
        assert!(revoked.contains("is revoked in") && same, "{revoked}");
        for names in ["*.example.org", "web.example.org,db.example.org", "web.example.org,!x.example.org"] {
            let (shared, same) = refused(format!("# mine\n{names} {OLD}\n"));
            assert!(shared.contains("is for other hosts as well, in ") && shared.contains("known_hosts:2"), "{shared}");
            assert!(same, "{names}");
        }
        // The address that OpenSSH used to write beside the name is the same machine.
        fs::write(&file, format!("web.example.org,192.0.2.1 {OLD}\n")).unwrap();
        trust(&file, 22).replace(&new).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("web.example.org {NEW}\n"));
        // A host that nobody knows is none whose key has changed, and neither is another at another port.
        fs::write(&file, format!("web.example.org {OLD}\n")).unwrap();
        assert!(!trust(&file, 2222).is_stale(&new));
        fs::write(&file, "").unwrap();
        assert!(!trust(&file, 22).is_stale(&new));
    }
}
