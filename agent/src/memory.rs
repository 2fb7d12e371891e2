//! How much memory this machine has, and how it is shared out.

use std::path::Path;

use anemos_host::Root;
use anemos_host::memory::Memory;
use rustix::fs::{StatVfs, statvfs};

use crate::limits::{self, Sizes};
use crate::paths::Paths;

/// About how many times as large as their archive the kernel's modules are.
const UNPACKED: u64 = 4;

/// Bytes that can be had now without swapping; 0 if the kernel doesn't say.
pub fn available() -> u64 {
    Memory::of(&Root::host()).available.unwrap_or(0)
}

/// Bytes in all; 0 if the kernel doesn't say.
pub fn total() -> u64 {
    Memory::of(&Root::host()).total.unwrap_or(0)
}

/// The sizes of the file systems in memory, at the boot. `base` is the size of the base image, which will be unpacked.
pub fn sizes(paths: &Paths, base: u64) -> Sizes {
    let here = statvfs(&paths.root).map_or(0, |found| (found.f_blocks - found.f_bfree) * found.f_frsize);
    let modules = std::fs::metadata(paths.anemos.join("modules.cpio.zst")).map_or(0, |found| found.len());
    limits::sizes(total(), here + base + UNPACKED * modules)
}

/// How many bytes the file system at `path` can hold.
pub fn size_of(path: &Path) -> Option<u64> {
    statvfs(path).ok().map(|StatVfs { f_blocks, f_frsize, .. }| f_blocks * f_frsize)
}

/// The most compressed bytes of log to keep.
pub fn log_cap(paths: &Paths) -> u64 {
    limits::log(size_of(&paths.run).unwrap_or(0)).max(1 << 20)
}
