//! `identity install`: the old system's SSH host keys for the new one.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, lchown};
use std::path::Path;

use anemos_host::host_keys;
use anemos_proto::Secret;

/// Writes the host keys under `root`/etc/ssh; returns the names of the files written.
pub fn install(identity: &[(String, Secret)], root: &Path) -> io::Result<Vec<String>> {
    let files: Vec<&(String, Secret)> = identity.iter().filter(|(name, _)| host_keys::is_name(name)).collect();
    if files.is_empty() {
        return Err(io::Error::other("the old system had no SSH host keys that could be read"));
    }
    if !root.is_dir() {
        return Err(io::Error::other(format!("{} is no directory", root.display())));
    }
    let dir = root.join("etc/ssh");
    fs::create_dir_all(&dir)?;
    for (name, bytes) in &files {
        let mode = if host_keys::is_public(name) { 0o644 } else { 0o600 };
        let partial = dir.join(format!(".{name}.new"));
        match fs::remove_file(&partial) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&partial)?;
        file.write_all(bytes.expose())?;
        // Not left to the umask.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        lchown(&partial, Some(0), Some(0))?;
        fs::rename(&partial, dir.join(name))?;
    }
    Ok(files.into_iter().map(|(name, _)| name.clone()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_host_keys_are_installed_with_their_modes() -> io::Result<()> {
        if crate::skip::without_root("only root may give files to others") {
            return Ok(());
        }
        let root = tempfile::tempdir()?;
        let secret = |text: &str| Secret::new(text.as_bytes().to_vec());
        let identity = [
            ("ssh_host_ed25519_key".to_owned(), secret("private")),
            ("ssh_host_ed25519_key.pub".to_owned(), secret("public")),
            ("../../shadow".to_owned(), secret("x")),
            ("sshd_config".to_owned(), secret("x")),
        ];
        // Twice, because a retried payload may find its own files there.
        for _ in 0..2 {
            assert_eq!(install(&identity, root.path())?, ["ssh_host_ed25519_key", "ssh_host_ed25519_key.pub"]);
        }
        let dir = root.path().join("etc/ssh");
        assert_eq!(fs::read_dir(&dir)?.count(), 2);
        let mode = |name: &str| fs::metadata(dir.join(name)).map(|m| m.permissions().mode() & 0o777);
        assert_eq!(mode("ssh_host_ed25519_key")?, 0o600);
        assert_eq!(mode("ssh_host_ed25519_key.pub")?, 0o644);
        assert_eq!(fs::read(dir.join("ssh_host_ed25519_key"))?, b"private");
        Ok(())
    }

    #[test]
    fn without_keys_or_root_it_says_so() {
        let identity = [("ssh_host_rsa_key".to_owned(), Secret::default())];
        assert!(install(&[], Path::new("/")).unwrap_err().to_string().contains("no SSH host keys"));
        assert!(install(&identity, Path::new("/nowhere")).unwrap_err().to_string().contains("/nowhere"));
    }
}
