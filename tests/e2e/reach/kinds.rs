//! Kinds of hosts: systems that the lab has, and Debian 12 to which is done what other systems do otherwise.

use std::fs;
use std::process::Command;

use lab::command::{run, run_with_input};
use lab::machine::{Boot, Bus, DataDisk, Firmware};
use lab::{Context, Lab, Result, Spec, System, archive};

use crate::deployment::{Deployment, LONG, expect};
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
    Here(fn(&Lab, &Deployment) -> Result<()>),
}

impl Prepare {
    /// Makes it one.
    pub fn run(self, lab: &Lab, web: &Deployment) -> Result<()> {
        match self {
            Self::Script(script) => web.machine.ssh_within(script, LONG).map(drop),
            Self::Here(prepare) => prepare(lab, web),
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
    Kind {
        name: "modules-packed",
        what: "its modules are packed with xz",
        known: Known::Tried { spec: |spec| spec, prepare: Prepare::Here(packed), end: End::DEPLOYED },
    },
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
         mount --bind /mnt /root/.ssh
         umount /mnt",
        End::DEPLOYED,
    ),
    Kind {
        name: "",
        what: "its address is a bridge's, on a bond",
        known: Known::Shown("ways::through_a_bridge_on_a_bond"),
    },
    Kind {
        name: "",
        what: "its address is leased in a VLAN, on a bond that does LACP with a switch",
        known: Known::Shown("ways::through_a_vlan_on_a_trunk"),
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
        "its kernel is locked down, but no firmware gave it the keys for its signature",
        "echo integrity >/sys/kernel/security/lockdown",
        End::refused("does not load the image that it was started from"),
    ),
    made(
        "modules-gone",
        "the modules that drive its network and disks are gone, as after an update: the locked kernel boots",
        "rm -r /usr/lib/modules/$(uname -r)/kernel/drivers/net /usr/lib/modules/$(uname -r)/kernel/drivers/block",
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
    machine(
        "disk-sata",
        "its disk is a SATA one (AHCI), and it has Debian 13",
        |spec| Spec { bus: Bus::Sata, system: System::Trixie, ..spec },
        End::DEPLOYED,
    ),
    machine(
        "debian-13",
        "Debian 13, whose addresses dhcpcd gets",
        |spec| Spec { system: System::Trixie, ..spec },
        End::DEPLOYED,
    ),
    machine(
        "debian-11",
        "Debian 11 (Linux 5.10, OpenSSH 8.4), with /bin and /lib apart from /usr",
        |spec| Spec { system: System::Bullseye, ..spec },
        End::DEPLOYED,
    ),
    machine("debian-sid", "Debian's unstable branch", |spec| Spec { system: System::Sid, ..spec }, End::DEPLOYED),
    machine(
        "sysvinit",
        "sysvinit, dropbear, and root on btrfs with /boot in it",
        |spec| Spec { system: System::Sysvinit, ..spec },
        End::DEPLOYED,
    ),
    machine("openrc", "OpenRC", |spec| Spec { system: System::OpenRc, ..spec }, End::DEPLOYED),
    machine(
        "busybox",
        "busybox and dropbear as only userland",
        |spec| Spec { system: System::Busybox, ..spec },
        End::DEPLOYED,
    ),
    Kind {
        name: "stacked",
        what: "root on LVM on LUKS on RAID 1, of which a half is missing",
        known: Known::Tried {
            spec: |spec| Spec { system: System::Stacked, ..spec },
            prepare: Prepare::Here(stack),
            end: End::DEPLOYED,
        },
    },
    Kind {
        name: "disk-4k",
        what: "the declared disk has sectors of 4 KiB, and boots by UEFI",
        known: Known::Tried {
            spec: |spec| {
                let data_disk = Some(DataDisk::Sectors4k { mib: 3072 });
                Spec { firmware: Firmware::Uefi, data_disk, ..spec }
            },
            prepare: Prepare::Here(declare_the_other_disk),
            end: End::DEPLOYED,
        },
    },
    machine("selinux", "SELinux, enforcing", |spec| Spec { system: System::Selinux, ..spec }, End::DEPLOYED),
    Kind {
        name: "secure-boot",
        what: "Secure Boot, by the firmware, with Debian's signed loaders",
        known: Known::Tried {
            spec: |spec| Spec { firmware: Firmware::SecureBoot, system: System::Signed, ..spec },
            prepare: Prepare::Here(keep_loaders),
            end: End::DEPLOYED,
        },
    },
    open("kernel 3.10 or 4.14 (RHEL 7, Oracle Linux 7, Amazon Linux 2)", "no archive that the lab can reach has one"),
];

fn declare_the_other_disk(_: &Lab, web: &Deployment) -> Result<()> {
    let table = fs::read_to_string(web.anemos.dir().join("hosts.toml")).context("hosts.toml")?;
    web.anemos.write("hosts.toml", &table.replace("anemos-root", "anemos-data")).map(drop)
}

/// Moves the machine's root onto a logical volume, which is encrypted, on half a mirror, and starts it there. GRUB, the
/// kernel and its initramfs stay where they are.
fn stack(_: &Lab, web: &Deployment) -> Result<()> {
    let machine = &web.machine;
    let before = machine.boot_id()?;
    machine.ssh_within(STACK, 2 * LONG)?;
    // The connection may end before the answer comes.
    let _ = machine.ssh("systemctl reboot");
    machine.wait_boot(&before, LONG)?;
    let root = machine.ask("findmnt -no SOURCE /; lsblk -nso TYPE $(findmnt -no SOURCE /) | tr -d ' '")?;
    let mut kinds = ["/dev/mapper/vg-root", "lvm", "crypt", "raid1"].into_iter();
    expect(kinds.all(|kind| root.lines().any(|line| line == kind)), format!("it runs from {root}"))
}

const STACK: &str = r#"set -e
part=/dev/vda4
wipefs -qa $part
mdadm --create /dev/md0 --run --level 1 --raid-devices 2 --metadata 1.2 $part missing
mkdir -m 700 /etc/keys
head -c 64 /dev/urandom >/etc/keys/root.key
chmod 400 /etc/keys/root.key
cryptsetup luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file /etc/keys/root.key /dev/md0
cryptsetup open --key-file /etc/keys/root.key /dev/md0 cr
pvcreate -q /dev/mapper/cr
vgcreate -q vg /dev/mapper/cr
lvcreate -q -y -n root -l 100%FREE vg
mkfs.ext4 -q /dev/vg/root
mount /dev/vg/root /mnt
echo "cr UUID=$(cryptsetup luksUUID /dev/md0) /etc/keys/root.key luks" >/etc/crypttab
echo 'KEYFILE_PATTERN=/etc/keys/*.key' >>/etc/cryptsetup-initramfs/conf-hook
echo UMASK=0077 >>/etc/initramfs-tools/initramfs.conf
mdadm --detail --scan >>/etc/mdadm/mdadm.conf
printf 'raid1
dm_mod
dm_crypt
' >>/etc/initramfs-tools/modules
cp -ax /. /mnt/
sed -i 's,^UUID=[^ ]* / .*,/dev/mapper/vg-root / ext4 defaults 0 1,' /mnt/etc/fstab
for dir in dev proc sys run; do mount --rbind /$dir /mnt/$dir; done
chroot /mnt update-initramfs -u
cp /mnt/boot/initrd.img-* /boot/
sed -i 's,root=UUID=[^ ]*,root=/dev/mapper/vg-root,' /boot/grub/grub.cfg
sync"#;

/// Has the payload keep the signed boot loaders that the disk has, as grub-install(8) has no signed one in RAM. An
/// IMGBUILD brings its own.
fn keep_loaders(_: &Lab, web: &Deployment) -> Result<()> {
    let path = web.anemos.dir().join("payload/IMGBUILD");
    if let Ok(imgbuild) = fs::read_to_string(&path) {
        return fs::write(path, format!("{imgbuild}\npackages=\"$packages shim-signed\"\n")).context("the IMGBUILD");
    }
    web.with_hello("payload", KEEP_LOADERS).map(drop)
}

const KEEP_LOADERS: &str = r#"#!/bin/bash
set -e
mkdir -p /tmp/esp /tmp/own
mount -o ro "${ANEMOS_DISK}2" /tmp/esp
cp -r /tmp/esp/EFI /tmp/own/
umount /tmp/esp
cat >/tmp/own/grub-install <<'END'
#!/bin/bash
set -e
cp -r /tmp/own/EFI "$ANEMOS_TARGET/boot/efi/"
root=$(findmnt -no UUID "$ANEMOS_TARGET")
cat >"$ANEMOS_TARGET/boot/efi/EFI/debian/grub.cfg" <<GRUB
search --no-floppy --fs-uuid --set=root $root
set prefix=(\$root)/boot/grub
configfile \$prefix/grub.cfg
GRUB
END
chmod +x /tmp/own/grub-install
# The loaders are signed, so Secure Boot need not stop it.
sed 's/SecureBoot-\*)" -eq 1 /SecureBoot-*)" -eq 2 /' hello >signed
PATH=/tmp/own:$PATH exec bash ./signed
"#;

/// Makes one image of systemd's stub, the machine's kernel and what that boots with, as its owner would by ukify. The
/// machine's own files of these go.
fn unified(lab: &Lab, web: &Deployment) -> Result<()> {
    let machine = &web.machine;
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

/// Packs the modules that the machine has loaded as its kmod can read them, and its kernel could not. It has no xz.
fn packed(_: &Lab, web: &Deployment) -> Result<()> {
    let machine = &web.machine;
    let files = machine.ask("for name in $(cut -d ' ' -f 1 /proc/modules); do modinfo -n $name; done")?;
    let files = files.split_whitespace().collect::<Vec<_>>().join(" ");
    let dir = machine.dir().join("modules");
    fs::create_dir_all(&dir).context("the modules' directory")?;
    let plain = run(machine.ssh_command().arg(format!("tar -cf - {files}")))?;
    run_with_input(Command::new("tar").arg("-xf-").arg("-C").arg(&dir), &plain)?;
    run(Command::new("find").arg(&dir).args(["-name", "*.ko", "-exec", "xz", "--check=crc32", "{}", "+"]))?;
    let packed = run(Command::new("tar").arg("-cf-").arg("-C").arg(&dir).arg("."))?;
    // /lib is a link there.
    let place = format!("set -e; rm {files}; tar -xf - -C / --no-overwrite-dir --keep-directory-symlink; depmod");
    run_with_input(machine.ssh_command().arg(place), &packed).map(drop)
}
