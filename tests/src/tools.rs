//! The programs the lab needs, and what to install where they are missing.

use crate::command::find_program;
use crate::{Error, Result};
use std::path::Path;

/// Programs and the Debian packages that have them.
const PROGRAMS: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("qemu-img", "qemu-utils"),
    ("mmdebstrap", "mmdebstrap"),
    ("mke2fs", "e2fsprogs"),
    ("sfdisk", "fdisk"),
    ("mformat", "mtools"),
    ("mcopy", "mtools"),
    ("ssh", "openssh-client"),
    ("ssh-keygen", "openssh-client"),
    ("sshd", "openssh-server"),
    ("ip", "iproute2"),
    ("setpriv", "util-linux"),
    ("apt-get", "apt"),
];

/// Files and the packages that have them.
const FILES: &[(&str, &str)] = &[(OVMF_CODE, "ovmf"), (KEYRING, "debian-archive-keyring")];

/// The UEFI firmware.
pub const OVMF_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
/// The UEFI firmware's variables, before the first boot.
pub const OVMF_VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
/// The UEFI firmware that may have Secure Boot.
pub const OVMF_CODE_SECURE: &str = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd";
/// Its variables, with the keys that are sold with machines, and Secure Boot on.
pub const OVMF_VARS_SOLD: &str = "/usr/share/OVMF/OVMF_VARS_4M.ms.fd";
/// The keys that sign Debian's archive.
pub const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Fails with the line that installs what is missing.
pub fn check() -> Result<()> {
    let programs = PROGRAMS.iter().filter(|(name, _)| find_program(name).is_none());
    let files = FILES.iter().filter(|(name, _)| !Path::new(name).exists());
    let missing: Vec<_> = programs.chain(files).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|(name, _)| *name).collect();
    let mut packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    packages.sort_unstable();
    packages.dedup();
    Err(Error::new(format!(
        "the lab needs {}\n  to install: apt-get install --no-install-recommends {}",
        names.join(", "),
        packages.join(" ")
    )))
}

/// Whether the lab may make network namespaces, tap devices and file systems owned by others.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_that_installs_tools_knows_all_of_these() {
        let script = include_str!("../install-tools.sh");
        let lines: Vec<&str> = script.lines().collect();
        for (what, package) in PROGRAMS.iter().chain(FILES).filter(|(_, package)| *package != "apt") {
            let line = format!("{what} {package}");
            assert!(lines.contains(&line.as_str()), "tests/install-tools.sh does not install {line}");
        }
    }
}
