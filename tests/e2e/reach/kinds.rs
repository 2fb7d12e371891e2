//! Kinds of hosts. The lab has Debian 12; what other systems do otherwise is done to it before it is deployed.

use lab::Spec;
use lab::machine::{Boot, Firmware};

use crate::faults::End;

/// A kind of host.
pub struct Kind {
    /// Its name in commands and files.
    pub name: &'static str,
    /// What it is, for the document.
    pub what: &'static str,
    /// What is known of it.
    pub known: Known,
}

/// Whether a kind is tried.
#[derive(Clone, Copy)]
pub enum Known {
    /// It is tried on a machine.
    Tried {
        /// The machine.
        spec: fn(Spec) -> Spec,
        /// What is done to it before, as root.
        prepare: &'static str,
        /// How it ends.
        end: End,
    },
    /// The scenario of that name shows it.
    Shown(&'static str),
    /// It is not tried: why.
    Open(&'static str),
}

/// Made into such a host by a script on the lab's machine.
const fn made(name: &'static str, what: &'static str, prepare: &'static str, end: End) -> Kind {
    Kind { name, what, known: Known::Tried { spec: |spec| spec, prepare, end } }
}

/// Another machine.
const fn machine(name: &'static str, what: &'static str, spec: fn(Spec) -> Spec, end: End) -> Kind {
    Kind { name, what, known: Known::Tried { spec, prepare: ":", end } }
}

const fn open(what: &'static str, why: &'static str) -> Kind {
    Kind { name: "", what, known: Known::Open(why) }
}

const NO_SYSTEM: &str = "the lab has no such system yet";
const NO_MACHINE: &str = "the lab has no such machine yet";

/// All kinds, in the order of the document.
pub const KINDS: &[Kind] = &[
    made("debian", "Debian 12, BIOS, virtio, an address by DHCP", ":", End::DEPLOYED),
    machine("uefi", "the same by UEFI", |spec| Spec { firmware: Firmware::Uefi, ..spec }, End::DEPLOYED),
    machine("two-processors", "the same with two processors", |spec| Spec { cpus: 2, ..spec }, End::DEPLOYED),
    made(
        "kernel-in-modules",
        "its kernel lies beside its modules (Fedora, openSUSE)",
        "r=$(uname -r); mv /boot/vmlinuz-$r /usr/lib/modules/$r/vmlinuz",
        End::DEPLOYED,
    ),
    made(
        "kernel-renamed",
        "its kernel has a name without a version (Arch, Alpine)",
        "mv /boot/vmlinuz-$(uname -r) /boot/vmlinuz-linux",
        End::DEPLOYED,
    ),
    made(
        "kernel-on-esp",
        "its kernel lies where kernel-install puts it (systemd-boot)",
        "r=$(uname -r); mkdir -p /boot/0123456789abcdef0123456789abcdef/$r
         mv /boot/vmlinuz-$r /boot/0123456789abcdef0123456789abcdef/$r/linux",
        End::DEPLOYED,
    ),
    made(
        "modules-packed",
        "its modules are packed with gzip",
        "set -e
         for name in $(cut -d ' ' -f 1 /proc/modules); do gzip $(modinfo -n $name); done
         depmod",
        End::DEPLOYED,
    ),
    made("read-only", "its file systems are read-only", "echo u >/proc/sysrq-trigger; sleep 1", End::DEPLOYED),
    made(
        "noexec",
        "/var/lib, /tmp and /root may hold no programs",
        "set -e
         mount --bind /root/.ssh /mnt
         mount -t tmpfs -o noexec,nosuid none /var/lib
         mount -t tmpfs -o noexec,nosuid none /tmp
         mount -t tmpfs -o noexec,nosuid,mode=0700 none /root
         mkdir /root/.ssh
         mount --move /mnt /root/.ssh",
        End::DEPLOYED,
    ),
    Kind {
        name: "",
        what: "its address is a bridge's, on a bond",
        known: Known::Shown("ways::through_a_bridge_on_a_bond"),
    },
    made(
        "container",
        "a container: its processes are in a namespace",
        "systemctl stop ssh.socket ssh.service 2>&1
         mkdir -p /run/sshd
         systemd-run --quiet --unit box unshare --pid --fork --mount-proc /usr/sbin/sshd -D",
        End::refused("container"),
    ),
    made(
        "kexec-off",
        "kexec is switched off",
        "sysctl -q -w kernel.kexec_load_disabled=1",
        End::refused("kexec is switched off"),
    ),
    made(
        "lockdown",
        "its kernel is locked down, as under Secure Boot, and signed",
        "echo integrity >/sys/kernel/security/lockdown",
        End::DEPLOYED,
    ),
    machine(
        "small",
        "it has 384 MiB of memory",
        |spec| Spec { memory_mib: 384, boot: Boot::Image, ..spec },
        End::refused("memory"),
    ),
    open("its kernel is in a unified kernel image", "only unit tests read one"),
    open("kernel 3.10 or 4.14 (RHEL 7, Oracle Linux 7, Amazon Linux 2)", NO_SYSTEM),
    open("root on LVM on LUKS on RAID, or on btrfs with /boot in it", NO_SYSTEM),
    open("OpenRC; sysvinit; busybox and dropbear as only userland", NO_SYSTEM),
    open("SELinux, enforcing", NO_SYSTEM),
    open("Secure Boot, by the firmware", NO_MACHINE),
    open("its disk is NVMe, AHCI or SCSI, or has sectors of 4 KiB", NO_MACHINE),
];
