//! The new kernel's command line, made from the host's.

/// Words of the host's command line that the new kernel needs as well: consoles, and settings that this hardware needs.
const KEEP: &[&str] = &[
    "acpi",
    "acpi_osi",
    "acpi_rsdp",
    "amd_iommu",
    "clocksource",
    "console",
    "earlycon",
    "earlyprintk",
    "efi",
    "hpet",
    "intel_idle.max_cstate",
    "intel_iommu",
    "iommu",
    "irqpoll",
    "libata.force",
    "maxcpus",
    "mce",
    "mem",
    "memmap",
    "mitigations",
    "noacpi",
    "noapic",
    "nolapic",
    "nomodeset",
    "nosmt",
    "notsc",
    "no_timer_check",
    "nox2apic",
    "nvme_core.default_ps_max_latency_us",
    "pci",
    "pcie_aspm",
    "processor.max_cstate",
    "random.trust_cpu",
    "reboot",
    "swiotlb",
    "tsc",
    "video",
];

/// Starts the agent as init, and reboots into the old system 10 s after a panic.
const OURS: &str = "rdinit=/init panic=10";

/// Longest command line that x86 kernels take, without the terminating zero.
pub const MAX: usize = 2047;

/// Splits a command line into words; double quotes keep spaces together, as the kernel has it.
fn words(line: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut start = None;
    let mut quoted = false;
    for (i, byte) in line.bytes().enumerate() {
        if byte == b'"' {
            quoted = !quoted;
        }
        if byte.is_ascii_whitespace() && !quoted {
            if let Some(start) = start.take() {
                words.push(&line[start..i]);
            }
        } else if start.is_none() {
            start = Some(i);
        }
    }
    words.extend(start.map(|start| &line[start..]));
    words
}

/// The new command line. Only known words are taken over: a root file system, a resume device or a service that the old
/// system asked for has no meaning in RAM.
pub fn compose(host: &str) -> String {
    // Words after `--` are for the old init.
    let kept = words(host).into_iter().take_while(|word| *word != "--").filter(|word| {
        let key = word.split('=').next().unwrap_or(word);
        // Leaves out a word whose quote never closes, since it would swallow the words after it.
        word.matches('"').count() % 2 == 0 && KEEP.contains(&key.trim_matches('"'))
    });
    let mut line: Vec<_> = kept.collect();
    line.push(OURS);
    line.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        for (host, expected) in [
            // Debian 12's cloud image.
            (
                "BOOT_IMAGE=/boot/vmlinuz-6.1.0-13-cloud-amd64 root=PARTUUID=ac1b ro console=tty0 \
                 console=ttyS0,115200 earlyprintk=ttyS0,115200 consoleblank=0",
                "console=tty0 console=ttyS0,115200 earlyprintk=ttyS0,115200 rdinit=/init panic=10",
            ),
            // A rented machine whose hardware has a quirk, and all words that must not be taken over.
            (
                "initrd=\\x root=/dev/md2 rd.md=1 resume=/dev/sda1 crashkernel=256M quiet splash nomodeset \
                 init=/bin/x rw",
                "nomodeset rdinit=/init panic=10",
            ),
            ("", "rdinit=/init panic=10"),
            ("console=ttyS0 -- console=tty1 noapic", "console=ttyS0 rdinit=/init panic=10"),
            ("panic=1 rdinit=/x console=ttyS0", "console=ttyS0 rdinit=/init panic=10"),
        ] {
            assert_eq!(compose(host), expected);
        }
    }

    #[test]
    fn quotes_keep_words_together() {
        assert_eq!(words("a \"b c\" d=\"e f\"  g"), ["a", "\"b c\"", "d=\"e f\"", "g"]);
        assert_eq!(words("\"open end"), ["\"open end"]);
    }

    proptest::proptest! {
        #[test]
        fn ours_is_always_there(host in ".{0,300}") {
            let line = compose(&host);
            proptest::prop_assert!(line.ends_with(OURS));
        }
    }
}
