//! Raw disk images: partitions, file systems, and GRUB for BIOS and UEFI.
//!
//! The root is partition 1 and the last on the disk, so that it can grow. Before it come, where GRUB starts the system, an EFI
//! system partition (2), and with a GPT room for GRUB itself (3, a BIOS boot partition).

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, unmount};

use crate::chroot::{Chroot, environment};
use crate::command::{self, Context, Tool};
use crate::inside::Inside;
use crate::problem::{Doing, Problem};
use crate::settings::{Filesystem, Table};

const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;
/// Where partitions begin.
const FIRST: u64 = MIB;
/// Room for GRUB's image on a GPT, in bytes.
const BIOS_BOOT: u64 = MIB;
/// The EFI system partition's size in bytes. FAT32 takes 33 MiB at least.
const ESP: u64 = 64 * MIB;
/// Left free at the end, for the second copy of a GPT.
const END: u64 = MIB;

/// A raw image, and what is wanted of it.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Bytes.
    pub size: u64,
    /// Its partition table.
    pub table: Table,
    /// Of the root.
    pub filesystem: Filesystem,
    /// Whether GRUB will start it.
    pub grub: bool,
}

/// Where partitions are: first byte and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    bios_boot: Option<(u64, u64)>,
    esp: Option<(u64, u64)>,
    root: (u64, u64),
}

impl Wanted {
    fn layout(&self) -> Layout {
        let mut at = FIRST;
        let mut take = |size: u64| {
            at += size;
            Some((at - size, size))
        };
        let bios_boot = if self.grub && self.table == Table::Gpt { take(BIOS_BOOT) } else { None };
        let esp = if self.grub { take(ESP) } else { None };
        let size = (self.size / MIB * MIB).saturating_sub(at + END);
        Layout { bios_boot, esp, root: (at, size) }
    }

    /// Programs that are needed.
    pub fn tools(&self) -> Vec<&'static str> {
        let mkfs = match self.filesystem {
            Filesystem::Ext4 => "mkfs.ext4",
            Filesystem::Xfs => "mkfs.xfs",
            Filesystem::Btrfs => "mkfs.btrfs",
        };
        let mut tools = vec!["sfdisk", "losetup", "mount", "blkid", mkfs];
        if self.grub {
            tools.push("mkfs.vfat");
        }
        tools
    }

    /// What sfdisk(8) reads.
    fn script(&self) -> String {
        let layout = self.layout();
        let gpt = self.table == Table::Gpt;
        let kinds = if gpt {
            [
                "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",
                "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
                "21686148-6449-6E6F-744E-656564454649",
            ]
        } else {
            ["83, bootable", "ef", ""]
        };
        let mut script = format!("label: {}\n", if gpt { "gpt" } else { "dos" });
        let parts = [Some(layout.root), layout.esp, layout.bios_boot];
        for (number, (part, kind)) in parts.into_iter().zip(kinds).enumerate() {
            if let Some((start, size)) = part {
                let _ =
                    writeln!(script, "{} : start={}, size={}, type={kind}", number + 1, start / SECTOR, size / SECTOR);
            }
        }
        script
    }
}

/// A disk being made, its root mounted.
#[derive(Debug)]
pub struct Disk {
    wanted: Wanted,
    /// The raw image, or a disk's device.
    image: PathBuf,
    /// For mount points and the like.
    work: PathBuf,
    is_device: bool,
    root: PathBuf,
    loops: Vec<String>,
    uuid: String,
    esp_uuid: Option<String>,
}

impl Disk {
    /// Makes a raw image's file, its partitions and file systems, and mounts its root on a directory.
    ///
    /// # Errors
    /// It is too small, or a tool failed.
    pub fn image(context: &Context, wanted: Wanted, work: &Path, root: &Path) -> Result<Self, Problem> {
        let image = work.join("image");
        let file = File::create_new(&image).doing(|| format!("making {}", image.display()))?;
        file.set_len(wanted.size).doing(|| format!("making {}", image.display()))?;
        let mut disk = Self::new(wanted, image, false, work, root)?;
        disk.table(context)?;
        disk.make(context)?;
        Ok(disk)
    }

