//! Hosts whose SSH server is dropbear.

use crate::command::{program, run};
use crate::{Context, Result};
use std::fs;
use std::path::Path;

/// Gives dropbear the host keys that OpenSSH was given, which has none any more.
pub fn take_keys(root: &Path) -> Result<()> {
    let theirs = root.join("etc/ssh");
    let own = root.join("etc/dropbear");
    fs::create_dir_all(&own).context(format!("cannot make {}", own.display()))?;
    for kind in ["ed25519", "ecdsa", "rsa"] {
        let from = theirs.join(format!("ssh_host_{kind}_key"));
        // It reads some kinds only in the older of OpenSSH's forms.
        if kind != "ed25519" {
            run(program("ssh-keygen").args(["-q", "-p", "-m", "PEM", "-N", "", "-f"]).arg(&from))?;
        }
        let to = own.join(format!("dropbear_{kind}_host_key"));
        run(program("dropbearconvert").args(["openssh", "dropbear"]).arg(&from).arg(&to))?;
    }
    fs::remove_dir_all(&theirs).context(format!("cannot remove {}", theirs.display()))
}
