//! Loads the new kernel.

pub mod efi;
pub mod place;
pub mod refusal;
pub mod segments;

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsFd;

use anemos_host::Root;

use crate::cmdline;
use crate::error::{Doing, Fault, Result};
use crate::facts;
use crate::sys;
use crate::sys::kexec::Segment;
use crate::sys::map::Map;
use efi::Efi;
use refusal::explain;
use segments::Machine;

/// What is to be loaded.
pub struct Boot<'a> {
    /// Where the kernel image is from, for errors.
    pub name: &'a str,
    /// Its bytes.
    pub image: &'a [u8],
    /// The kernel image.
    pub kernel: &'a File,
    /// The initramfs.
    pub initramfs: &'a File,
    /// The command line.
    pub cmdline: &'a str,
    /// Fails if memory lacks for so many copies of the initramfs at a time.
    pub room: &'a dyn Fn(u64) -> Result<()>,
}

/// Loads the kernel.
///
/// The kernel hashes what `kexec_file_load` loads, and hashes it again after the jump with plain code. On a slow
/// machine that takes seconds for an initramfs of ours, and it takes memory for one more copy. So `kexec_load` is tried
/// first. It is tried last where the kernel wants signatures (lockdown), since it is refused there and each try may
/// count, and where memory is encrypted: the new kernel must be told how, and only the old kernel can tell it.
pub fn load(root: &Root, boot: &Boot<'_>) -> Result<()> {
    if boot.cmdline.len() > cmdline::MAX {
        let why = format!("it has {} bytes, and kernels take {}", boot.cmdline.len(), cmdline::MAX);
        let hint = "it is made from the host's own (/proc/cmdline): shorten that where its boot loader is configured";
        return Err(Fault::new("composing the kernel's command line", why).hint(hint));
    }
    let mut ways = ["kexec_load", "kexec_file_load"];
    if facts::is_locked_down(root) || facts::inside::encryption(root).is_some() {
        ways.reverse();
    }
    let mut refusals = Vec::new();
    for way in ways {
        let loaded = if way == "kexec_load" { segments_load(root, boot) } else { file_load(boot) };
        match loaded {
            Ok(()) => return Ok(()),
            Err(fault) => refusals.push(format!("{way}: {}", fault.why())),
        }
    }
    Err(Fault::new(format!("loading {}", boot.name), refusals.join("; ")))
}

fn file_load(boot: &Boot<'_>) -> Result<()> {
    let loading = || format!("loading {} (kexec_file_load)", boot.name);
    (boot.room)(2)?;
    let cmdline = CString::new(boot.cmdline).doing(loading)?;
    anemos_host::kexec::file_load(boot.kernel.as_fd(), Some(boot.initramfs.as_fd()), &cmdline)
        .map_err(|error| Fault::new(loading(), explain(&error)))
}

fn segments_load(root: &Root, boot: &Boot<'_>) -> Result<()> {
    let loading = || format!("loading {} (kexec_load)", boot.name);
    (boot.room)(1)?;
    let initramfs = Map::of(boot.initramfs).doing(loading)?;
    let params = root.read("/sys/kernel/boot_params/data").unwrap_or_default();
    let machine = Machine {
        free: place::free_ram(&root.text("/proc/iomem").unwrap_or_default()),
        map: place::memory_map(root),
        efi: Efi::read(root, &params),
        rsdp: efi::rsdp(root),
        params,
    };
    let layout = segments::lay_out(boot.image, initramfs.len() as u64, boot.cmdline, &machine)
        .map_err(|why| Fault::new(loading(), why))?;
    let (kernel, size, begin) = layout.kernel;
    let (params, block) = &layout.params;
    let parts = [
        Segment { data: &boot.image[begin..], address: kernel, size },
        Segment { data: &initramfs, address: layout.initramfs, size: initramfs.len().next_multiple_of(4096) as u64 },
        Segment { data: block, address: *params, size: block.len() as u64 },
    ];
    sys::kexec::load(layout.entry, &parts).map_err(|error| Fault::new(loading(), explain(&error)))
}