    /// The same on a disk. What was there is lost at once; the new partition table is written by [`Disk::finish`], so that
    /// nothing starts a system that is half built.
    ///
    /// # Errors
    /// It is too small, or a tool failed.
    pub fn device(context: &Context, wanted: Wanted, device: &Path, work: &Path, root: &Path) -> Result<Self, Problem> {
        let doing = || format!("wiping the partition table of {}", device.display());
        let mut file = OpenOptions::new().read(true).write(true).open(device).doing(doing)?;
        // A block device has no length in its metadata.
        let size = io::Seek::seek(&mut file, io::SeekFrom::End(0)).doing(doing)?;
        let mut disk = Self::new(Wanted { size, ..wanted }, device.to_owned(), true, work, root)?;
        // The tables at both ends, and whatever signature the space before the first partition has.
        for at in [0, size / SECTOR * SECTOR - END] {
            file.write_all_at(&vec![0; END as usize], at).doing(doing)?;
        }
        file.sync_all().doing(doing)?;
        drop(file);
        disk.make(context)?;
        Ok(disk)
    }

    fn new(wanted: Wanted, image: PathBuf, is_device: bool, work: &Path, root: &Path) -> Result<Self, Problem> {
        if wanted.layout().root.1 < 32 * MIB {
            return Err(Problem::build(format!(
                "a disk of {} MiB has no room for a root file system",
                wanted.size / MIB
            )));
        }
        let (work, root) = (work.to_owned(), root.to_owned());
        Ok(Self { wanted, image, work, is_device, root, loops: Vec::new(), uuid: String::new(), esp_uuid: None })
    }

    fn table(&self, context: &Context) -> Result<(), Problem> {
        let sfdisk = Tool::new("sfdisk").args(["--quiet", "--no-reread", "--no-tell-kernel", "--wipe", "never"]);
        sfdisk.arg(&self.image).input(self.wanted.script()).run(context)
    }

    fn make(&mut self, context: &Context) -> Result<(), Problem> {
        let layout = self.wanted.layout();
        let device = self.attach(context, layout.root)?;
        let mkfs = match self.wanted.filesystem {
            Filesystem::Ext4 => Tool::new("mkfs.ext4").args(["-q", "-F", "-L", "root", "-E", "lazy_itable_init=1"]),
            Filesystem::Xfs => Tool::new("mkfs.xfs").args(["-q", "-f", "-L", "root"]),
            Filesystem::Btrfs => Tool::new("mkfs.btrfs").args(["-q", "-f", "-L", "root"]),
        };
        mkfs.arg(&device).run(context)?;
        self.uuid = self.id(context, &device)?;
        if let Some(esp) = layout.esp {
            let device = self.attach(context, esp)?;
            Tool::new("mkfs.vfat").args(["-F", "32", "-n", "EFI"]).arg(&device).run(context)?;
            self.esp_uuid = Some(self.id(context, &device)?);
        }
        Tool::new("mount").arg("-t").arg(self.wanted.filesystem.word()).arg(&device).arg(&self.root).run(context)
    }

    fn attach(&mut self, context: &Context, (start, size): (u64, u64)) -> Result<String, Problem> {
        let mut losetup = Tool::new("losetup").args(["--find", "--show"]);
        if self.is_device {
            // What is written is on the disk, and not in memory twice.
            losetup = losetup.arg("--direct-io=on");
        }
        let losetup = losetup.args(["--offset", &start.to_string(), "--sizelimit", &size.to_string()]);
        let said = losetup.arg(&self.image).output(context)?;
        let device = String::from_utf8_lossy(&said).trim().to_owned();
        self.loops.push(device.clone());
        Ok(device)
    }

    fn id(&self, context: &Context, device: &str) -> Result<String, Problem> {
        let said = Tool::new("blkid").args(["-p", "-s", "UUID", "-o", "value", device]).output(context)?;
        let uuid = String::from_utf8_lossy(&said).trim().to_owned();
        if uuid.is_empty() {
            return Err(Problem::build(format!("the file system on {device} of {} has no UUID", self.image.display())));
        }
        Ok(uuid)
    }

