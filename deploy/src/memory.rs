//! Checks whether there is enough memory, and says so in numbers, before anything is changed.

use anemos_host::{Root, memory};

use crate::error::{Fault, Result};

/// Bytes that the system in RAM needs besides its files: for the kernel, the agent, and the payload's work.
const HEADROOM: u64 = 128 << 20;

/// Bytes that must stay available to the old system while the boot is prepared.
const SPARE: u64 = 16 << 20;

/// Bytes that building the base takes besides the image: for the tree of its files, and for packages that are being
/// fetched.
const BUILD: u64 = 120 << 20;

const MIB: u64 = 1 << 20;

/// The host's memory in bytes. Where the kernel doesn't say how much there is, no check fails.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// All that the kernel manages.
    pub total: u64,
    /// What can be had now without swapping.
    pub available: u64,
}

impl Memory {
    /// As it is now.
    pub fn of(root: &Root) -> Self {
        let memory = memory::Memory::of(root);
        Self { total: memory.total.unwrap_or(u64::MAX), available: memory.available.unwrap_or(u64::MAX) }
    }

    /// Checks, before anything is downloaded, that a base of `image` bytes can be composed, loaded and unpacked.
    pub fn before(self, image: u64) -> Result<()> {
        self.holds(0, image)?;
        // A compressed base has about a third of its size, and is in memory twice: composed, and loaded.
        self.has("composing and loading the initramfs", image / 3 * 2)
    }

    /// Checks that a base of `image` bytes can be built here.
    pub fn builds(self, image: u64) -> Result<()> {
        self.has("building the base", BUILD + image / 3)
    }

    /// Checks that an initramfs can be loaded in a way that has so many copies of it in memory at a time.
    pub fn loads(self, initramfs: u64, copies: u64) -> Result<()> {
        self.has(&format!("loading the initramfs of {} MiB", mib(initramfs)), copies * initramfs)
    }

    /// Checks that the system in RAM fits: `unpacked` bytes of files that the kernel unpacks, then `later` bytes that
    /// the agent unpacks next to them.
    pub fn holds(self, unpacked: u64, later: u64) -> Result<()> {
        let files = unpacked + later;
        let (half, total) = (self.total / 2, self.total);
        let why = if unpacked > half {
            // rootfs is a tmpfs, which the kernel limits to half of the memory. Init raises the limit, but runs only
            // when the kernel has unpacked the files.
            format!(
                "{} MiB of files are to be unpacked at the boot, and half of the host's memory is {} MiB",
                mib(unpacked),
                half / MIB
            )
        } else if files + HEADROOM > total {
            format!(
                "the system in RAM needs {} MiB ({} MiB of files and {} MiB to work with), and the host has {} MiB",
                mib(files + HEADROOM),
                mib(files),
                mib(HEADROOM),
                total / MIB,
            )
        } else {
            return Ok(());
        };
        Err(Fault::new("checking the host's memory", why).hint("give the host more memory, or use a smaller base"))
    }

    fn has(self, what: &str, needed: u64) -> Result<()> {
        let needed = needed + SPARE;
        if needed <= self.available {
            return Ok(());
        }
        let why =
            format!("{what} takes {} MiB of memory, and {} MiB are available now", mib(needed), self.available / MIB);
        Err(Fault::new("checking the host's memory", why).hint("stop services that use memory, or give the host more"))
    }
}

fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(MIB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        let memory = |total: u64, available: u64| Memory { total: total * MIB, available: available * MIB };
        // What the default base takes, on a host of 1 GiB (of which 962 MiB are usable).
        let (initramfs, unpacked, later) = (78 * MIB, 80 * MIB, 195 * MIB);
        for all_well in [
            memory(962, 250).before(166 * MIB),
            memory(962, 250).builds(166 * MIB),
            memory(962, 100).loads(initramfs, 1),
            memory(962, 172).loads(initramfs, 2),
            memory(512, 0).holds(unpacked, later),
        ] {
            assert!(all_well.is_ok(), "{all_well:?}");
        }
        for (refused, expected) in [
            (memory(962, 100).before(166 * MIB), "takes 127 MiB of memory, and 100 MiB are available now"),
            (memory(256, 200).before(166 * MIB), "needs 294 MiB (166 MiB of files and 128 MiB to work with)"),
            (memory(962, 150).builds(166 * MIB), "building the base takes"),
            (memory(962, 93).loads(initramfs, 1), "loading the initramfs of 78 MiB takes 94 MiB"),
            (memory(962, 171).loads(initramfs, 2), "takes 172 MiB"),
            (memory(150, 0).holds(unpacked, 0), "half of the host's memory is 75 MiB"),
            (memory(400, 0).holds(unpacked, later), "needs 403 MiB"),
        ] {
            let error = refused.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
