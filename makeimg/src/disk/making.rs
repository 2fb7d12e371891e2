//! A disk while it is made: its partitions, and its file systems on a directory.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, unmount};

use super::features;
use super::geometry::{CODE, END, FIRST, REDUCE, SECTOR};
use super::layout::{Part, Role, Wanted};
use super::old::{self, Kept, Old};
#[cfg(feature = "images")]
use super::same;
use crate::command::{Context, Tool};
use crate::inside::Inside;
use crate::problem::{Doing, Problem};
use crate::volumes::{self, At};
use crate::words::Filesystem;

/// Bytes at both ends of a partition in which something may be left that says what was there (libblkid's superblocks;
/// those of md, ZFS and others are at the end).
const SIGNATURES: u64 = 1 << 20;

/// Wipes what was in a partition of so many bytes before.
fn wipe_ends(device: &str, size: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(device)?;
    let zeros = vec![0; size.min(SIGNATURES) as usize];
    file.write_all_at(&zeros, 0)?;
    file.write_all_at(&zeros, size - zeros.len() as u64)?;
    file.sync_all()
}

/// A file system that was made.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) role: Role,
    /// A loop device, or what is opened in one.
    pub(super) device: String,
    /// The device, opened before anything was written, so that sync reports errors of all writes.
    opened: File,
    pub(super) uuid: String,
    /// The UUID of the encrypted partition that it is in.
    pub(super) luks: Option<String>,
}

/// A disk being made, its file systems mounted.
#[derive(Debug)]
pub struct Disk {
    pub(super) wanted: Wanted,
    /// The raw image, or a disk's device.
    pub(super) image: PathBuf,
    /// A directory for mount points and temporary files.
    pub(super) work: PathBuf,
    is_device: bool,
    root: PathBuf,
    pub(super) parts: Vec<Part>,
    /// What was there, if any of it is kept.
    old: Option<Old>,
    kept: Vec<Kept>,
    pub(super) made: Vec<Made>,
    /// In the order of mounting: mount points, and their directories, opened before anything was written.
    mounted: Vec<(PathBuf, File)>,
}

impl Disk {
    /// Makes a raw image's file, its partitions and file systems, and mounts them on a directory.
    ///
    /// # Errors
    /// It is too small, or a tool failed.
    pub fn image(context: &Context, mut wanted: Wanted, work: &Path, root: &Path) -> Result<Self, Problem> {
        wanted.volumes.retain(|volume| {
            let is_kept = volume.size.is_none() && !volume.is_shared();
            if is_kept {
                context.report.warn(format!("filesystems: {}: an image has nothing to keep", volume.name()));
            }
            !is_kept
        });
        let image = work.join("image");
        let file = File::create_new(&image).doing(|| format!("making {}", image.display()))?;
        file.set_len(wanted.size).doing(|| format!("making {}", image.display()))?;
        let mut disk = Self::new(wanted, image, work, root, None, Vec::new())?;
        disk.write_table(context, &disk.parts)?;
        disk.make(context)?;
        Ok(disk)
    }

    /// Makes partitions and file systems on a disk, and mounts them on a directory. What was on the disk and is not
    /// kept is lost at once. [`Disk::finish`] writes the new partition table, so that no firmware starts a system that
    /// is half built. Until then, the disk's table has only what is kept.
    ///
    /// # Errors
    /// It is too small, something to keep can't be kept, or a tool failed. Nothing is written until everything has its
    /// place.
    pub fn device(context: &Context, wanted: Wanted, device: &Path, work: &Path, root: &Path) -> Result<Self, Problem> {
        let doing = || format!("wiping the partition table of {}", device.display());
        let mut file = OpenOptions::new().read(true).write(true).open(device).doing(doing)?;
        // A block device has no length in its metadata.
        let size = io::Seek::seek(&mut file, io::SeekFrom::End(0)).doing(doing)?;
        let (mut old, mut kept) = (None, Vec::new());
        if wanted.volumes.iter().any(|volume| volume.keep) {
            old = old::read(context, device)?;
            kept = old::find(context, device, old.as_ref(), &wanted.volumes)?;
        }
        let old = old.filter(|_| !kept.is_empty());
        let table = old.as_ref().map_or(wanted.table, |old| old.table);
        // It is this machine's alone.
        let wanted = Wanted { size, table, seed: None, ..wanted };
        let mut disk = Self { is_device: true, ..Self::new(wanted, device.to_owned(), work, root, old, kept)? };
        // From here on nothing can be undone.
        context.cancel.check()?;
        let wipe = |from: u64, to: u64| file.write_all_at(&vec![0; (to - from) as usize], from);
        if disk.kept.is_empty() {
            // The tables are at both ends; other signatures may stand before the first partition.
            wipe(0, FIRST).and_then(|()| wipe(size / SECTOR * SECTOR - END, size / SECTOR * SECTOR)).doing(doing)?;
        } else {
            disk.write_table(context, &[])?;
            wipe(0, CODE as u64).doing(doing)?;
        }
        file.sync_all().doing(doing)?;
        drop(file);
        disk.make(context)?;
        Ok(disk)
    }