    /// What fstab(5) says of it.
    pub fn fstab(&self) -> String {
        let filesystem = self.wanted.filesystem;
        let (options, pass) = match filesystem {
            Filesystem::Ext4 => ("errors=remount-ro", 1),
            Filesystem::Xfs | Filesystem::Btrfs => ("defaults", 0),
        };
        let mut text = format!("UUID={} / {} {options} 0 {pass}\n", self.uuid, filesystem.word());
        if let Some(esp) = &self.esp_uuid {
            let _ = writeln!(text, "UUID={esp} /boot/efi vfat umask=0077,nofail 0 1");
        }
        text
    }

    /// Installs GRUB for BIOS and UEFI, and a menu of the kernels in /boot.
    ///
    /// # Errors
    /// There is no kernel, GRUB is not in the image, or a file can't be written.
    pub fn grub(&self, context: &Context, chroot: &Chroot<'_>, cmdline: &str) -> Result<(), Problem> {
        let image = chroot.image();
        let names = image.names(Path::new("boot"));
        let entries = kernels(&names);
        if entries.is_empty() {
            return Err(Problem::build("the image has no kernel in /boot (vmlinuz-…)")
                .hint("add one to packages, such as linux-image-amd64, or say bootloader=none"));
        }
        let menu = menu(&entries, &self.uuid, cmdline);
        let made = image.dir(Path::new("boot/grub")).map(drop);
        let made = made.and_then(|()| image.write(Path::new("boot/grub/grub.cfg"), menu.as_bytes(), 0o644));
        made.doing(|| "writing /boot/grub/grub.cfg in the image".into())?;
        let boot = image.read(Path::new("usr/lib/grub/i386-pc/boot.img"));
        let boot = boot.map_err(|e| grub_missing(&format!("/usr/lib/grub/i386-pc/boot.img: {e}"), "grub-pc-bin"))?;
        let core = self.grub_image(context, chroot, "i386-pc", &["biosdisk"])?;
        let start = self.wanted.layout().bios_boot.map_or(1, |(start, _)| start / SECTOR);
        let room = self.wanted.layout().bios_boot.map_or(FIRST - SECTOR, |(_, size)| size);
        install_bios(&self.image, &boot, core, start, room)?;
        let efi = self.grub_image(context, chroot, "x86_64-efi", &["efi_gop", "all_video"])?;
        self.fill_esp(context, &efi)
    }

    /// Puts GRUB where firmware looks by itself (UEFI specification 2.10, 3.5.1.1).
    fn fill_esp(&self, context: &Context, efi: &[u8]) -> Result<(), Problem> {
        let device = self.loops.get(1).map(String::as_str).unwrap_or_default();
        let file = self.work.join("BOOTX64.EFI");
        fs::write(&file, efi).doing(|| format!("writing {}", file.display()))?;
        // Not every kernel that builds images knows FAT.
        if command::find("mcopy").is_some() {
            Tool::new("mmd").args(["-i", device, "::/EFI", "::/EFI/BOOT"]).run(context)?;
            return Tool::new("mcopy").args(["-i", device]).arg(&file).arg("::/EFI/BOOT/BOOTX64.EFI").run(context);
        }
        let at = self.work.join("esp");
        fs::create_dir(&at).doing(|| format!("making {}", at.display()))?;
        Tool::new("mount").args(["-t", "vfat", device]).arg(&at).run(context).map_err(|problem| {
            problem.hint("if this machine's kernel does not know FAT, install mtools, which does without it")
        })?;
        let put = fs::create_dir_all(at.join("EFI/BOOT"));
        let put = put.and_then(|()| fs::copy(&file, at.join("EFI/BOOT/BOOTX64.EFI")));
        let unmounted = unmount(&at, UnmountFlags::empty());
        put.doing(|| "writing GRUB into the EFI system partition".into())?;
        unmounted.doing(|| format!("unmounting {}", at.display()))
    }

