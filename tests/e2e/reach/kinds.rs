//! Kinds of hosts. The lab has Debian 12; what other systems do otherwise is done to it before it is deployed.

use std::fs;
use std::process::Command;

use lab::command::{run, run_with_input};
use lab::machine::{Boot, Bus, Firmware};
use lab::{Context, Lab, Machine, Result, Spec, archive};

use crate::deployment::LONG;
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
        /// What is done to it before.
        prepare: Prepare,
        /// How it ends.
        end: End,
    },
    /// The scenario of that name shows it.
    Shown(&'static str),
    /// It is not tried: why.
    Open(&'static str),
}

/// How a machine becomes a host of a kind.
#[derive(Clone, Copy)]
pub enum Prepare {
    /// By a script that root runs there.
    Script(&'static str),
    /// By what is done to it from here.
    Here(fn(&Lab, &Machine) -> Result<()>),
}

impl Prepare {
    /// Makes it one.
    pub fn run(self, lab: &Lab, machine: &Machine) -> Result<()> {
        match self {
            Self::Script(script) => machine.ssh_within(script, LONG).map(drop),
            Self::Here(prepare) => prepare(lab, machine),
        }
    }
}

/// Made into such a host by a script on the lab's machine.
const fn made(name: &'static str, what: &'static str, script: &'static str, end: End) -> Kind {
    Kind { name, what, known: Known::Tried { spec: |spec| spec, prepare: Prepare::Script(script), end } }
}

/// Another machine.
const fn machine(name: &'static str, what: &'static str, spec: fn(Spec) -> Spec, end: End) -> Kind {
    Kind { name, what, known: Known::Tried { spec, prepare: Prepare::Script(":"), end } }
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
    Kind {
        name: "kernel-in-uki",
        what: "its kernel is in a unified kernel image only (systemd-boot)",
        known: Known::Tried {
            spec: |spec| Spec { firmware: Firmware::Uefi, ..spec },
            prepare: Prepare::Here(unified),
            end: End::DEPLOYED,
        },
    },
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
        "disk-nvme",
        "its disk is an NVMe one, and it boots by UEFI",
        |spec| Spec { bus: Bus::Nvme, firmware: Firmware::Uefi, boot: Boot::Image, ..spec },
        End::DEPLOYED,
    ),
    machine(
        "disk-scsi",
        "its disk is a SCSI one",
        |spec| Spec { bus: Bus::Scsi, boot: Boot::Image, ..spec },
        End::DEPLOYED,
    ),
    machine(
        "small",
        "it has 384 MiB of memory",
        |spec| Spec { memory_mib: 384, boot: Boot::Image, ..spec },
        End::refused("memory"),
    ),
    open("kernel 3.10 or 4.14 (RHEL 7, Oracle Linux 7, Amazon Linux 2)", NO_SYSTEM),
    open("root on LVM on LUKS on RAID, or on btrfs with /boot in it", NO_SYSTEM),
    open("OpenRC; sysvinit; busybox and dropbear as only userland", NO_SYSTEM),
    open("SELinux, enforcing", NO_SYSTEM),
    open("Secure Boot, by the firmware", NO_MACHINE),
    open("its disk is a SATA one (AHCI)", "the lab's system has a kernel for clouds, which has no driver for it"),
    open("its disk has sectors of 4 KiB", NO_MACHINE),
];

/// Makes one image of systemd's stub, the machine's kernel and what that boots with, as its owner would by ukify. The
/// machine's own files of these go.
fn unified(lab: &Lab, machine: &Machine) -> Result<()> {
    let dir = machine.dir().join("uki");
    fs::create_dir_all(&dir).context("the image's directory")?;
    archive::unpack(lab, "bookworm", &["systemd-boot-efi"], &dir)?;
    let mut objcopy = Command::new("objcopy");
    // Where they lie in memory: behind the stub, with room for each.
    for (section, address, what) in [
        (".osrel", 0x2_0000, "cat /etc/os-release"),
        (".cmdline", 0x3_0000, "tr -d '\\n' </proc/cmdline"),
        (".uname", 0x4_0000, "uname -r | tr -d '\\n'"),
        (".linux", 0x200_0000, "cat /boot/vmlinuz-$(uname -r)"),
        (".initrd", 0x400_0000, "cat /boot/initrd.img-$(uname -r)"),
    ] {
        let file = dir.join(section);
        fs::write(&file, run(machine.ssh_command().arg(what))?).context("a section")?;
        objcopy.arg(format!("--add-section={section}={}", file.display()));
        objcopy.arg(format!("--change-section-vma={section}={address:#x}"));
    }
    let image = dir.join("linux.efi");
    run(objcopy.arg(dir.join("usr/lib/systemd/boot/efi/linuxx64.efi.stub")).arg(&image))?;
    let place = "set -e; mkdir -p /boot/EFI/Linux; cat >/boot/EFI/Linux/debian-$(uname -r).efi; \
                 rm /boot/vmlinuz-* /boot/initrd.img-* /boot/config-* /boot/System.map-*; sync";
    run_with_input(machine.ssh_command().arg(place), &fs::read(&image).context("the image")?)?;
    Ok(())
}
