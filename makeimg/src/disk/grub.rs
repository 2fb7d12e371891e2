//! GRUB for BIOS and UEFI, and a menu of the kernels in /boot.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::mount::{UnmountFlags, unmount};

use super::geometry::{CODE, FIRST, SECTOR};
use super::layout::Role;
use super::making::Disk;
use crate::chroot::{Chroot, environment};
use crate::command::{self, Context, Tool};
use crate::inside::Inside;
use crate::problem::{Doing, Problem};
use crate::settings::{SHIM, SIGNED_GRUB, Target};
use crate::words::Filesystem;

impl Disk {
    /// What the distribution's initramfs must be told to find the root, unless it is told already.
    pub fn kernel_words(&self, target: &Target, cmdline: &str) -> String {
        match target {
            // It loads no driver that is not named (mkinitfs-bootparam(7)).
            Target::Alpine if !cmdline.contains("modules=") => {
                let filesystem = self.filesystem(0).word();
                // grub-mkconfig(8) adds that by itself.
                let subvolume = self.wanted.volumes[0].subvolume_option();
                let flags = subvolume.map(|option| format!(" rootflags={option}")).unwrap_or_default();
                format!("modules=sd-mod,usb-storage,{filesystem} rootfstype={filesystem}{flags}")
            }
            _ => String::new(),
        }
    }

    /// Installs GRUB for BIOS and UEFI, and a menu of the kernels in /boot. The image gets all that grub-mkconfig(8)
    /// needs to make the menu anew for another kernel: the words for the kernel, the terminal, and modules for the
    /// commands that it writes.
    ///
    /// # Errors
    /// There is no kernel, GRUB is not in the image, or a file can't be written.
    pub fn grub(&self, context: &Context, chroot: &Chroot<'_>, target: &Target, cmdline: &str) -> Result<(), Problem> {
        let image = chroot.image();
        let names = image.names(Path::new("boot"));
        let entries = kernels(&names);
        let Some((newest, _)) = entries.first() else {
            return Err(Problem::build("the image has no kernel in /boot (vmlinuz-…)")
                .hint("add one to packages, such as linux-image-amd64, or say bootloader=none"));
        };
        let boot = image.read(Path::new("usr/lib/grub/i386-pc/boot.img"));
        let boot = boot.map_err(|e| grub_missing(&format!("/usr/lib/grub/i386-pc/boot.img: {e}"), "grub-pc-bin"))?;
        let core = self.grub_image(context, chroot, "i386-pc", &["biosdisk"])?;
        let efi = match self.signed(image)? {
            Some(loaders) => loaders,
            None => vec![(FALLBACK, self.grub_image(context, chroot, "x86_64-efi", EFI_MODULES)?)],
        };
        for platform in ["i386-pc", "x86_64-efi"] {
            copy_modules(image, platform).doing(|| format!("copying GRUB's modules for {platform} in the image"))?;
        }
        let is_debian = matches!(target, Target::Debian { .. });
        write_defaults(image, is_debian, cmdline).doing(|| "writing GRUB's settings in the image".into())?;
        if cfg!(feature = "all-targets") && *target == Target::Alpine {
            let menu = menu(&entries, &self.boot_place(), self.root_uuid(), cmdline);
            let made = image.write(Path::new(MENU), menu.as_bytes(), 0o644);
            made.doing(|| format!("writing /{MENU} in the image"))?;
        } else {
            let script: &[&str] =
                if is_debian { &["update-grub"] } else { &["grub-mkconfig", "-o", "/boot/grub/grub.cfg"] };
            self.update_grub(context, chroot, script, newest, cmdline)?;
        }
        let bios_boot = self.parts.iter().find(|part| part.role == Role::BiosBoot);
        let (start, room) = bios_boot.map_or((SECTOR, FIRST - SECTOR), |part| (part.start, part.size));
        install_bios(&self.image, &boot, core, start / SECTOR, room)?;
        self.fill_esp(context, &efi)?;
        let tells = if is_debian { "usr/bin/dpkg-query" } else { "usr/bin/pacman" };
        if *target != Target::Alpine && image.exists(tells) {
            self.keep_up_to_date(image, is_debian)
                .doing(|| "writing what installs GRUB's updates in the image".into())?;
            environment(chroot.command(INSTALLER).arg("--note")).run(context)?;
        }
        Ok(())
    }

