//! Host images: an ordinary Debian 12, or another [`System`], that boots from BIOS and from UEFI with GRUB, off one GPT
//! disk.
//!
//! Built without loop devices or mounts: the file system is made from a directory, the EFI partition with mtools, and
//! GRUB's BIOS images are put in place byte by byte.

mod dropbear;
mod grub;
mod rootfs;
mod small;
mod system;

pub(crate) use rootfs::minimal;
pub use system::System;

use system::Filesystem;

use crate::command::{new_uuid, program, run, run_with_input};
use crate::{Context, Lab, Net, Result, ssh, tools};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// Changed whenever an image made by older code would no longer do.
const VERSION: &str = "3";

const SECTOR: u64 = 512;
const DISK_SIZE: u64 = 6 << 30;
const BIOS_START: u64 = 2048;
const ESP_START: u64 = 4096;
const ESP_SECTORS: u64 = 131_072;
const ROOT_START: u64 = ESP_START + ESP_SECTORS;
/// The end of the disk holds GPT's second copy.
const DATA_END: u64 = DISK_SIZE / SECTOR - 2048;

/// A finished host image.
#[derive(Debug, Clone)]
pub struct Image {
    dir: PathBuf,
    net: Net,
}

impl Image {
    /// The disk, to be used only as the backing file of others.
    pub fn disk(&self) -> PathBuf {
        self.dir.join(format!("{}.qcow2", self.net))
    }

    /// The public SSH host keys.
    pub fn host_keys(&self) -> Result<String> {
        let path = self.dir.join(format!("{}.keys", self.net));
        fs::read_to_string(&path).context(format!("cannot read {}", path.display()))
    }

    /// The kernel, for booting without a boot loader.
    pub fn kernel(&self) -> PathBuf {
        self.dir.join("vmlinuz")
    }

    /// The initrd that belongs to the kernel.
    pub fn initrd(&self) -> PathBuf {
        self.dir.join("initrd")
    }

    /// What tells this image from one built at another time.
    pub fn id(&self) -> Result<String> {
        let path = self.dir.join("stamp");
        let text = fs::read_to_string(&path).context(format!("cannot read {}", path.display()))?;
        Ok(text.trim().to_owned())
    }
}

/// The image of this system with this kind of network, built now if there is none.
pub fn ensure(lab: &Lab, system: System, net: Net) -> Result<Image> {
    let net = net.of_image();
    if !networks(system).contains(&net) {
        crate::bail!("{system} has no image for a network that is {net}");
    }
    let name = match system {
        System::Bookworm => "images".to_owned(),
        other => format!("images-{other}"),
    };
    let dir = lab.path(&name);
    let image = Image { dir: dir.clone(), net };
    let _lock = lab.lock(&name)?;
    if image.id().is_ok_and(|id| id.starts_with(&format!("{VERSION} "))) {
        return Ok(image);
    }
    tools::check()?;
    if !tools::is_root() {
        crate::bail!("building a host image needs root, for the owners of its files: run `anemos-lab setup` as root");
    }
    // Machines that still run have these files open; new ones take their place.
    let work = lab.path(format!("{name}.new"));
    if work.exists() {
        fs::remove_dir_all(&work).context(format!("cannot remove {}", work.display()))?;
    }
    fs::create_dir_all(&work).context(format!("cannot make {}", work.display()))?;
    build(lab, system, &work)?;
    fs::write(work.join("stamp"), format!("{VERSION} {}\n", new_uuid()?)).context("cannot write the image's stamp")?;
    if dir.exists() {
        fs::remove_dir_all(&dir).context(format!("cannot remove {}", dir.display()))?;
    }
    fs::rename(&work, &dir).context(format!("cannot rename {}", work.display()))?;
    Ok(image)
}

/// The networks that there are images of it for.
fn networks(system: System) -> &'static [Net] {
    if system == System::Bookworm { &[Net::Dhcp, Net::Static] } else { &[Net::Dhcp] }
}

fn build(lab: &Lab, system: System, work: &Path) -> Result<()> {
    let begin = Instant::now();
    let root = work.join("root");
    eprintln!("lab: bootstrapping {system} for host images");
    rootfs::bootstrap(system, &root, &work.join("bootstrap.log"))?;
    eprintln!("lab: bootstrapped in {:.0} s", begin.elapsed().as_secs_f32());
    for (link, name) in [("vmlinuz", "vmlinuz"), ("initrd.img", "initrd")] {
        fs::copy(root.join(link), work.join(name)).context(format!("no /{link} in the host image"))?;
    }
    let public_key = fs::read_to_string(lab.key().with_extension("pub")).context("cannot read the lab's public key")?;
    for net in networks(system) {
        let ids = Ids { root: new_uuid()?, esp: esp_id()? };
        rootfs::configure(system, &root, *net, &ids, &public_key)?;
        fs::write(work.join(format!("{net}.keys")), ssh::read_host_keys(&root.join("etc/ssh"))?)
            .context("cannot write the image's host keys")?;
        if system.has_dropbear() {
            dropbear::take_keys(&root)?;
        }
        let contents = match system {
            System::Busybox => small::make(&root, &work.join("small"), &public_key)?,
            _ => root.clone(),
        };
        build_disk(system, &root, &contents, work, &ids, *net)?;
    }
    for dir in ["root", "small"] {
        let dir = work.join(dir);
        if dir.exists() {
            fs::remove_dir_all(&dir).context(format!("cannot remove {}", dir.display()))?;
        }
    }
    eprintln!("lab: host images of {system} built in {:.0} s", begin.elapsed().as_secs_f32());
    Ok(())
}

