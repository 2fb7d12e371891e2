//! How much memory this machine has.

use anemos_host::Root;
use anemos_host::memory::Memory;

/// Bytes that can be had now without swapping; 0 if the kernel doesn't say.
pub fn available() -> u64 {
    Memory::of(&Root::host()).available.unwrap_or(0)
}

/// Bytes in all; 0 if the kernel doesn't say.
pub fn total() -> u64 {
    Memory::of(&Root::host()).total.unwrap_or(0)
}
