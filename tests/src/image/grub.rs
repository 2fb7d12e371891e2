//! GRUB put on a disk image without installing it through a mounted system.

use crate::command::{program, run};
use crate::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const SECTOR: usize = 512;
/// Where boot.img keeps the sector that it loads first.
const KERNEL_SECTOR: usize = 0x5c;
/// Where core.img's first sector keeps the list of the rest: start (8 bytes), length (2) and segment (2).
const BLOCKLIST: usize = SECTOR - 12;
/// The partition table's place in the first sector, which GRUB's code leaves alone.
const TABLE: usize = 0x1b8;

const MODULES: &[&str] = &[
    "part_gpt",
    "ext2",
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
    "boot",
    "reboot",
    "halt",
    "ls",
    "cat",
];

fn make_image(root: &Path, work: &Path, root_id: &str, format: &str, extra: &[&str]) -> Result<PathBuf> {
    // What a disk can be found by survives a change of its number.
    let early = format!("search.fs_uuid {root_id} root\nset prefix=($root)/boot/grub\n");
    let inside = root.join("tmp");
    fs::write(inside.join("early.cfg"), early).context("cannot write GRUB's early configuration")?;
    run(program("chroot")
        .arg(root)
        .args(["grub-mkimage", "-O", format, "-p", "/boot/grub", "-c", "/tmp/early.cfg", "-o", "/tmp/grub.img"])
        .args(MODULES)
        .args(extra))?;
    let target = work.join(format!("grub-{format}.img"));
    fs::copy(inside.join("grub.img"), &target).context("cannot copy GRUB's image")?;
    for file in ["early.cfg", "grub.img"] {
        fs::remove_file(inside.join(file)).context("cannot clean up after GRUB")?;
    }
    Ok(target)
}

/// GRUB as an EFI program.
pub fn efi_image(root: &Path, work: &Path, root_id: &str) -> Result<PathBuf> {
    make_image(root, work, root_id, "x86_64-efi", &["efi_gop", "all_video"])
}

/// Puts GRUB's first stage in the disk's first sector and the rest in the BIOS boot partition at `start`.
pub fn install_bios(root: &Path, disk: &Path, work: &Path, root_id: &str, start: u64) -> Result<()> {
    let core_file = make_image(root, work, root_id, "i386-pc", &["biosdisk"])?;
    let mut core = fs::read(&core_file).context("cannot read core.img")?;
    fs::remove_file(&core_file).context("cannot remove core.img")?;
    let boot = fs::read(root.join("usr/lib/grub/i386-pc/boot.img")).context("cannot read boot.img")?;
    if boot.len() != SECTOR || core.len() <= SECTOR {
        bail!("GRUB's images are not of the expected size: {} and {} bytes", boot.len(), core.len());
    }
    core.resize(core.len().next_multiple_of(SECTOR), 0);
    let rest = u16::try_from(core.len() / SECTOR - 1).context("core.img is too large")?;
    core[BLOCKLIST..BLOCKLIST + 8].copy_from_slice(&(start + 1).to_le_bytes());
    core[BLOCKLIST + 8..BLOCKLIST + 10].copy_from_slice(&rest.to_le_bytes());
    let file = fs::OpenOptions::new().write(true).open(disk).context("cannot open the disk")?;
    let mut first = boot;
    first[KERNEL_SECTOR..KERNEL_SECTOR + 8].copy_from_slice(&start.to_le_bytes());
    file.write_all_at(&first[..TABLE], 0).context("cannot write the boot sector")?;
    file.write_all_at(&core, start * SECTOR as u64).context("cannot write core.img")?;
    Ok(())
}