    /// Has the image's dpkg(1) or pacman(8) put updates of GRUB where this has put GRUB. No package of Debian's does
    /// that for both kinds of firmware: grub-pc and grub-efi-amd64 exclude each other, and the first names a disk. None
    /// of Arch's does it, or makes a menu of the kernels.
    fn keep_up_to_date(&self, image: &Inside, is_debian: bool) -> io::Result<()> {
        let BootPlace { volume, dir, .. } = self.boot_place();
        let modules = [&[self.grub_filesystem(volume)][..], GRUB_MODULES, EFI_MODULES].concat().join(" ");
        let installer = include_str!("install-grub.sh");
        let text = format!("#!/bin/sh\nprefix={dir}/grub\nmodules='{modules}'\n{installer}");
        image.write(Path::new(INSTALLER), text.as_bytes(), 0o755)?;
        image.write(Path::new("boot/grub/makeimg-early.cfg"), self.early().as_bytes(), 0o644)?;
        if !is_debian {
            // After those that make an initramfs: they go by their names (alpm-hooks(5)).
            let menu = hook(KERNELS, "Making GRUB's menu...", "/usr/bin/grub-mkconfig -o /boot/grub/grub.cfg");
            let grub = hook("", "Putting GRUB where this machine starts from...", INSTALLER);
            return [("grub", grub), ("menu", menu)].iter().try_for_each(|(name, text)| {
                image.write(&Path::new(HOOKS).join(format!("zz-makeimg-{name}.hook")), text.as_bytes(), 0o644)
            });
        }
        // A failure is told, and stops no other update.
        let hook = format!("post-invoke=if [ -x {INSTALLER} ]; then {INSTALLER} || :; fi\n");
        image.write(Path::new("etc/dpkg/dpkg.cfg.d/makeimg-grub"), hook.as_bytes(), 0o644)
    }

    /// GRUB's first configuration: it leads to the menu.
    fn early(&self) -> String {
        let BootPlace { uuid, dir, .. } = self.boot_place();
        format!("search.fs_uuid {uuid} root\nset prefix=($root){dir}/grub\n")
    }

