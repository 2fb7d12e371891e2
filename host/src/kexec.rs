//! Another kernel, loaded to be booted by `reboot(RB_KEXEC)`.
#![allow(unsafe_code, reason = "kexec_file_load(2) has no safe wrapper")]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::root::Root;

/// `KEXEC_FILE_NO_INITRAMFS` of `<linux/kexec.h>`.
const KEXEC_FILE_NO_INITRAMFS: libc::c_ulong = 4;

/// Loads `kernel` with `initrd` and `cmdline` by kexec_file_load(2).
pub fn file_load(kernel: BorrowedFd<'_>, initrd: Option<BorrowedFd<'_>>, cmdline: &CStr) -> io::Result<()> {
    let (initrd, flags) = match initrd {
        Some(file) => (file.as_raw_fd(), 0),
        None => (-1, KEXEC_FILE_NO_INITRAMFS),
    };
    // SAFETY: the descriptors are open for the length of the call, and the kernel reads exactly the given length, which
    // counts the terminating zero, from the command line.
    let result = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            kernel.as_raw_fd(),
            initrd,
            cmdline.to_bytes_with_nul().len(),
            cmdline.as_ptr(),
            flags,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether a kernel is loaded, as the running one sees it.
pub fn is_loaded(root: &Root) -> bool {
    root.flag("/sys/kernel/kexec_loaded")
}