    fn new(
        wanted: Wanted,
        image: PathBuf,
        work: &Path,
        root: &Path,
        old: Option<Old>,
        kept: Vec<Kept>,
    ) -> Result<Self, Problem> {
        let parts = wanted.place(&kept)?;
        let (work, root) = (work.to_owned(), root.to_owned());
        let (made, mounted) = (Vec::new(), Vec::new());
        Ok(Self { wanted, image, work, is_device: false, root, parts, old, kept, made, mounted })
    }

    /// A table with these partitions and what is kept.
    fn write_table(&self, context: &Context, parts: &[Part]) -> Result<(), Problem> {
        let script = self.wanted.script(parts, self.old.as_ref(), &self.kept);
        let sfdisk = Tool::new("sfdisk").args(["--quiet", "--no-reread", "--no-tell-kernel", "--wipe", "never"]);
        sfdisk.arg(&self.image).input(script).run(context)
    }

    fn make(&mut self, context: &Context) -> Result<(), Problem> {
        for part in self.parts.clone() {
            if part.role == Role::BiosBoot {
                continue;
            }
            let luks = self.luks(part.role);
            // An image is encrypted when all is in it.
            let leave = if luks.is_some() && !self.is_device { REDUCE } else { 0 };
            let mut device = self.attach(context, &part, leave)?;
            if self.is_device {
                wipe_ends(&device, part.size).doing(|| format!("wiping old signatures on {device}"))?;
            }
            let mut luks_uuid = None;
            if let Some(luks) = luks {
                let uuid = self.luks_uuid(luks)?;
                if let Role::Volume(index) = part.role
                    && self.is_device
                {
                    let label = &self.wanted.volumes[index].label;
                    device = self.open_luks(context, luks, (label, &uuid), &device)?;
                }
                luks_uuid = Some(uuid);
            }
            let mkfs = match part.role {
                Role::Volume(index) => self.mkfs(context, index, &device, &[])?,
                Role::Esp | Role::BiosBoot => self.mkfs_esp(),
            };
            let opened = File::open(&device).doing(|| format!("opening {device}"))?;
            mkfs.arg(&device).run(context)?;
            let uuid = self.id(context, &device)?;
            self.made.push(Made { role: part.role, device, opened, uuid, luks: luks_uuid });
        }
        for index in 0..self.wanted.volumes.len() {
            let volume = &self.wanted.volumes[index];
            let Some(made) = self.made(Role::Volume(self.holder(index))) else { continue };
            let Some(path) = volume.path() else { continue };
            let below = Path::new(path.trim_start_matches('/'));
            let at = self.root.join(below);
            let made_at = Inside::open(&self.root).and_then(|image| image.dir(below).map(drop));
            made_at.doing(|| format!("making {}", at.display()))?;
            if volume.subvolume.is_some() && !volume.is_shared() {
                self.make_subvolumes(context, index, &made.device)?;
            }
            let mut tool = Tool::new("mount").args(["-t", self.filesystem(index).word()]);
            // The others are for the system when it runs, and might keep it from being built.
            let written = volume.options.iter().filter(|option| option.starts_with("compress")).cloned();
            let options: Vec<String> = volume.subvolume_option().into_iter().chain(written).collect();
            if !options.is_empty() {
                tool = tool.args(["-o", &options.join(",")]);
            }
            tool.arg(&made.device).arg(&at).run(context)?;
            let root = File::open(&at).doing(|| format!("opening {}", at.display()))?;
            self.mounted.push((at, root));
        }
        Ok(())
    }

    /// Makes the subvolumes of a Btrfs, which is not mounted yet.
    fn make_subvolumes(&self, context: &Context, holder: usize, device: &str) -> Result<(), Problem> {
        let at = self.work.join("btrfs");
        fs::create_dir_all(&at).doing(|| format!("making {}", at.display()))?;
        Tool::new("mount").args(["-t", "btrfs", device]).arg(&at).run(context)?;
        let volumes = self.wanted.volumes.iter().enumerate().filter(|(index, _)| self.holder(*index) == holder);
        let mut names = volumes.filter_map(|(_, volume)| volume.subvolume.as_ref());
        let made = names.try_for_each(|name| {
            Tool::new("btrfs").args(["-q", "subvolume", "create"]).arg(at.join(name)).run(context)
        });
        let unmounted = unmount(&at, UnmountFlags::empty());
        made.and_then(|()| unmounted.doing(|| format!("unmounting {}", at.display())))
    }