    /// GRUB's module for a volume's file system.
    fn grub_filesystem(&self, volume: usize) -> &'static str {
        match self.filesystem(volume) {
            Filesystem::Ext4 | Filesystem::Ext3 | Filesystem::Ext2 => "ext2",
            Filesystem::Xfs => "xfs",
            Filesystem::Btrfs => "btrfs",
            Filesystem::F2fs => "f2fs",
            Filesystem::Jfs => "jfs",
            Filesystem::Nilfs2 => "nilfs2",
            Filesystem::Vfat => "fat",
            Filesystem::Exfat => "exfat",
        }
    }

    /// Has the distribution make the menu, as with every kernel that comes later.
    fn update_grub(
        &self,
        context: &Context,
        chroot: &Chroot<'_>,
        script: &[&str],
        newest: &str,
        cmdline: &str,
    ) -> Result<(), Problem> {
        for made in &self.made {
            let lent = chroot.lend_device(&made.device, &made.uuid);
            lent.doing(|| format!("showing {} to programs in the image", made.device))?;
        }
        environment(chroot.command(script[0]).args(&script[1..])).run(context)?;
        let text = chroot.image().read(Path::new(MENU)).doing(|| format!("reading /{MENU} in the image"))?;
        let text = String::from_utf8_lossy(&text);
        let (kernel, root) = (format!("/vmlinuz-{newest} "), format!(" root=UUID={} ", self.root_uuid()));
        let starts = |line: &str| line.contains(&kernel) && line.contains(&root) && line.contains(cmdline);
        if text.lines().map(str::trim_start).any(|line| line.starts_with("linux") && starts(line)) {
            return Ok(());
        }
        let what = format!("the menu that {} has made does not start vmlinuz-{newest} with{root}{cmdline}", script[0]);
        Err(Problem::build(what)
            .hint("look at /etc/default/grub and /etc/grub.d of the project, or say bootloader=none"))
    }

    /// Signed loaders, each with its path on the EFI system partition, if the image has shim: firmware that enforces
    /// Secure Boot knows the key of shim, shim knows Debian's, with which GRUB and the kernels are signed. That GRUB
    /// reads grub.cfg in /EFI/debian.
    fn signed(&self, image: &Inside) -> Result<Option<Vec<Loader>>, Problem> {
        if !image.exists(SIGNED[0].1) {
            return Ok(None);
        }
        let mut loaders = vec![("EFI/debian/grub.cfg", (self.early() + "configfile $prefix/grub.cfg\n").into_bytes())];
        for (path, from, package) in SIGNED {
            let read = image.read(Path::new(from)).map_err(|error| grub_missing(&format!("/{from}: {error}"), package));
            loaders.push((path, read?));
        }
        Ok(Some(loaders))
    }

    /// Puts loaders where firmware looks by itself (UEFI specification 2.10, 3.5.1.1), and beside that.
    fn fill_esp(&self, context: &Context, loaders: &[Loader]) -> Result<(), Problem> {
        let device = self.made(Role::Esp).map_or("", |esp| &esp.device);
        let from = self.work.join("esp-files");
        for (path, bytes) in loaders {
            let file = from.join(path);
            let written = fs::create_dir_all(file.parent().unwrap_or(&from)).and_then(|()| fs::write(&file, bytes));
            written.doing(|| format!("writing {}", file.display()))?;
        }
        // Not every kernel that builds images knows FAT.
        if command::find("mcopy").is_some() {
            // FAT has local times.
            let tool = Tool::new("mcopy").env("TZ", "UTC").args(["-s", "-i", device]);
            return tool.arg(from.join("EFI")).arg("::/").run(context);
        }
        let at = self.work.join("esp");
        fs::create_dir(&at).doing(|| format!("making {}", at.display()))?;
        Tool::new("mount").args(["-t", "vfat", device]).arg(&at).run(context).map_err(|problem| {
            problem.hint("if this machine's kernel does not know FAT, install mtools, which does without it")
        })?;
        let put = loaders.iter().try_for_each(|(path, _)| {
            let to = at.join(path);
            fs::create_dir_all(to.parent().unwrap_or(&at))?;
            fs::copy(from.join(path), to).map(drop)
        });
        let unmounted = unmount(&at, UnmountFlags::empty());
        put.doing(|| "writing GRUB into the EFI system partition".into())?;
        unmounted.doing(|| format!("unmounting {}", at.display()))
    }

    /// Where /boot is: on a file system of its own, or on the root's.
    fn boot_place(&self) -> BootPlace<'_> {
        let own = self.wanted.volumes.iter().position(|volume| volume.path() == Some("/boot"));
        let at = own.unwrap_or(0);
        let volume = self.holder(at);
        let uuid = self.made(Role::Volume(volume)).map_or("", |made| &made.uuid);
        // GRUB's paths begin at the top of a Btrfs.
        let subvolume = self.wanted.volumes[at].subvolume.as_ref().map(|name| format!("/{name}")).unwrap_or_default();
        BootPlace { volume, uuid, dir: subvolume + if own.is_some() { "" } else { "/boot" } }
    }

    /// GRUB with what it needs to find /boot by its file system's UUID.
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
        let BootPlace { volume, dir, .. } = self.boot_place();
        let early = self.early();
        let (early_at, made_at) = ("run/makeimg/grub.cfg", "run/makeimg/grub.img");
        let written = image.write(Path::new(early_at), early.as_bytes(), 0o644);
        written.doing(|| "writing GRUB's first configuration".into())?;
        let filesystem = self.grub_filesystem(volume);
        let tool = chroot.command("grub-mkimage").args(["-O", format, "-p", &format!("{dir}/grub")]);
        let tool = tool.args(["-c", &format!("/{early_at}"), "-o", &format!("/{made_at}"), filesystem]);
        environment(tool.args(GRUB_MODULES).args(modules)).run(context)?;
        image.read(Path::new(made_at)).doing(|| "reading GRUB's image".into())
    }
}