    /// GRUB with what it needs to find the root file system by its UUID.
    fn grub_image(
        &self,
        context: &Context,
        chroot: &Chroot<'_>,
        format: &str,
        modules: &[&str],
    ) -> Result<Vec<u8>, Problem> {
        let image = chroot.image();
        if !image.exists(&format!("usr/lib/grub/{format}/modinfo.sh")) {
            let package = if format == "i386-pc" { "grub-pc-bin" } else { "grub-efi-amd64-bin" };
            return Err(grub_missing(&format!("there is no /usr/lib/grub/{format}"), package));
        }
        let early = format!("search.fs_uuid {} root\nset prefix=($root)/boot/grub\n", self.uuid);
        let (early_at, made_at) = ("run/makeimg/grub.cfg", "run/makeimg/grub.img");
        let written = image.write(Path::new(early_at), early.as_bytes(), 0o644);
        written.doing(|| "writing GRUB's first configuration".into())?;
        let filesystem = match self.wanted.filesystem {
            Filesystem::Ext4 => "ext2",
            Filesystem::Xfs => "xfs",
            Filesystem::Btrfs => "btrfs",
        };
        let tool = chroot.command("grub-mkimage").args(["-O", format, "-p", "/boot/grub"]);
        let tool = tool.args(["-c", &format!("/{early_at}"), "-o", &format!("/{made_at}"), filesystem]);
        environment(tool.args(GRUB_MODULES).args(modules)).run(context)?;
        image.read(Path::new(made_at)).doing(|| "reading GRUB's image".into())
    }

    /// Makes it whole. An image's root is unmounted; a disk's stays mounted, for whoever ordered it.
    ///
    /// # Errors
    /// Something still uses it, or it can't be written.
    pub fn finish(mut self, context: &Context) -> Result<(), Problem> {
        if self.is_device {
            return self.table(context);
        }
        unmount(&self.root, UnmountFlags::empty()).doing(|| format!("unmounting {}", self.root.display()))?;
        self.detach(context)?;
        let file = File::open(&self.image).doing(|| format!("opening {}", self.image.display()))?;
        file.sync_all().doing(|| format!("writing {}", self.image.display()))
    }

    fn detach(&mut self, context: &Context) -> Result<(), Problem> {
        while let Some(device) = self.loops.pop() {
            Tool::new("losetup").args(["--detach", &device]).run(context)?;
        }
        Ok(())
    }
}

const GRUB_MODULES: &[&str] = &[
    "part_gpt",
    "part_msdos",
    "fat",
    "normal",
    "linux",
    "search",
    "search_fs_uuid",
    "configfile",
    "serial",
    "terminal",
    "echo",
    "test",
    "gzio",
    "xzio",
    "zstd",
    "boot",
    "reboot",
    "halt",
    "ls",
    "cat",
];

fn grub_missing(what: &str, package: &str) -> Problem {
    Problem::build(format!("GRUB is not in the image: {what}")).hint(format!("add {package} to packages"))
}

/// Kernels in /boot, the newest first, each with its initramfs if it has one.
fn kernels(names: &[String]) -> Vec<(&str, Option<&str>)> {
    let mut kernels: Vec<&str> = names.iter().filter_map(|name| name.strip_prefix("vmlinuz-")).collect();
    kernels.sort_by_key(|version| std::cmp::Reverse(numbers(version)));
    let initramfs = |version: &str| {
        let known =
            [format!("initrd.img-{version}"), format!("initramfs-{version}"), format!("initramfs-{version}.img")];
        names.iter().map(String::as_str).find(|name| known.iter().any(|known| known == name))
    };
    kernels.into_iter().map(|version| (version, initramfs(version))).collect()
}

/// 6.12 is newer than 6.9.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

fn menu(kernels: &[(&str, Option<&str>)], uuid: &str, cmdline: &str) -> String {
    let mut menu = String::from("set timeout=2\nset default=0\n");
    // `console=ttyS0,115200n8`: the menu is where the kernel's console is.
    let serial = cmdline.split(' ').rev().find_map(|word| word.strip_prefix("console=ttyS"));
    if let Some(serial) = serial {
        let (unit, speed) = serial.split_once(',').unwrap_or((serial, ""));
        let speed: String = speed.chars().take_while(char::is_ascii_digit).collect();
        let speed = if speed.is_empty() { "9600" } else { &speed };
        let _ = write!(
            menu,
            "serial --unit={unit} --speed={speed}\nterminal_input serial console\nterminal_output serial console\n"
        );
    }
    for (version, initramfs) in kernels {
        let _ = write!(menu, "menuentry 'Linux {version}' {{\n    search --no-floppy --fs-uuid --set=root {uuid}\n");
        let _ = writeln!(menu, "    linux /boot/vmlinuz-{version} root=UUID={uuid} ro {cmdline}");
        if let Some(initramfs) = initramfs {
            let _ = writeln!(menu, "    initrd /boot/{initramfs}");
        }
        menu += "}\n";
    }
    menu
}

