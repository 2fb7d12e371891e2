//! `RevokedHostKeys` of ssh_config: files of keys, one a line, or key revocation lists (KRL), which OpenSSH's own
//! `ssh-keygen -Q` reads.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::key::PublicKey;

/// How a KRL begins (OpenSSH's PROTOCOL.krl).
const KRL: &[u8] = b"SSHKRL\n\0";

/// The file that revokes what a host has shown, if one does. `line` is that, a key or a certificate, as in a `.pub`
/// file; `keys` are the key and, of a certificate, its authority. An error says why it can't be told: then the host
/// must be refused.
pub fn revoked<'a>(files: &'a [PathBuf], line: &str, keys: &[&PublicKey]) -> Result<Option<&'a Path>, String> {
    for file in files {
        let failed = |why: String| format!("{}, a file of revoked host keys, {why}", file.display());
        let bytes = std::fs::read(file).map_err(|error| failed(format!("can't be read: {error}")))?;
        let is_revoked = if bytes.starts_with(KRL) { in_krl(file, line) } else { in_list(&bytes, keys) };
        if is_revoked.map_err(failed)? {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

fn in_list(bytes: &[u8], keys: &[&PublicKey]) -> Result<bool, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "is neither text nor a KRL".to_owned())?;
    let mut found = false;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        // A line that is not understood may be the one.
        let key = PublicKey::parse(line).map_err(|error| format!("has no key on line {}: {error}", number + 1))?;
        found |= keys.contains(&&key);
    }
    Ok(found)
}

fn in_krl(file: &Path, line: &str) -> Result<bool, String> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => "is a KRL, and ssh-keygen, which reads those, is not installed".to_owned(),
        _ => format!("is a KRL, and ssh-keygen, which reads those, can't be run: {error}"),
    };
    // In memory: ssh-keygen opens it as its standard input.
    let shown = rustix::fs::memfd_create("host-key", rustix::fs::MemfdFlags::CLOEXEC);
    let mut shown = File::from(shown.map_err(|e| failed(e.into()))?);
    writeln!(shown, "{line}").map_err(failed)?;
    let mut command = Command::new("ssh-keygen");
    command.args(["-Q", "-f"]).arg(file).arg("/proc/self/fd/0").stdin(shown).env("LC_ALL", "C");
    let output = command.output().map_err(failed)?;
    let said = String::from_utf8_lossy(&output.stdout);
    match (output.status.success(), said.trim_end()) {
        (true, said) if said.ends_with(": ok") => Ok(false),
        (false, said) if said.ends_with(": REVOKED") => Ok(true),
        _ => {
            let errors = String::from_utf8_lossy(&output.stderr);
            let words: Vec<&str> = said.split_whitespace().chain(errors.split_whitespace()).collect();
            Err(format!("can't be judged: `ssh-keygen -Q` failed ({}): {}", output.status, words.join(" ")))
        }
    }
}
