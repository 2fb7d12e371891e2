//! Loads the new kernel.

mod efi;
mod place;
mod segments;

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use anemos_proto::stage::KexecMethod;

use crate::cmdline;
use crate::error::{Doing, Fault, Result};
use crate::root::Root;
use crate::sys;
use crate::sys::kexec::Segment;
use crate::sys::map::Map;
use efi::Efi;
use segments::Machine;

/// What is to be loaded.
pub struct Boot<'a> {
    /// The kernel image, for people.
    pub name: &'a str,
    /// Its bytes.
    pub image: &'a [u8],
    /// The kernel image.
    pub kernel: &'a File,
    /// The initramfs.
    pub initramfs: &'a File,
    /// The command line.
    pub cmdline: &'a str,
}

/// Loads by `method`, and returns what did it: never [`KexecMethod::Auto`].
pub fn load(root: &Root, boot: &Boot<'_>, method: KexecMethod) -> Result<KexecMethod> {
    if boot.cmdline.len() > cmdline::MAX {
        let why = format!("it has {} bytes, and kernels take {}", boot.cmdline.len(), cmdline::MAX);
        return Err(Fault::new("composing the kernel's command line", why).hint("shorten cmdline_extra"));
    }
    match method {
        KexecMethod::FileLoad => file_load(boot).map(|()| KexecMethod::FileLoad),
        KexecMethod::Load => segments_load(root, boot).map(|()| KexecMethod::Load),
        KexecMethod::Auto => {
            let Err(first) = file_load(boot) else { return Ok(KexecMethod::FileLoad) };
            segments_load(root, boot).map(|()| KexecMethod::Load).map_err(|second| {
                Fault::new(
                    format!("loading {}", boot.name),
                    format!("kexec_file_load: {}; kexec_load: {}", first.why(), second.why()),
                )
            })
        }
    }
}

fn file_load(boot: &Boot<'_>) -> Result<()> {
    let loading = || format!("loading {} (kexec_file_load)", boot.name);
    let cmdline = CString::new(boot.cmdline).doing(loading)?;
    sys::kexec::file_load(boot.kernel.as_fd(), boot.initramfs.as_fd(), &cmdline)
        .map_err(|error| Fault::new(loading(), explain(&error)))
}

fn segments_load(root: &Root, boot: &Boot<'_>) -> Result<()> {
    let loading = || format!("loading {} (kexec_load)", boot.name);
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

/// What a refusal means.
fn explain(error: &io::Error) -> String {
    let meaning = match error.raw_os_error() {
        Some(libc::EPERM) => {
            "the kernel forbids it: lockdown (Secure Boot), kernel.kexec_load_disabled, or missing privileges (a \
             container?)"
        }
        Some(libc::ENOSYS) => "the running kernel was built without it",
        Some(libc::EKEYREJECTED | libc::ENOKEY | libc::ENODATA | libc::EBADMSG) => {
            "the image's signature is missing or not trusted by the running kernel"
        }
        Some(libc::ENOEXEC) => "the running kernel does not take this image",
        Some(libc::ENOMEM | libc::EADDRNOTAVAIL) => "there is not enough memory in one piece",
        Some(libc::EBUSY) => "another kexec is under way",
        Some(libc::ETXTBSY) => "the image is being written",
        _ => return error.to_string(),
    };
    format!("{meaning} ({error})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_explained() {
        for (code, expected) in [
            (libc::EPERM, "lockdown"),
            (libc::ENOSYS, "built without it"),
            (libc::EKEYREJECTED, "signature"),
            (libc::EIO, "Input/output error"),
        ] {
            let text = explain(&io::Error::from_raw_os_error(code));
            assert!(text.contains(expected), "{text}");
        }
    }
}
