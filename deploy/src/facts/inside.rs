//! What the host's system runs in: a container, or a virtual machine that a kernel can't leave by kexec.
//!
//! The kernel's own word counts for more than files: an image that was made for a container may run on a machine.

use std::os::unix::fs::MetadataExt;

use anemos_host::Root;
use anemos_proto::host::Inside;

use crate::error::{Fault, Result};
use crate::sys;

/// Namespaces of a process, and the links of those that the kernel began with: `PROC_PID_INIT_INO` (0xEFFFFFFC) and
/// `PROC_USER_INIT_INO` of `<linux/proc_ns.h>`, the same since Linux 3.8.
const NAMESPACES: [(&str, &str, &str); 2] = [
    ("/proc/self/ns/pid", "pid:[4026531836]", "a PID namespace"),
    ("/proc/self/ns/user", "user:[4026531837]", "a user namespace"),
];

/// What the system runs in.
pub fn inside(root: &Root) -> Inside {
    if let Some(kind) = container(root) {
        return Inside::Container(kind);
    }
    if is_xen_pv(root) {
        return Inside::XenPv;
    }
    encryption(root).map_or(Inside::Machine, |kind| Inside::Encrypted(kind.into()))
}

/// Fails in a container, from which everything that a boot takes would be done to the system around it.
pub fn not_in_container(root: &Root) -> Result<()> {
    container(root).map_or(Ok(()), |kind| {
        let why = format!("this is a container ({kind}), whose kernel is that of the system around it");
        Err(Fault::new("making sure that this is a machine", why).hint("deploy that system instead"))
    })
}

/// What kind of container the system runs in, if it does.
pub fn container(root: &Root) -> Option<String> {
    let is_other =
        |path: &str, first: &str| std::fs::read_link(root.at(path)).is_ok_and(|link| link.as_os_str() != first);
    let other = NAMESPACES.iter().find(|(path, first, _)| is_other(path, first)).map(|(_, _, kind)| *kind);
    let environment = root.text("/proc/1/environ").unwrap_or_default();
    let by_init = environment.split('\0').find_map(|word| word.strip_prefix("container="));
    // The second is written by an init that sees that it runs in a container.
    let known = by_init.map(str::to_owned).or_else(|| root.text("/run/systemd/container"));
    if let Some(kind) = known.filter(|kind| !kind.is_empty()) {
        return Some(kind);
    }
    let exists = |path: &str| root.at(path).exists();
    let release = root.text("/proc/sys/kernel/osrelease").unwrap_or_default();
    let apart = other.is_some() || has_own_root(root);
    let marks = [
        // An image has these, or comes by them, and may run on a machine then: they prove nothing by themselves.
        ("docker", apart && exists("/.dockerenv")),
        ("podman", apart && exists("/run/.containerenv")),
        // `Microsoft` or `microsoft`.
        ("WSL", release.contains("icrosoft")),
        // Of the two directories a container has the first only.
        ("OpenVZ", exists("/proc/vz") && !exists("/proc/bc")),
    ];
    marks.iter().find(|(_, here)| *here).map(|(kind, _)| *kind).or(other).map(str::to_owned)
}

/// Whether init sees another root directory: a container that shares the system's processes.
fn has_own_root(root: &Root) -> bool {
    let id = |path: &str| std::fs::metadata(root.at(path)).map(|file| (file.dev(), file.ino())).ok();
    id("/proc/1/root").is_some_and(|of_init| Some(of_init) != id("/"))
}

/// Whether this is a paravirtualised domain of Xen, or Xen's own, dom0.
fn is_xen_pv(root: &Root) -> bool {
    if root.text("/proc/xen/capabilities").is_some_and(|text| text.contains("control_d")) {
        return true;
    }
    match root.text("/sys/hypervisor/guest_type") {
        Some(kind) => kind == "PV",
        // Before Linux 4.13. Such a domain has no firmware, and so no tables of one.
        None => {
            root.text("/sys/hypervisor/type").is_some_and(|kind| kind == "xen")
                && !root.at("/sys/class/dmi/id").exists()
        }
    }
}

/// How the memory of this virtual machine is encrypted against the machine around it, if it is.
pub fn encryption(root: &Root) -> Option<&'static str> {
    encrypts(&root.text("/proc/cpuinfo").unwrap_or_default(), sys::cpu::encrypted_memory())
}

/// The same, from `/proc/cpuinfo` and from what the processor says of encrypted memory. The kernel's flags `sev` and
/// the like stand for a host of such machines; in a machine itself the kernel clears them, since the firmware's switch
/// that they depend on is the host's.
pub fn encrypts(cpuinfo: &str, by_cpuid: u32) -> Option<&'static str> {
    /// What is enabled, in EAX of CPUID 8000_001F (AMD's Programmer's Manual, volume 3, appendix E).
    const AMD: [(u32, &str); 3] = [(1 << 4, "SEV-SNP"), (1 << 3, "SEV-ES"), (1 << 1, "SEV")];
    let flags =
        cpuinfo.lines().find_map(|line| line.strip_prefix("flags")?.split_once(':')).map_or("", |(_, flags)| flags);
    let has = |wanted: &str| flags.split_whitespace().any(|flag| flag == wanted);
    if !has("hypervisor") {
        return None;
    }
    if has("tdx_guest") {
        return Some("TDX");
    }
    // The other two come on top of SEV.
    AMD.iter().find(|(bit, _)| by_cpuid & 2 != 0 && by_cpuid & bit != 0).map(|(_, kind)| *kind)
}

#[cfg(test)]
#[path = "inside_tests.rs"]
mod tests;