/// Where boot.img keeps the sector that it loads first (GRUB's grub-core/boot/i386/pc/boot.S).
const KERNEL_SECTOR: usize = 0x5c;
/// Where core.img's first sector keeps the list of the rest: start (8 bytes), length in sectors (2) and segment (2)
/// (grub-core/boot/i386/pc/diskboot.S).
const BLOCKLIST: usize = SECTOR as usize - 12;
/// The boot sector's end of code: after it come the disk's signature and the partitions.
const CODE: usize = 0x1b8;

/// Puts GRUB's boot.img into a disk's boot sector, and its core.img where `start` (a sector) and `room` (bytes) say. What else the
/// boot sector holds stays.
///
/// # Errors
/// They are no such images, don't fit, or can't be written.
pub fn install_bios(disk: &Path, boot: &[u8], mut core: Vec<u8>, start: u64, room: u64) -> Result<(), Problem> {
    let sector = SECTOR as usize;
    core.resize(core.len().next_multiple_of(sector), 0);
    if boot.len() != sector || core.len() <= sector || core.len() as u64 > room {
        let sizes = format!("{} and {} bytes, for {room}", boot.len(), core.len());
        return Err(Problem::build(format!("GRUB's images are not of the expected size: {sizes}")));
    }
    let rest = u16::try_from(core.len() / sector - 1).doing(|| "fitting GRUB's image".into())?;
    core[BLOCKLIST..BLOCKLIST + 8].copy_from_slice(&(start + 1).to_le_bytes());
    core[BLOCKLIST + 8..BLOCKLIST + 10].copy_from_slice(&rest.to_le_bytes());
    let mut first = boot.to_vec();
    first[KERNEL_SECTOR..KERNEL_SECTOR + 8].copy_from_slice(&start.to_le_bytes());
    let file = OpenOptions::new().write(true).open(disk);
    let written = file.and_then(|file| {
        file.write_all_at(&first[..CODE], 0)?;
        file.write_all_at(&core, start * SECTOR)
    });
    written.doing(|| format!("writing GRUB to {}", disk.display()))
}

/// Whether an image has a kernel in /boot.
pub fn has_kernel(image: &Inside) -> bool {
    image.names(Path::new("boot")).iter().any(|name| name.starts_with("vmlinuz-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts() {
        let wanted = |table, grub| Wanted { size: 1 << 30, table, filesystem: Filesystem::Ext4, grub };
        let all = 1 << 30;
        let plain = wanted(Table::Msdos, false).layout();
        assert_eq!(plain, Layout { bios_boot: None, esp: None, root: (MIB, all - 2 * MIB) });
        let gpt = wanted(Table::Gpt, true);
        assert_eq!(gpt.layout().bios_boot, Some((MIB, MIB)));
        assert_eq!(gpt.layout().esp, Some((2 * MIB, 64 * MIB)));
        assert_eq!(gpt.layout().root, (66 * MIB, all - 67 * MIB));
        assert_eq!(
            wanted(Table::Msdos, true).script(),
            "label: dos\n1 : start=133120, size=1961984, type=83, bootable\n2 : start=2048, size=131072, type=ef\n"
        );
    }

    #[test]
    fn menus() {
        let names =
            ["initrd.img-6.9.1-1", "vmlinuz-6.12.3-1", "vmlinuz-6.9.1-1", "grub", "config-6.9.1-1"].map(str::to_owned);
        let kernels = kernels(&names);
        assert_eq!(kernels, [("6.12.3-1", None), ("6.9.1-1", Some("initrd.img-6.9.1-1"))]);
        let menu = menu(&kernels, "ABCD", "console=tty0 console=ttyS1,115200n8 quiet");
        assert!(menu.contains("serial --unit=1 --speed=115200\n"), "{menu}");
        assert!(menu.contains("linux /boot/vmlinuz-6.9.1-1 root=UUID=ABCD ro console=tty0"), "{menu}");
        assert_eq!(menu.matches("initrd").count(), 2, "{menu}");
    }
}