/// A file's path on the EFI system partition, and what is in it.
type Loader = (&'static str, Vec<u8>);

/// Where GRUB finds /boot.
struct BootPlace<'a> {
    volume: usize,
    /// UUID of its file system.
    uuid: &'a str,
    /// Its directory on that file system.
    dir: String,
}

/// What puts updates of GRUB in its place, in the image.
const INSTALLER: &str = "/usr/local/lib/makeimg/install-grub";

/// Where firmware looks by itself, on the EFI system partition.
const FALLBACK: &str = "EFI/BOOT/BOOTX64.EFI";

/// Loaders that are signed: their paths on the EFI system partition, where Debian has them, and the packages. shim
/// looks for the others beside itself.
const SIGNED: [(&str, &str, &str); 3] = [
    (FALLBACK, "usr/lib/shim/shimx64.efi.signed", SHIM),
    ("EFI/BOOT/mmx64.efi", "usr/lib/shim/mmx64.efi.signed", "shim-helpers-amd64-signed"),
    ("EFI/BOOT/grubx64.efi", "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed", SIGNED_GRUB),
];

/// Where pacman finds what it does after changes.
const HOOKS: &str = "etc/pacman.d/hooks";
/// What makes another menu necessary besides GRUB: kernels, and what is loaded with them.
const KERNELS: &str = "[Trigger]\nType = Path\nOperation = Install\nOperation = Upgrade\nOperation = Remove\n\
                       Target = usr/lib/modules/*/vmlinuz\nTarget = boot/*\n\n";

/// A hook of pacman's for when GRUB has changed, and for other triggers (alpm-hooks(5)).
fn hook(triggers: &str, description: &str, program: &str) -> String {
    format!(
        "{triggers}[Trigger]\nType = Package\nOperation = Install\nOperation = Upgrade\nTarget = grub\n\n\
         [Action]\nDescription = {description}\nWhen = PostTransaction\nExec = {program}\n"
    )
}

