//! Whether there is enough memory, said in numbers before anything is loaded.

use crate::error::{Fault, Result};

/// What the new system needs besides its files: kernel, agent, and room for a payload to work in.
const HEADROOM: u64 = 128 << 20;

const MIB: u64 = 1 << 20;

/// Sizes in bytes that decide.
#[derive(Debug, Clone, Copy)]
pub struct Needs {
    /// The initramfs as loaded.
    pub initramfs: u64,
    /// Its files once the kernel has unpacked them.
    pub unpacked: u64,
    /// The base image's files, which the agent unpacks next to them.
    pub base: u64,
    /// `MemTotal`.
    pub total: u64,
    /// `MemAvailable`.
    pub available: u64,
}

/// Checks that `needs` can be met, now and after the boot.
pub fn check(needs: Needs) -> Result<()> {
    let mib = |bytes: u64| bytes.div_ceil(MIB);
    let Needs { initramfs, unpacked, base, total, available } = needs;
    let fault = |why: String| {
        let hint = "give the host more memory, or use a smaller base";
        Err(Fault::new("checking the host's memory", why).hint(hint))
    };
    // rootfs is a tmpfs, which the kernel limits to half of the memory.
    let files = unpacked + base;
    if files > total / 2 {
        return fault(format!(
            "the system in RAM has {} MiB of files ({} MiB of them the base), and half of the host's {} MiB is {} MiB",
            mib(files),
            mib(base),
            total / MIB,
            total / 2 / MIB,
        ));
    }
    if files + HEADROOM > total {
        return fault(format!(
            "the system in RAM needs {} MiB ({} MiB of files and {} MiB to work with), and the host has {} MiB",
            mib(files + HEADROOM),
            mib(files),
            mib(HEADROOM),
            total / MIB,
        ));
    }
    // Loading copies the initramfs twice: once to read it, once to where it is booted from.
    if 2 * initramfs > available {
        return fault(format!(
            "loading the initramfs of {} MiB takes {} MiB, and {} MiB are available now",
            mib(initramfs),
            mib(2 * initramfs),
            available / MIB,
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        let mib = |n: u64| n * MIB;
        let needs = |initramfs, unpacked, base, total, available| Needs {
            initramfs: mib(initramfs),
            unpacked: mib(unpacked),
            base: mib(base),
            total: mib(total),
            available: mib(available),
        };
        // What the default base takes, on a host of 1 GiB (of which 962 MiB are usable).
        assert!(check(needs(75, 85, 200, 962, 700)).is_ok());
        for (needs, expected) in [
            (
                needs(75, 85, 200, 470, 300),
                "285 MiB of files (200 MiB of them the base), and half of the host's 470 MiB is 235 MiB",
            ),
            (needs(10, 10, 90, 220, 100), "needs 228 MiB"),
            (needs(75, 85, 200, 962, 140), "takes 150 MiB, and 140 MiB are available"),
        ] {
            let error = check(needs).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
