//! Everything that the plan needs to know about the host. Nothing here changes anything.

pub mod disks;
pub mod inside;
pub mod signature;
pub mod watchdogs;

use std::str::FromStr;

use anemos_base::Proxies;
use anemos_host::memory::{self, Memory};
use anemos_host::{Root, boot_id, host_keys, mounts};
use anemos_netstate::Reached;
use anemos_proto::Digest;
use anemos_proto::host::{Disk, Firmware, HostFacts, KexecSupport, locks_down};
use anemos_proto::net::NetworkState;

use crate::error::{Doing, Result};
use crate::kernel;
use crate::sys;

/// Directory in a deployed system with files that the next deployment need not send again.
pub const CACHE: &str = "/var/cache/anemos";

/// Finds out everything.
pub fn collect(root: &Root) -> Result<HostFacts> {
    let release = kernel_release(root);
    let network = anemos_netstate::capture().doing(|| "reading the host's network".into())?;
    let connection = std::env::var("SSH_CONNECTION").unwrap_or_default();
    let reached = reached(&network, &connection)?;
    let lost_ways = anemos_netstate::lost_ways(&network, &reached);
    let memory = Memory::of(root);
    let watchdogs = watchdogs::watchdogs(root, &release);
    let (cached_blobs, cached_bases) = parse_cache(&root.names(CACHE));
    let mirrors = mirrors(root);
    let past = || anemos_base::snapshot_of_apt().or_else(|| anemos_base::snapshot_of_images(&root.at(CACHE)));
    Ok(HostFacts {
        hostname: root.text("/proc/sys/kernel/hostname").unwrap_or_default(),
        os: root
            .text("/etc/os-release")
            .or_else(|| root.text("/usr/lib/os-release"))
            .and_then(|text| os_release(&text, "PRETTY_NAME"))
            .unwrap_or_default(),
        boot_id: boot_id(root),
        arch: rustix::system::uname().machine().to_string_lossy().into_owned(),
        kernel_image: kernel::find(root, &release).ok().map(|image| image.name),
        kernel_lacks: kernel::lacks(root, &release),
        kernel_release: release,
        cmdline: root.text("/proc/cmdline").unwrap_or_default(),
        firmware: firmware(root),
        memory_total: memory.total.unwrap_or(0),
        memory_available: memory.available.unwrap_or(0),
        disks: all_disks(root),
        kexec: kexec_support(root),
        instead: if lost_ways.is_empty() { Vec::new() } else { anemos_netstate::instead(&network, &reached) },
        lost_ways,
        ways: anemos_netstate::ways(&network, &reached),
        network,
        ssh_port: ssh_port(Some(&connection)),
        host_keys: host_keys::public(root),
        snapshot: if mirrors.is_empty() { past() } else { None },
        mirrors,
        cached_blobs,
        cached_bases,
        watchdogs,
        inside: inside::inside(root),
        memory_reserved: memory::reserved(root),
        proxy: proxies(root).shown(),
    })
}

/// How the host is reached, by `SSH_CONNECTION`.
pub fn reached(network: &NetworkState, connection: &str) -> Result<Reached> {
    anemos_netstate::reached(network, connection).doing(|| "asking for the way back to the workstation".into())
}

/// `uname -r`.
pub fn kernel_release(root: &Root) -> String {
    root.text("/proc/sys/kernel/osrelease")
        .unwrap_or_else(|| rustix::system::uname().release().to_string_lossy().into_owned())
}

/// Archives in the host's own apt sources.
pub fn mirrors(root: &Root) -> Vec<String> {
    anemos_base::mirrors_from_apt_sources(&root.at("/etc/apt"))
}

/// The archive of security updates in the host's own apt sources.
pub fn security_mirror(root: &Root) -> Option<String> {
    anemos_base::security_from_apt_sources(&root.at("/etc/apt")).into_iter().next()
}

/// The HTTP proxies that the host goes through.
pub fn proxies(root: &Root) -> Proxies {
    Proxies::of_machine(&root.at("/etc/environment"))
}

fn all_disks(root: &Root) -> Vec<Disk> {
    disks::disks(root, &disks::InUse { mounts: mounts::mounts(root), swaps: mounts::swaps(root) })
}

/// How the machine was booted.
pub fn firmware(root: &Root) -> Firmware {
    if !root.at("/sys/firmware/efi").is_dir() {
        return Firmware::Bios;
    }
    // An EFI variable's file: four bytes of attributes, then the value.
    let variable = |name: &str| {
        let path = format!("/sys/firmware/efi/efivars/{name}-8be4df61-93ca-11d2-aa0d-00e098032b8c");
        root.read(&path).ok().and_then(|bytes| bytes.get(4).copied())
    };
    Firmware::Uefi { secure_boot: variable("SecureBoot") == Some(1) && variable("SetupMode") != Some(1) }
}

/// Whether and how the running kernel can boot another by kexec.
pub fn kexec_support(root: &Root) -> KexecSupport {
    // -1 where there is no limit.
    let loads_left = root.text("/proc/sys/kernel/kexec_load_limit_reboot").and_then(|text| text.parse().ok());
    let policy = root.text("/sys/kernel/security/ima/policy").unwrap_or_default();
    KexecSupport {
        file_load: loads_left.is_some() || sys::kexec::has_file_load(),
        load: loads_left.is_some() || sys::kexec::has_load(),
        disabled: root.text("/proc/sys/kernel/kexec_load_disabled").is_some_and(|text| text != "0"),
        lockdown: lockdown_now(root),
        loads_left,
        appraised: is_appraised(&policy, &root.text("/proc/cmdline").unwrap_or_default()),
        refused: None,
    }
}