/// The names of an image's file systems.
struct Ids {
    root: String,
    /// Eight hexadecimal digits.
    esp: String,
}

fn esp_id() -> Result<String> {
    Ok(new_uuid()?[..8].to_uppercase())
}

/// Makes the disk with `contents` as its root; GRUB comes out of `root`.
fn build_disk(system: System, root: &Path, contents: &Path, work: &Path, ids: &Ids, net: Net) -> Result<()> {
    let raw = work.join(format!("{net}.raw"));
    let file = fs::File::create(&raw).context(format!("cannot make {}", raw.display()))?;
    file.set_len(DISK_SIZE).context("cannot size the disk")?;
    let data_start = DATA_END - system.data_sectors();
    let root_sectors = data_start - ROOT_START;
    let table = format!(
        "label: gpt\nfirst-lba: {BIOS_START}\n\
         start={BIOS_START}, size={}, type=21686148-6449-6E6F-744E-656564454649\n\
         start={ESP_START}, size={ESP_SECTORS}, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B\n\
         start={ROOT_START}, size={root_sectors}, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4\n\
         start={data_start}, size={}, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4\n",
        ESP_START - BIOS_START,
        system.data_sectors(),
    );
    run_with_input(program("sfdisk").args(["--quiet", "--no-reread", "--no-tell-kernel"]).arg(&raw), table.as_bytes())?;
    grub::install_bios(root, &raw, work, &ids.root, BIOS_START)?;
    build_esp(system, root, work, &raw, ids)?;
    let ext4 = |label: &str, contents: &Path, start: u64, sectors: u64, uuid: &str| {
        run(program("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-L", label, "-U", uuid, "-d"])
            .arg(contents)
            .args(["-E", &format!("offset={},root_owner=0:0", start * SECTOR)])
            .arg(&raw)
            .arg(format!("{}k", sectors / 2)))
    };
    match system.filesystem() {
        Filesystem::Ext4 => ext4("host", contents, ROOT_START, root_sectors, &ids.root)?,
        Filesystem::Btrfs => btrfs(contents, work, &raw, root_sectors, &ids.root)?,
    };
    // A file system that nothing mounts. Any files will do.
    ext4("data", &root.join("etc"), data_start, system.data_sectors(), &new_uuid()?)?;
    let disk = work.join(format!("{net}.qcow2"));
    run(Command::new("qemu-img").args(["convert", "-f", "raw", "-O", "qcow2"]).arg(&raw).arg(&disk))?;
    fs::remove_file(&raw).context("cannot remove the raw disk")?;
    Ok(())
}

/// mkfs.btrfs(8) makes no file system in the middle of a file, so it is made beside, and copied where it is to be.
fn btrfs(contents: &Path, work: &Path, raw: &Path, sectors: u64, uuid: &str) -> Result<Vec<u8>> {
    let beside = work.join("btrfs.raw");
    let file = fs::File::create(&beside).context(format!("cannot make {}", beside.display()))?;
    file.set_len(sectors * SECTOR).context("cannot size the file system")?;
    run(program("mkfs.btrfs").args(["-q", "-L", "host", "-U", uuid, "--rootdir"]).arg(contents).arg(&beside))?;
    let copied = run(Command::new("dd")
        .args(["bs=1M", "conv=notrunc,sparse", "oflag=seek_bytes", "status=none"])
        .arg(format!("seek={}", ROOT_START * SECTOR))
        .arg(format!("if={}", beside.display()))
        .arg(format!("of={}", raw.display())))?;
    fs::remove_file(&beside).context("cannot remove the file system")?;
    Ok(copied)
}

fn build_esp(system: System, root: &Path, work: &Path, raw: &Path, ids: &Ids) -> Result<()> {
    let at = format!("{}@@{}", raw.display(), ESP_START * SECTOR);
    let (sectors, heads) = (63, 16);
    let tracks = ESP_SECTORS / (sectors * heads);
    run(program("mformat").args(["-i", &at, "-F", "-N", &ids.esp, "-v", "ESP"]).args([
        "-t",
        &tracks.to_string(),
        "-h",
        &heads.to_string(),
        "-s",
        &sectors.to_string(),
    ]))?;
    run(program("mmd").args(["-i", &at, "::/EFI", "::/EFI/BOOT", "::/EFI/debian"]))?;
    let copy = |from: &Path, to: &str| run(program("mcopy").args(["-i", &at]).arg(from).arg(to));
    if system == System::Signed {
        // shim starts the signed GRUB beside it, which reads its configuration where Debian has it.
        copy(&root.join("usr/lib/shim/shimx64.efi.signed"), "::/EFI/BOOT/BOOTX64.EFI")?;
        copy(&root.join("usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"), "::/EFI/BOOT/grubx64.efi")?;
        copy(&root.join("boot/grub/grub.cfg"), "::/EFI/debian/grub.cfg")?;
        return Ok(());
    }
    let efi = grub::efi_image(root, work, &ids.root)?;
    for target in ["::/EFI/BOOT/BOOTX64.EFI", "::/EFI/debian/grubx64.efi"] {
        copy(&efi, target)?;
    }
    fs::remove_file(&efi).context("cannot remove GRUB's image")
}
