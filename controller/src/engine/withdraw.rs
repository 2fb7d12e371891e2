//! The run's key in the new system: it opens root's account there until the end of `verify`, if hosts.toml says so, and
//! is taken away then.

use std::sync::Arc;

use anemos_proto::ids::RunId;
use tokio::time::Instant;

use super::script::quoted;
use crate::ssh::{
    self, Address, AuthError, ConnectError, Counters, Credentials, HostKey, Knocking, Policy, RunKey, Tuning,
};

/// The key's line for authorized_keys(5), with a comment that says whose it is.
pub fn line(run: &RunId, key: &HostKey) -> String {
    format!("{} {}", key.line(), comment(run))
}

/// What its line ends with.
pub fn comment(run: &RunId) -> String {
    format!("anemos-run-{run}")
}

/// Where sshd and dropbear look for root's keys, as words of a shell.
const FILES: &str = "~root/.ssh/authorized_keys ~root/.ssh/authorized_keys2 /etc/dropbear/authorized_keys \
                     /etc/ssh/authorized_keys.d/root /etc/ssh/authorized_keys/root";

/// What takes the key out of the files in which sshd and dropbear look for root's keys, as root. Each file is replaced
/// as a whole, and only if all that stays of it could be written.
pub fn script(key: &HostKey) -> String {
    let blob = key.line().split(' ').nth(1).unwrap_or_default();
    format!(
        r#"umask 077;
for f in {FILES}; do
if [ -f "$f" ] && grep -qF "{blob}" "$f"; then
f=$(readlink -f "$f");
if cp -p "$f" "$f.anemos"; then
grep -vF "{blob}" "$f" >"$f.anemos"; [ $? -le 1 ] && mv "$f.anemos" "$f"; fi; fi; done"#
    )
}

/// The script for root's own shell.
pub fn command(key: &HostKey) -> String {
    quoted(&script(key), &[])
}

/// Sees whether the system that holds `host_key` refuses the key now. The error says what is known instead.
pub async fn is_refused(
    address: Address,
    host_key: HostKey,
    key: RunKey,
    counters: &Arc<Counters>,
    deadline: Instant,
) -> Result<(), String> {
    let unknown = |error: ConnectError| format!("whether it is refused could not be seen: {error}");
    let reached = ssh::reach(&[address], Knocking::CALM, Instant::now(), deadline).await.map_err(unknown)?;
    let policy = Policy::pinned(vec![host_key]);
    let connected = ssh::handshake(reached, &policy, counters, deadline, &Tuning::default()).await.map_err(unknown)?;
    match connected.authenticate("root", &Credentials::Run(key), deadline).await {
        Err(AuthError::Refused { .. }) => Ok(()),
        Err(error) => Err(format!("whether it is refused could not be seen: {error}")),
        Ok(session) => {
            session.close().await;
            Err("it still opens root's account".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;
    use crate::journal::samples;

    /// In all the places, whatever else is there, with any shell of root's, and never with less than what was there.
    #[test]
    fn the_key_goes_and_the_others_stay() {
        let key = samples::run_key().public();
        let ours = line(&"20260101-000000-0000".parse().unwrap(), &key);
        assert!(ours.ends_with(" anemos-run-20260101-000000-0000"), "{ours}");
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        for dir in ["ssh/.ssh", "ssh-keys"] {
            fs::create_dir_all(path(dir)).unwrap();
        }
        let file = path("ssh/.ssh/authorized_keys");
        fs::write(path("ssh-keys/root"), format!("ssh-rsa AAAA me\n{ours}\nssh-rsa BBBB you\n")).unwrap();
        fs::set_permissions(path("ssh-keys/root"), fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("../../ssh-keys/root", &file).unwrap();
        fs::write(path("ssh/.ssh/authorized_keys2"), format!("{ours}\n")).unwrap();
        // The same script, of another root's home and without the machine's own files.
        let script = script(&key).replace("~root", &path("ssh").display().to_string()).replace("/etc/", "/nowhere/");
        let run = || {
            let output = Command::new("sh").arg("-c").arg(&script).output().unwrap();
            assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        run();
        assert_eq!(fs::read_to_string(path("ssh-keys/root")).unwrap(), "ssh-rsa AAAA me\nssh-rsa BBBB you\n");
        assert_eq!(fs::metadata(path("ssh-keys/root")).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(file.is_symlink());
        assert_eq!(fs::read_to_string(path("ssh/.ssh/authorized_keys2")).unwrap(), "");
        assert_eq!(
            fs::read_dir(path("ssh/.ssh")).unwrap().count() + fs::read_dir(path("ssh-keys")).unwrap().count(),
            3
        );
        run();
        assert_eq!(fs::read_to_string(&file).unwrap(), "ssh-rsa AAAA me\nssh-rsa BBBB you\n");
        // What no shell that hands it over could take apart: see `quoted`.
        assert!(command(&key).starts_with("exec sh -c '"));
    }
}
