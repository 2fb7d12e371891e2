//! Containers and virtual machines, as their files tell of them.

use std::os::unix::fs::symlink;

use super::*;

/// Makes a tree of the given files. What begins with `->` is the target of a link, what is `/` a directory.
fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    for (path, content) in files {
        let path = root.at(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        match content.strip_prefix("->") {
            Some(target) => symlink(target, path).unwrap(),
            None if *content == "/" => std::fs::create_dir_all(path).unwrap(),
            None => std::fs::write(path, content).unwrap(),
        }
    }
    (dir, root)
}

const PID: (&str, &str) = ("/proc/self/ns/pid", "->pid:[4026531836]");
const USER: (&str, &str) = ("/proc/self/ns/user", "->user:[4026531837]");
const OTHER_PID: (&str, &str) = ("/proc/self/ns/pid", "->pid:[4026532201]");
const OTHER_USER: (&str, &str) = ("/proc/self/ns/user", "->user:[4026532198]");
const OWN_ROOT: (&str, &str) = ("/proc/1/root", "/");
const SAME_ROOT: (&str, &str) = ("/proc/1/root", "->../..");

#[test]
fn containers() {
    let docker = ("/.dockerenv", "");
    for (what, files, expected) in [
        ("a machine", &[PID, USER, SAME_ROOT][..], None),
        ("a machine without namespaces", &[SAME_ROOT, ("/proc/1/environ", "HOME=/\0TERM=linux\0")], None),
        ("docker", &[OTHER_PID, USER, docker, SAME_ROOT], Some("docker")),
        ("docker with the system's processes", &[PID, USER, docker, OWN_ROOT], Some("docker")),
        ("a machine whose image was made for docker", &[PID, USER, docker, SAME_ROOT], None),
        ("the same, where init can't be looked at", &[PID, USER, docker], None),
        ("podman", &[OTHER_PID, OTHER_USER, ("/run/.containerenv", ""), SAME_ROOT], Some("podman")),
        ("LXC", &[OTHER_PID, OTHER_USER, ("/proc/1/environ", "TERM=linux\0container=lxc\0"), SAME_ROOT], Some("lxc")),
        ("LXC before Linux 3.8", &[("/proc/1/environ", "container=lxc\0")], Some("lxc")),
        ("systemd-nspawn", &[OTHER_PID, USER, ("/run/systemd/container", "systemd-nspawn\n")], Some("systemd-nspawn")),
        ("OpenVZ", &[("/proc/vz", "/")], Some("OpenVZ")),
        ("a machine with OpenVZ's containers", &[("/proc/vz", "/"), ("/proc/bc", "/")], None),
        (
            "WSL 2",
            &[OTHER_PID, USER, ("/proc/sys/kernel/osrelease", "5.15.167.4-microsoft-standard-WSL2\n")],
            Some("WSL"),
        ),
        ("WSL 1", &[("/proc/sys/kernel/osrelease", "4.4.0-19041-Microsoft\n")], Some("WSL")),
        ("a machine of that vendor's cloud", &[PID, USER, ("/proc/sys/kernel/osrelease", "6.8.0-1015-azure\n")], None),
        ("unshare --pid", &[OTHER_PID, USER], Some("a PID namespace")),
        ("unshare --user", &[PID, OTHER_USER], Some("a user namespace")),
    ] {
        let (_dir, root) = tree(files);
        assert_eq!(container(&root).as_deref(), expected, "{what}");
        assert_eq!(not_in_container(&root).is_err(), expected.is_some(), "{what}");
    }
}

#[test]
fn xen() {
    let type_of = |kind| ("/sys/hypervisor/guest_type", kind);
    let xen = ("/sys/hypervisor/type", "xen\n");
    let dmi = ("/sys/class/dmi/id/sys_vendor", "Xen\n");
    for (what, files, expected) in [
        ("PV", &[PID, xen, type_of("PV\n")][..], true),
        ("HVM", &[xen, type_of("HVM\n"), dmi], false),
        ("PVH", &[xen, type_of("PVH\n")], false),
        ("PV before Linux 4.13", &[xen], true),
        ("HVM before Linux 4.13", &[xen, dmi, ("/proc/xen/capabilities", "")], false),
        ("dom0", &[xen, dmi, ("/proc/xen/capabilities", "control_d\n")], true),
        ("KVM", &[dmi], false),
    ] {
        let (_dir, root) = tree(files);
        assert_eq!(inside(&root) == Inside::XenPv, expected, "{what}");
    }
}

#[test]
fn encrypted_machines() {
    // The last is a processor with SME, SEV and SEV-ES, as the host of such machines has it.
    for (flags, by_cpuid, expected) in [
        ("fpu hypervisor sse2", 0, None),
        ("fpu hypervisor sse2", 0b10, Some("SEV")),
        ("fpu hypervisor sse2", 0b1010, Some("SEV-ES")),
        ("fpu hypervisor sse2", 0b1_1010, Some("SEV-SNP")),
        ("fpu hypervisor sse2", 0b1_1000, None),
        ("fpu hypervisor sse2", 0b1, None),
        ("fpu hypervisor tdx_guest", 0, Some("TDX")),
        ("fpu sme sev sev_es", 0b1_1011, None),
    ] {
        let cpuinfo = format!("processor\t: 0\nflags\t\t: {flags}\n");
        assert_eq!(encrypts(&cpuinfo, by_cpuid), expected, "{flags} {by_cpuid:b}");
    }
}
