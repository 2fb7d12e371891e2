//! `kexec_load(2)`, and which of the two ways of loading there are.
#![allow(unsafe_code, reason = "these system calls have no safe wrapper")]

use std::io;

const KEXEC_FILE_UNLOAD: libc::c_ulong = 1;
const KEXEC_ARCH_X86_64: libc::c_ulong = 62 << 16;

/// More segments than any kernel takes (`KEXEC_SEGMENT_MAX` is 16).
const TOO_MANY_SEGMENTS: libc::c_ulong = 1 << 16;

/// One piece of the image for [`load`]: where its bytes are and where they go.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct RawSegment {
    buf: *const u8,
    bufsz: libc::size_t,
    mem: libc::c_ulong,
    memsz: libc::size_t,
}

/// One piece of the image for [`load`].
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    /// Its bytes.
    pub data: &'a [u8],
    /// Physical address, a multiple of the page size.
    pub address: u64,
    /// Bytes in memory, a multiple of the page size; what `data` doesn't fill is zero.
    pub size: u64,
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Loads `segments`, to be entered at `entry` in 64-bit mode.
pub fn load(entry: u64, segments: &[Segment<'_>]) -> io::Result<()> {
    let raw: Vec<_> = segments
        .iter()
        .map(|s| RawSegment {
            buf: s.data.as_ptr(),
            bufsz: s.data.len(),
            mem: s.address as libc::c_ulong,
            memsz: s.size as libc::size_t,
        })
        .collect();
    // SAFETY: `raw` holds as many entries as its length says, and each points at `bufsz` readable bytes that outlive
    // the call, in which the kernel copies them.
    check(unsafe {
        libc::syscall(
            libc::SYS_kexec_load,
            entry as libc::c_ulong,
            raw.len() as libc::c_ulong,
            raw.as_ptr(),
            KEXEC_ARCH_X86_64,
        )
    })
}

/// Unloads what either call has loaded. Has no effect if nothing is loaded.
pub fn unload() -> io::Result<()> {
    // SAFETY: with this flag the kernel looks at no other argument.
    let by_file = check(unsafe {
        libc::syscall(libc::SYS_kexec_file_load, -1, -1, 0 as libc::size_t, std::ptr::null::<u8>(), KEXEC_FILE_UNLOAD)
    });
    if by_file.is_ok() {
        return by_file;
    }
    // SAFETY: no segments means unload; no memory is read.
    check(unsafe {
        libc::syscall(
            libc::SYS_kexec_load,
            0 as libc::c_ulong,
            0 as libc::c_ulong,
            std::ptr::null::<RawSegment>(),
            KEXEC_ARCH_X86_64,
        )
    })
}

/// Whether `kexec_file_load` exists. Asks with arguments that no kernel accepts.
pub fn has_file_load() -> bool {
    // SAFETY: the flags are invalid, so the kernel refuses before it looks at anything else.
    let asked = check(unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            -1,
            -1,
            0 as libc::size_t,
            std::ptr::null::<u8>(),
            0xffff_0000 as libc::c_ulong,
        )
    });
    exists(asked)
}

/// Whether `kexec_load` exists. Asks with arguments that no kernel accepts.
pub fn has_load() -> bool {
    // SAFETY: there are more segments than allowed, so the kernel refuses before it reads any of them.
    let asked = check(unsafe {
        libc::syscall(
            libc::SYS_kexec_load,
            0 as libc::c_ulong,
            TOO_MANY_SEGMENTS,
            std::ptr::null::<RawSegment>(),
            0 as libc::c_ulong,
        )
    });
    exists(asked)
}

fn exists(asked: io::Result<()>) -> bool {
    asked.is_err_and(|error| error.raw_os_error() != Some(libc::ENOSYS))
}
