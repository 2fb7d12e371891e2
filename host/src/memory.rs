//! How much memory there is.

use crate::root::Root;

/// Bytes that are kept for a kernel that would tell of a crash: 0 if the kernel keeps none.
pub fn reserved(root: &Root) -> u64 {
    root.number("/sys/kernel/kexec_crash_size").unwrap_or(0)
}

/// What `/proc/meminfo` says, in bytes; `None` where the kernel doesn't say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// `MemTotal`: all that the kernel manages.
    pub total: Option<u64>,
    /// `MemAvailable`: what can be had now without swapping. Since Linux 3.14.
    pub available: Option<u64>,
}

impl Memory {
    /// As it is now.
    pub fn of(root: &Root) -> Self {
        Self::parse(&root.text("/proc/meminfo").unwrap_or_default())
    }

    /// From the text of `/proc/meminfo` (proc_meminfo(5)), which counts in KiB.
    pub fn parse(meminfo: &str) -> Self {
        let field = |key: &str| {
            let value = meminfo.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
            let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
            kib.checked_mul(1024)
        };
        Self { total: field("MemTotal"), available: field("MemAvailable") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo() {
        // The first lines of a 1 GiB Debian 12 guest.
        let text = "MemTotal:         985016 kB\nMemFree:          711064 kB\nMemAvailable:     780116 kB\n";
        assert_eq!(Memory::parse(text), Memory { total: Some(985_016 * 1024), available: Some(780_116 * 1024) });
        for without in ["", "MemTotalX: 1 kB", "MemTotal: 99999999999999999999 kB", "MemTotal: 1 pages"] {
            assert_eq!(Memory::parse(without), Memory::default(), "{without}");
        }
    }

    #[test]
    fn of_this_machine() {
        let memory = Memory::of(&Root::new("/"));
        assert!(memory.total > memory.available && memory.available > Some(0), "{memory:?}");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_survived(text in "(?s).{0,200}") {
            Memory::parse(&text);
        }
    }
}
