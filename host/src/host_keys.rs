//! The files that SSH servers have their host keys in.

mod dropbear;

use std::collections::BTreeMap;

use crate::root::Root;

/// Where they are.
pub const DIR: &str = "/etc/ssh";

/// A chain of processes that is longer has changed while it was read.
const MOST_ANCESTORS: usize = 64;

/// No public key is longer, in bytes.
const LONGEST: usize = 16 * 1024;

/// Whether a file is a host key by its name, private or public: `ssh_host_*_key` or `ssh_host_*_key.pub`, and no path.
pub fn is_name(name: &str) -> bool {
    let stem = name.strip_suffix(".pub").unwrap_or(name);
    !name.contains('/')
        && stem.strip_prefix("ssh_host_").and_then(|s| s.strip_suffix("_key")).is_some_and(|s| !s.is_empty())
}

/// Whether the host key `name` is a public one.
pub fn is_public(name: &str) -> bool {
    name.strip_suffix(".pub").is_some()
}

/// The host keys, private and public, by the names that OpenSSH's files have, and in their form: those in [`DIR`], and
/// dropbear's. Of two of one kind it is the one of the server that let this process in.
pub fn all(root: &Root) -> BTreeMap<String, Vec<u8>> {
    let names = root.names(DIR).into_iter().filter(|name| is_name(name));
    let files = names.filter_map(|name| Some((name.clone(), root.read(&format!("{DIR}/{name}")).ok()?)));
    let (mut keys, mut others) = (dropbear::all(root), files.collect::<BTreeMap<_, _>>());
    if entered_by_dropbear(root) {
        std::mem::swap(&mut keys, &mut others);
    }
    keys.append(&mut others);
    keys
}

/// The public host keys, each as the line that its file holds.
pub fn public(root: &Root) -> Vec<String> {
    let keys = all(root).into_iter().filter(|(name, _)| is_public(name));
    let keys = keys.filter_map(|(_, key)| Some(String::from_utf8(key).ok()?.trim().to_owned()));
    keys.filter(|key| !key.is_empty() && key.len() < LONGEST).collect()
}

/// Whether this process descends from a dropbear.
fn entered_by_dropbear(root: &Root) -> bool {
    let mut process = "self".to_owned();
    for _ in 0..MOST_ANCESTORS {
        let status = root.text(&format!("/proc/{process}/status")).unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        if field("Name:") == Some("dropbear") {
            return true;
        }
        let Some(parent) = field("PPid:").filter(|parent| *parent != "0") else { return false };
        parent.clone_into(&mut process);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_paths_and_other_files() {
        for name in ["ssh_host_ed25519_key", "ssh_host_rsa_key.pub"] {
            assert!(is_name(name), "{name}");
        }
        for other in ["sshd_config", "ssh_host__key", "ssh_host_rsa_key.old", "../ssh_host_rsa_key", "ssh_host_/_key"] {
            assert!(!is_name(other), "{other}");
        }
    }

    #[test]
    fn public_keys_are_lines() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let root = Root::new(dir.path());
        std::fs::create_dir_all(root.at(DIR))?;
        for (name, text) in [
            ("ssh_host_rsa_key", "private"),
            ("ssh_host_rsa_key.pub", "ssh-rsa AAAA root@host\n"),
            ("ssh_host_ed25519_key.pub", "ssh-ed25519 AAAA\n"),
            ("ssh_host_ecdsa_key.pub", "\n"),
            ("moduli", "x"),
        ] {
            std::fs::write(root.at(&format!("{DIR}/{name}")), text)?;
        }
        std::fs::write(root.at(&format!("{DIR}/ssh_host_long_key.pub")), vec![b'x'; LONGEST])?;
        assert_eq!(public(&root), ["ssh-ed25519 AAAA", "ssh-rsa AAAA root@host"]);
        assert_eq!(all(&root).len(), 5);
        assert_eq!(public(&Root::new("/nonexistent")), Vec::<String>::new());
        Ok(())
    }
    #[test]
    fn of_two_keys_of_a_kind_it_is_that_of_the_server_that_let_us_in() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let root = Root::new(dir.path());
        let write = |path: &str, bytes: &[u8]| {
            let path = root.at(path);
            std::fs::create_dir_all(path.parent().unwrap_or(&path))?;
            std::fs::write(path, bytes)
        };
        write("/etc/ssh/ssh_host_ed25519_key.pub", b"ssh-ed25519 sshd\n")?;
        write("/etc/ssh/ssh_host_rsa_key.pub", b"ssh-rsa sshd\n")?;
        write("/etc/dropbear/dropbear_ed25519_host_key", &dropbear::tests::ed25519())?;
        write("/proc/self/status", b"Name:\tanemos-stage\nPPid:\t20\n")?;
        write("/proc/20/status", b"Name:\tsh\nPPid:\t10\n")?;
        write("/proc/10/status", b"Name:\tsshd\nPPid:\t1\n")?;
        assert_eq!(public(&root), ["ssh-ed25519 sshd", "ssh-rsa sshd"]);
        write("/proc/10/status", b"Name:\tdropbear\nPPid:\t1\n")?;
        let keys = public(&root);
        assert!(keys[0].starts_with("ssh-ed25519 AAAA") && keys[1] == "ssh-rsa sshd", "{keys:?}");
        Ok(())
    }
}
