//! What stage and agent must see alike, although one looks under the old system's kernel and the other in RAM: which
//! disk is which, what is mounted, how much memory there is, which processes run, which files are host keys. And the
//! little that both of them do to a kernel in the same way.
//!
//! Readers take a [`Root`], so that tests can give them a made tree, and parsers take text. No reader changes anything.

pub mod deadline;
pub mod disks;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod host_keys;
pub mod kexec;
pub mod memory;
pub mod mounts;
pub mod processes;
mod root;
pub mod sha256;

pub use root::Root;

/// Names this boot: `/proc/sys/kernel/random/boot_id`, or empty where the kernel has none.
pub fn boot_id(root: &Root) -> String {
    root.text("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}