    /// The volume whose file system a volume is in.
    pub(super) fn holder(&self, volume: usize) -> usize {
        volumes::holder(&self.wanted.volumes, volume)
    }

    pub(super) fn filesystem(&self, volume: usize) -> Filesystem {
        self.wanted.filesystem_of(&self.wanted.volumes[self.holder(volume)])
    }

    /// What makes a volume's file system; `extended` is for `-E` of mke2fs(8).
    pub(super) fn mkfs(
        &self,
        context: &Context,
        index: usize,
        device: &str,
        extended: &[&str],
    ) -> Result<Tool, Problem> {
        let volume = &self.wanted.volumes[index];
        let mut words = volume.mkfs.clone();
        let mut extended: Vec<String> = extended.iter().map(|option| (*option).to_owned()).collect();
        if self.filesystem(index).is_ext() {
            extended.extend(features::take_extended(&mut words));
        }
        let tool = match volume.at {
            At::Swap => {
                let tool = Tool::new("mkswap").arg("-q");
                self.ids(index).iter().fold(tool, |tool, id| tool.args(["-U", id]))
            }
            _ => features::mkfs(
                context,
                self.filesystem(index),
                device,
                &self.work,
                self.ids(index).as_deref(),
                &extended,
            )?,
        };
        let label = if volume.at == At::Swap { "-L" } else { self.filesystem(index).label_option() };
        Ok(tool.args([label, &volume.label]).args(&words))
    }

    fn mkfs_esp(&self) -> Tool {
        let mut tool = Tool::new("mkfs.vfat").args(["-n", "EFI"]);
        // With larger sectors it would have too few clusters for FAT32, and firmware, which goes by their number, would
        // read it as FAT16 (Microsoft's FAT specification 1.03, "FAT type determination"): mkfs.vfat chooses.
        if self.sector_size().is_none_or(|size| size == 512) {
            tool = tool.args(["-F", "32"]);
        }
        match &self.wanted.seed {
            Some(seed) => tool.args(["--invariant", "-i", &format!("{:08x}", seed.number("esp"))]),
            None => tool,
        }
    }

    /// The UUID of a volume, if that is not to be random.
    pub(super) fn ids(&self, volume: usize) -> Option<String> {
        self.wanted.seed.as_ref().map(|seed| seed.uuid(&self.wanted.volumes[volume].label))
    }

    pub(super) fn made(&self, role: Role) -> Option<&Made> {
        self.made.iter().find(|made| made.role == role)
    }

    /// The UUID of the root.
    pub(super) fn root_uuid(&self) -> &str {
        self.made(Role::Volume(0)).map_or("", |made| &made.uuid)
    }

    /// Bytes of a sector, if it is a device that says so.
    fn sector_size(&self) -> Option<u32> {
        let disk = File::open(&self.image).ok().filter(|_| self.is_device)?;
        rustix::fs::ioctl_blksszget(&disk).ok()
    }

    /// A loop device of a partition, but for so many bytes at its end.
    pub(super) fn attach(&self, context: &Context, part: &Part, leave: u64) -> Result<String, Problem> {
        let mut losetup = Tool::new("losetup").args(["--find", "--show"]);
        if self.is_device {
            // Else what is written would be in memory twice: in the loop device's cache and in the disk's.
            losetup = losetup.arg("--direct-io=on");
            // A file system is made and read in the disk's own sectors, of which some are larger than a loop device's.
            if let Some(size) = self.sector_size() {
                losetup = losetup.args(["--sector-size", &size.to_string()]);
            }
        }
        let losetup =
            losetup.args(["--offset", &part.start.to_string(), "--sizelimit", &(part.size - leave).to_string()]);
        let said = losetup.arg(&self.image).output(context)?;
        Ok(String::from_utf8_lossy(&said).trim().to_owned())
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
        let mut text = String::new();
        for (index, volume) in self.wanted.volumes.iter().enumerate() {
            let kept = self.kept.iter().find(|kept| kept.volume == index);
            let (uuid, kind) = match (kept, self.made(Role::Volume(self.holder(index)))) {
                (Some(kept), _) => (&kept.uuid, &*kept.kind),
                (None, Some(made)) => (&made.uuid, self.filesystem(index).word()),
                (None, None) => continue,
            };
            let with = |usual: &[&str]| {
                let is_said = |name: &str| volume.options.iter().any(|option| option.split('=').next() == Some(name));
                let usual = usual.iter().filter(|option| !is_said(option.split('=').next().unwrap_or_default()));
                let all = usual.map(|option| (*option).to_owned()).chain(volume.subvolume_option());
                let all: Vec<String> = all.chain(volume.options.iter().cloned()).collect();
                if all.is_empty() { "defaults".to_owned() } else { all.join(",") }
            };
            let _ = match &volume.at {
                At::Swap => writeln!(text, "UUID={uuid} none swap {} 0 0", with(&["sw"])),
                At::Nowhere => continue,
                At::Path(path) => {
                    let is_root = path == "/";
                    let is_ext = kind.starts_with("ext");
                    let options = match kept {
                        // The new system starts even if a file system that was kept can't be mounted.
                        Some(_) => with(&["defaults", "nofail"]),
                        None if is_ext && is_root => with(&["errors=remount-ro"]),
                        None => with(&[]),
                    };
                    let pass = if is_ext { 2 - u8::from(is_root) } else { 0 };
                    writeln!(text, "UUID={uuid} {path} {kind} {options} 0 {pass}")
                }
            };
        }
        if let Some(esp) = self.made(Role::Esp) {
            let _ = writeln!(text, "UUID={} /boot/efi vfat umask=0077,nofail 0 1", esp.uuid);
        }
        text
    }

