//! What the fuzzer calls: everything here that reads bytes of somebody else's, with what must hold for all of them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use crate::engine::{look, stage};
use crate::known_hosts::{KnownHosts, PublicKey, Verdict};
use crate::run::inbox;
use crate::ssh_config::{self, Local, Overrides};
use crate::{api, config, journal, screen, ssh};

/// What is done with an input.
pub type Target = fn(&[u8]);

/// Targets by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("hosts-toml", hosts_toml),
    ("known-hosts", known_hosts),
    ("ssh-config", ssh_config),
    ("journal", journal::fuzz::file),
    ("journal-entries", journal::fuzz::in_blocks),
    ("remote-text", screen::fuzz::line),
    ("events", screen::fuzz::replies),
    ("host-facts", screen::fuzz::facts),
    ("host-answers", host_answers),
    ("api-requests", api_requests),
];

/// A line that a client of the daemon sent. What is wrong with it is said without repeating it, since it may hold a
/// secret; what was read is read again from what it is written as.
fn api_requests(data: &[u8]) {
    match api::read(data) {
        Ok((number, request)) => {
            let Ok(mut value) = serde_json::to_value(&request) else { return };
            value["number"] = number.into();
            let (again, read) = api::read(value.to_string().as_bytes()).expect("what was written is read");
            assert_eq!((again, format!("{read:?}")), (number, format!("{request:?}")));
        }
        Err((_, fault)) => assert!(fault.message.len() < 200 + data.len(), "{fault:?}"),
    }
}

/// hosts.toml. Every error has a place in the text; the names of hosts are names of files.
fn hosts_toml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let lines = text.split('\n').count();
    // Each file that it includes is there, and has itself.
    let source = |_: &Path| Ok(text.to_owned());
    match config::parse(text, Path::new("/home/u/hosts.toml"), Some(Path::new("/home/u")), &source) {
        Ok(file) => {
            assert!(!file.hosts.is_empty());
            for host in &file.hosts {
                assert!(!host.name.contains('/') && !host.name.starts_with(['.', '-']), "{}", host.name);
                assert!(!host.address.starts_with('-') && !host.address.contains(char::is_whitespace));
                assert!(host.identity_files.iter().chain([&host.payload]).all(|path| path.is_absolute()));
            }
        }
        Err(errors) => {
            assert!(!errors.is_empty());
            for error in errors {
                assert!((1..=lines).contains(&error.line), "{error:?}");
                assert!(error.column >= 1 && error.column <= text.chars().count() + 1, "{error:?}");
                assert!(!error.to_string().is_empty());
            }
        }
    }
}

/// A known_hosts file. A key that was read is written as what is read again; one that was revoked is never accepted.
fn known_hosts(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let known = KnownHosts::parse(&text, Path::new("known_hosts"));
    assert!(known.warnings().len() <= text.split('\n').count());
    for (host, port) in [("web1", 22), ("web1.example.org", 2222), ("192.0.2.7", 22)] {
        let found = known.lookup(host, port, Some(Ipv4Addr::new(192, 0, 2, 7).into()));
        for revoked in &found.revoked {
            assert!(matches!(found.check(&revoked.key), Verdict::Revoked(_)));
        }
        for key in found.keys.iter().map(|known| &known.key) {
            assert_eq!(PublicKey::parse(&key.to_string()).as_ref().ok(), Some(key));
            assert!(matches!(found.check(key), Verdict::Match(_) | Verdict::Revoked(_)));
            assert!(found.algorithms().contains(&key.algorithm()));
        }
    }
    for line in text.lines() {
        if let Some(key) = ssh::HostKey::parse(line) {
            assert_eq!(ssh::HostKey::parse(key.line()).as_ref(), Some(&key));
        }
    }
}

/// An answer of `ssh -G`. No file that is read is found by a relative path that was none in the answer.
fn ssh_config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let local = Local {
        home: PathBuf::from("/home/u"),
        user: Some("u".into()),
        uid: Some(1000),
        environment: BTreeMap::from([("SSH_AUTH_SOCK".into(), "/run/agent".into())]),
    };
    let overrides = Overrides::default();
    let named = ssh_config::named_user(&text, &text, Some("u"));
    let effective = ssh_config::resolve("web1", &text, named.as_deref(), &overrides, &local);
    assert!(!effective.host_name.is_empty() && !effective.user.is_empty());
    effective.known_hosts_name();
    // Hosts.toml's own words win.
    let file = PathBuf::from("/k");
    let overrides = Overrides {
        user: Some("root".into()),
        port: Some(2222),
        identity_files: vec![file.clone()],
        known_hosts: Some(file.clone()),
        proxy_jump: None,
    };
    let effective = ssh_config::resolve("web1", &text, named.as_deref(), &overrides, &local);
    assert_eq!((&*effective.user, effective.port), ("root", 2222));
    assert_eq!(effective.identity_files, std::slice::from_ref(&file));
    assert_eq!(effective.known_hosts_files().collect::<Vec<_>>(), [&file]);
}

/// Lines that a host's shell prints, and this machine's passwd(5).
fn host_answers(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let look = look::parse(&text);
    for said in [&look.boot_id, &look.identity, &look.os, &look.note] {
        assert!(!said.contains('\n') && said.len() <= text.len());
    }
    if let Some(why) = stage::script_error(&text) {
        assert!(!why.contains('\n'));
    }
    inbox::user_name(&text, 0);
}

#[cfg(test)]
#[path = "../../fuzz/seeds.rs"]
mod seeds;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_and_what_is_near_them() {
        seeds::run(TARGETS, 256);
    }
}