/// Whether IMA wants a signature of what kexec loads, by its policy, which few kernels let anybody read, or by the one
/// that the command line names (Documentation/ABI/testing/ima_policy, Documentation/admin-guide/kernel-parameters.txt).
pub fn is_appraised(policy: &str, cmdline: &str) -> bool {
    let named = cmdline.split_whitespace().filter_map(|word| word.strip_prefix("ima_policy="));
    policy.lines().any(|rule| rule.starts_with("appraise ") && rule.contains("func=KEXEC_"))
        || named.flat_map(|names| names.split('|')).any(|name| name == "secure_boot")
}

/// Whether the kernel loads none by `kexec_load`, and wants signatures.
pub fn is_locked_down(root: &Root) -> bool {
    locks_down(&lockdown_now(root))
}

fn lockdown_now(root: &Root) -> String {
    lockdown(&root.text("/sys/kernel/security/lockdown").unwrap_or_default())
}

/// The word in brackets: `[none] integrity confidentiality`.
pub fn lockdown(text: &str) -> String {
    text.split_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']')).unwrap_or_default().to_owned()
}

/// A value in os-release, without its quotes.
pub fn os_release(text: &str, key: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?.trim();
    let inner = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
    let inner = inner.or_else(|| value.strip_prefix('\'').and_then(|v| v.strip_suffix('\'')));
    Some(inner.unwrap_or(value).to_owned())
}

/// The server's port in `SSH_CONNECTION` (client address, client port, server address, server port).
pub fn ssh_port(connection: Option<&str>) -> u16 {
    connection.and_then(|text| text.split_whitespace().nth(3)?.parse().ok()).unwrap_or(22)
}

/// Blobs and base images, by the names of files in the cache.
pub fn parse_cache(names: &[String]) -> (Vec<Digest>, Vec<Digest>) {
    let digests = |prefix: &str, suffix: &str| {
        let inner = |name: &str| Digest::from_str(name.strip_prefix(prefix)?.strip_suffix(suffix)?).ok();
        names.iter().filter_map(|name| inner(name)).collect()
    };
    (digests("blob-", ""), digests("base-", ".cpio.zst"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lockdown_is_the_bracketed_word() {
        for (text, expected) in [
            ("[none] integrity confidentiality", "none"),
            ("none [integrity] confidentiality", "integrity"),
            ("", ""),
            ("none integrity", ""),
        ] {
            assert_eq!(lockdown(text), expected, "{text}");
        }
    }

    #[test]
    fn what_ima_appraises() {
        // As the kernel shows the policy that it has under Secure Boot.
        let arch = "measure func=KEXEC_KERNEL_CHECK \nmeasure func=MODULE_CHECK \n\
            appraise func=KEXEC_KERNEL_CHECK appraise_type=imasig \n";
        for (policy, cmdline, expected) in [
            (arch, "", true),
            ("measure func=KEXEC_KERNEL_CHECK \nappraise func=MODULE_CHECK appraise_type=imasig \n", "ro quiet", false),
            ("", "ro ima_policy=tcb|secure_boot", true),
            ("", "ro ima_policy=appraise_tcb", false),
        ] {
            assert_eq!(is_appraised(policy, cmdline), expected, "{policy} {cmdline}");
        }
    }

    /// Where loads are counted, a question is one too.
    #[test]
    fn loads_that_are_left() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let root = Root::new(dir.path());
        std::fs::create_dir_all(root.at("/proc/sys/kernel"))?;
        for (limit, left) in [("-1\n", None), ("0\n", Some(0)), ("2\n", Some(2))] {
            std::fs::write(root.at("/proc/sys/kernel/kexec_load_limit_reboot"), limit)?;
            let found = kexec_support(&root);
            assert_eq!(found.loads_left, left);
            assert!(left.is_none() || found.load && found.file_load);
        }
        Ok(())
    }

    #[test]
    fn os_release_quotes() {
        let text = "NAME=\"Debian GNU/Linux\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nX='y'\n";
        assert_eq!(os_release(text, "PRETTY_NAME").as_deref(), Some("Debian GNU/Linux 12 (bookworm)"));
        assert_eq!(os_release(text, "ID").as_deref(), Some("debian"));
        assert_eq!(os_release(text, "X").as_deref(), Some("y"));
        assert_eq!(os_release(text, "VERSION"), None);
    }

    #[test]
    fn ssh_connection() {
        assert_eq!(ssh_port(Some("10.0.2.2 51024 10.0.2.15 2222")), 2222);
        assert_eq!(ssh_port(Some("fe80::1%eth0 51024 fe80::2%eth0 22")), 22);
        assert_eq!(ssh_port(Some("nonsense")), 22);
        assert_eq!(ssh_port(None), 22);
    }

    #[test]
    fn cache_names() {
        let hex = "ab".repeat(32);
        let names = [format!("blob-{hex}"), format!("base-{hex}.cpio.zst"), "stage".into(), "blob-xyz".into()];
        let (blobs, bases) = parse_cache(&names);
        assert_eq!(blobs, [Digest([0xab; 32])]);
        assert_eq!(bases, [Digest([0xab; 32])]);
    }

    #[test]
    fn this_machine() {
        let facts = collect(&Root::new("/")).unwrap();
        assert_eq!(facts.boot_id.len(), 36);
        assert!(facts.memory_total > facts.memory_available && facts.memory_available > 0);
        assert!(facts.disks.iter().all(|disk| disk.id.path.starts_with("/sys/devices/") && disk.id.size > 0));
        assert!(!facts.kernel_release.is_empty());
    }
}
