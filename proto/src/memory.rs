//! Whether a host has the memory for a deployment: judged by the plan before anything is sent, and by the stage with
//! the sizes of what it has.

use std::fmt;

/// Bytes that the system in RAM needs besides its files: for the kernel, the agent, and the payload's work.
const HEADROOM: u64 = 128 << 20;

/// Bytes that must stay available to the old system while the boot is prepared.
const SPARE: u64 = 16 << 20;

/// Bytes that building the base takes besides the image: for the tree of its files, and for packages that are being
/// fetched.
const BUILD: u64 = 120 << 20;

/// Least bytes of what is in RAM besides the base: agent (3 MiB), stage (2 MiB), and the smallest kernel of a
/// distribution, with all of its drivers in it.
const LEAST_REST: u64 = 16 << 20;

/// What they usually are: a cloud kernel of Debian (8 MiB) with its modules, packed and unpacked, takes 52 MiB, and one
/// for all hardware not much more, since only the modules that a host needs are taken.
const USUAL_REST: u64 = 56 << 20;

/// With less left for the payload's own files, a deployment may fail for want of memory.
const TIGHT: u64 = 64 << 20;

const MIB: u64 = 1 << 20;

/// A host's memory in bytes. Where the kernel doesn't say how much there is, no check fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// All that a kernel in RAM manages.
    pub total: u64,
    /// What can be had now, under the old system, without swapping.
    pub available: u64,
}

/// There is too little of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TooLittle {
    /// For what, and how much there is and must be.
    pub why: String,
    /// What to do about it.
    pub hint: &'static str,
}

impl fmt::Display for TooLittle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.why, self.hint)
    }
}

impl Memory {
    /// Checks, before anything is sent or downloaded, that a base of `image` bytes can be composed, loaded and
    /// unpacked. What is not known yet is taken to be as small as it can be.
    pub fn before(self, image: u64) -> Result<(), TooLittle> {
        // The best compression makes a quarter of the base (that of base.lock: 0.29).
        self.holds(image / 4 + LEAST_REST, image)?;
        // A compressed base has about a third of its size, and is in memory twice: composed, and loaded.
        self.has("composing and loading the initramfs", image / 3 * 2)
    }

    /// Checks that a base of `image` bytes can be built on the host.
    pub fn builds(self, image: u64) -> Result<(), TooLittle> {
        self.has("building the base", BUILD + image / 3)
    }

    /// Checks that an initramfs can be loaded in a way that has so many copies of it in memory at a time.
    pub fn loads(self, initramfs: u64, copies: u64) -> Result<(), TooLittle> {
        self.has(&format!("loading the initramfs of {} MiB", mib(initramfs)), copies * initramfs)
    }

    /// Checks that the system in RAM fits: `unpacked` bytes of files that the kernel unpacks, then `later` bytes that
    /// the agent unpacks next to them.
    pub fn holds(self, unpacked: u64, later: u64) -> Result<(), TooLittle> {
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
        Err(TooLittle { why, hint: "give the host more memory, or name what the payload `needs` of the base" })
    }

    fn has(self, what: &str, needed: u64) -> Result<(), TooLittle> {
        let needed = needed + SPARE;
        if needed <= self.available {
            return Ok(());
        }
        let why =
            format!("{what} takes {} MiB of memory, and {} MiB are available now", mib(needed), self.available / MIB);
        Err(TooLittle { why, hint: "stop services that use memory, or give the host more" })
    }
}

/// Bytes that the files in RAM take, as a rule, with a base of `image` bytes that the host has built.
pub fn usual_files(image: u64) -> u64 {
    image + image / 10 * 3 + USUAL_REST
}

/// Whether so many bytes are so few that a deployment with a base of `image` bytes may fail for want of memory.
pub fn is_tight(total: u64, image: u64) -> bool {
    total < usual_files(image) + HEADROOM + TIGHT
}

fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(MIB)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(total: u64, available: u64) -> Memory {
        Memory { total: total * MIB, available: available * MIB }
    }

    #[test]
    fn table() {
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
            (memory(256, 200).before(166 * MIB), "needs 352 MiB (224 MiB of files and 128 MiB to work with)"),
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

    /// What is judged before is never stricter than what is judged with all sizes known, and near to it.
    #[test]
    fn what_is_expected_is_what_is_found() {
        let (image, unpacked, modules) = (166 * MIB, 80 * MIB, 29 * MIB);
        let refuses = |total| memory(total, 1000).before(image).is_err();
        let refused = (0..1000).filter(|total| refuses(*total)).max().unwrap();
        assert!(memory(refused, 0).holds(unpacked, image + modules).is_err());
        let usual = usual_files(image);
        assert!(usual.abs_diff(unpacked + image + modules) < 8 * MIB, "{}", mib(usual));
    }
}
