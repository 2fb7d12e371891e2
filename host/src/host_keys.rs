//! The files that sshd has its host keys in.

use crate::root::Root;

/// Where they are.
pub const DIR: &str = "/etc/ssh";

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

/// The sorted names of the host keys in [`DIR`], private and public.
pub fn names(root: &Root) -> Vec<String> {
    root.names(DIR).into_iter().filter(|name| is_name(name)).collect()
}

/// The public host keys, each as the line that its file holds.
pub fn public(root: &Root) -> Vec<String> {
    let names = names(root).into_iter().filter(|name| is_public(name));
    let keys = names.filter_map(|name| root.text(&format!("{DIR}/{name}")));
    keys.filter(|key| !key.is_empty() && key.len() < LONGEST).collect()
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
        assert_eq!(names(&root).len(), 5);
        assert_eq!(public(&Root::new("/nonexistent")), Vec::<String>::new());
        Ok(())
    }
}