/// For UEFI besides.
const EFI_MODULES: &[&str] = &["efi_gop", "all_video"];

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
pub(crate) fn kernels(names: &[String]) -> Vec<(&str, Option<&str>)> {
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

/// The menu's file, in the image.
const MENU: &str = "boot/grub/grub.cfg";

/// GRUB's words for the serial line that the kernel's console is on, from a word such as `console=ttyS0,115200n8`.
fn serial(cmdline: &str) -> Option<String> {
    let serial = cmdline.split(' ').rev().find_map(|word| word.strip_prefix("console=ttyS"))?;
    let (unit, speed) = serial.split_once(',').unwrap_or((serial, ""));
    let speed: String = speed.chars().take_while(char::is_ascii_digit).collect();
    Some(format!("serial --unit={unit} --speed={}", if speed.is_empty() { "9600" } else { &speed }))
}

/// What grub-mkconfig(8) reads. Debian has a directory for it.
pub(crate) fn defaults(cmdline: &str) -> String {
    let mut text = String::from(
        "# By makeimg, from `cmdline` of the IMGBUILD. What /etc/default/grub sets stays as it is.\n\
         : \"${GRUB_DISTRIBUTOR:=$(. /etc/os-release && echo \"$NAME\")}\" \"${GRUB_TIMEOUT:=2}\"\n",
    );
    let terminal = match serial(cmdline) {
        Some(serial) => {
            let _ = writeln!(text, ": \"${{GRUB_SERIAL_COMMAND:={serial}}}\"");
            "serial console"
        }
        None => "console",
    };
    let _ = writeln!(text, ": \"${{GRUB_TERMINAL:={terminal}}}\"");
    let _ = writeln!(text, "GRUB_CMDLINE_LINUX=\"${{GRUB_CMDLINE_LINUX:+$GRUB_CMDLINE_LINUX }}{cmdline}\"");
    text
}

fn write_defaults(image: &Inside, is_debian: bool, cmdline: &str) -> io::Result<()> {
    let text = defaults(cmdline);
    if is_debian {
        return image.write(Path::new("etc/default/grub.d/makeimg.cfg"), text.as_bytes(), 0o644);
    }
    let path = "etc/default/grub";
    let old = if image.exists(path) { image.read(Path::new(path))? } else { Vec::new() };
    image.write(Path::new(path), &[&old[..], b"\n", text.as_bytes()].concat()[..], 0o644)
}

/// Where GRUB looks for what its first image does not have: beside the menu.
fn copy_modules(image: &Inside, platform: &str) -> io::Result<()> {
    let from = Path::new("usr/lib/grub").join(platform);
    for name in image.names(&from).iter().filter(|name| matches!(name.rsplit_once('.'), Some((_, "mod" | "lst")))) {
        let module = image.read(&from.join(name))?;
        image.write(&Path::new("boot/grub").join(platform).join(name), &module[..], 0o644)?;
    }
    Ok(())
}

fn menu(kernels: &[(&str, Option<&str>)], place: &BootPlace<'_>, root: &str, cmdline: &str) -> String {
    let BootPlace { uuid, dir, .. } = place;
    let mut menu = String::from("set timeout=2\nset default=0\n");
    if let Some(serial) = serial(cmdline) {
        let _ = write!(menu, "{serial}\nterminal_input serial console\nterminal_output serial console\n");
    }
    for (version, initramfs) in kernels {
        let _ = write!(menu, "menuentry 'Linux {version}' {{\n    search --no-floppy --fs-uuid --set=root {uuid}\n");
        let _ = writeln!(menu, "    linux {dir}/vmlinuz-{version} root=UUID={root} ro {cmdline}");
        if let Some(initramfs) = initramfs {
            let _ = writeln!(menu, "    initrd {dir}/{initramfs}");
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

/// Puts GRUB's boot.img into a disk's boot sector, and its core.img where `start` (a sector) and `room` (bytes) say.
/// The rest of the boot sector stays as it is.
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
    fn menus() {
        let names =
            ["initrd.img-6.9.1-1", "vmlinuz-6.12.3-1", "vmlinuz-6.9.1-1", "grub", "config-6.9.1-1"].map(str::to_owned);
        let kernels = kernels(&names);
        assert_eq!(kernels, [("6.12.3-1", None), ("6.9.1-1", Some("initrd.img-6.9.1-1"))]);
        let place = BootPlace { volume: 0, uuid: "ABCD", dir: "/boot".into() };
        let menu = super::menu(&kernels, &place, "ABCD", "console=tty0 console=ttyS1,115200n8 quiet");
        assert!(menu.contains("serial --unit=1 --speed=115200\n"), "{menu}");
        assert!(menu.contains("linux /boot/vmlinuz-6.9.1-1 root=UUID=ABCD ro console=tty0"), "{menu}");
        assert_eq!(menu.matches("initrd").count(), 2, "{menu}");
    }
    #[test]
    fn settings_that_make_the_same_menu_again() {
        let evaluate = |before: &str, cmdline: &str| {
            let script = format!(
                "{before}\n{}\nprintf '%s|' \"$GRUB_TIMEOUT\" \"$GRUB_TERMINAL\" \"$GRUB_SERIAL_COMMAND\" \
                 \"$GRUB_CMDLINE_LINUX\"",
                defaults(cmdline)
            );
            let output = std::process::Command::new("sh").args(["-euc", &script]).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        // As grub-mkconfig has them.
        let unset = "GRUB_CMDLINE_LINUX= GRUB_SERIAL_COMMAND=";
        let cmdline = "console=tty0 console=ttyS1,115200n8 net.ifnames=0 a=(b)*~";
        assert_eq!(evaluate(unset, cmdline), format!("2|serial console|serial --unit=1 --speed=115200|{cmdline}|"));
        assert_eq!(
            evaluate(&format!("{unset} GRUB_TIMEOUT=9; GRUB_CMDLINE_LINUX=quiet"), "a=1"),
            "9|console||quiet a=1|"
        );
    }
}