    /// Mount points of what is kept, which nothing is mounted on while the system is built.
    pub fn kept_paths(&self) -> impl Iterator<Item = &str> {
        self.kept.iter().filter_map(|kept| self.wanted.volumes[kept.volume].path())
    }

    /// Waits until everything is written. The kernel reports errors of writing in the background only here.
    fn flush(&self) -> Result<(), Problem> {
        for (at, root) in &self.mounted {
            rustix::fs::syncfs(root).doing(|| format!("writing the file system of {}", at.display()))?;
        }
        for made in &self.made {
            made.opened.sync_all().doing(|| format!("writing {}", self.image.display()))?;
        }
        Ok(())
    }

    /// The file systems that can be the same each time; there is a warning of others.
    #[cfg(feature = "images")]
    fn fills(&self, context: &Context) -> Result<Vec<same::Fill>, Problem> {
        let mut parts = self.parts.clone();
        parts.sort_by_key(|part| part.start);
        let mut fills = Vec::new();
        for part in parts {
            let Role::Volume(index) = part.role else { continue };
            let (kind, name) = (self.filesystem(index), self.wanted.volumes[index].name());
            if self.wanted.volumes[index].path().is_none() {
                continue;
            }
            if self.luks(part.role).is_some() {
                context.report.warn(format!("two builds of this image differ: what encrypts {name} is random"));
                continue;
            }
            if !kind.is_ext() {
                let why = format!("Linux writes {} ({name}) in an order of its own", kind.word());
                context.report.warn(format!("two builds of this image differ: {why}"));
                continue;
            }
            let mkfs = self.mkfs(context, index, "", &[&same::place(part.start)])?;
            let device = self.made(part.role).map_or_else(String::new, |made| made.device.clone());
            fills.push(same::Fill { start: part.start, size: part.size, kind: kind.word(), device, mkfs });
        }
        Ok(fills)
    }

    /// Makes it whole. An image's file systems are unmounted; a disk's stay mounted, for whoever ordered it.
    ///
    /// # Errors
    /// Something still uses it, or it can't be written.
    pub fn finish(mut self, context: &Context) -> Result<(), Problem> {
        self.flush()?;
        if self.is_device {
            return self.write_table(context, &self.parts);
        }
        while let Some((at, root)) = self.mounted.pop() {
            drop(root);
            unmount(&at, UnmountFlags::empty()).doing(|| format!("unmounting {}", at.display()))?;
        }
        #[cfg(feature = "images")]
        if let Some(seed) = &self.wanted.seed {
            same::rewrite(context, seed.epoch, &self.image, &self.work, self.fills(context)?)?;
        }
        let mut encrypted = Vec::new();
        for Made { role, device, opened, luks, .. } in self.made.drain(..) {
            // Unmounting has written, too.
            opened.sync_all().doing(|| format!("writing {}", self.image.display()))?;
            drop(opened);
            Tool::new("losetup").args(["--detach", &device]).run(context)?;
            encrypted.extend(luks.map(|uuid| (role, uuid)));
        }
        // Not before: loop devices that a build leaves are found by the image's name.
        #[cfg(feature = "images")]
        if self.wanted.seed.is_some() {
            let new = self.work.join(same::NEW);
            fs::rename(&new, &self.image).doing(|| format!("renaming {}", new.display()))?;
        }
        #[cfg(feature = "images")]
        self.encrypt(context, &encrypted)?;
        let file = File::open(&self.image).doing(|| format!("opening {}", self.image.display()))?;
        file.sync_all().doing(|| format!("writing {}", self.image.display()))
    }
}
