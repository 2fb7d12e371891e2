//! GRUB put on a disk image without installing it through a mounted system.

use crate::command::{program, run};
use crate::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Bytes between where core.img begins and the first partition.
const ROOM: u64 = 1 << 20;

const MODULES: &[&str] = &[
    "part_gpt",
    "ext2",
    "btrfs",
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
    let core = fs::read(&core_file).context("cannot read core.img")?;
    fs::remove_file(&core_file).context("cannot remove core.img")?;
    let boot = fs::read(root.join("usr/lib/grub/i386-pc/boot.img")).context("cannot read boot.img")?;
    makeimg::disk::install_bios(disk, &boot, core, start, ROOM).context("cannot install GRUB")
}
