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
    "intel_iommu",
    "iommu",
    "irqpoll",
    "maxcpus",
    "mce",
    "mem",
    "memmap",
    "mitigations",
    "module_blacklist",
    "noacpi",
    "noapic",
    "nolapic",
    "nomodeset",
    "nosmt",
    "notsc",
    "no_timer_check",
    "nox2apic",
    "pci",
    "pcie_aspm",
    "reboot",
    "swiotlb",
    "tsc",
    "video",
];

/// Beginnings of words that look like parameters of the kernel's code, and are read by programs of the old system, or,
/// like `sysctl.`, set what the RAM system sets itself.
const NO_CODE: &[&str] = &[
    "fsck",
    "ip",
    "locale",
    "luks",
    "modprobe",
    "plymouth",
    "quota",
    "quotacheck",
    "rd",
    "resume",
    "root",
    "sysctl",
    "systemd",
    "udev",
    "vconsole",
];

/// Starts the agent as init, and reboots into the old system 10 s after a panic.
const OURS: &str = "rdinit=/init panic=10";

/// Longest command line that x86 kernels take, without the terminating zero.
pub const MAX: usize = 2047;

/// Splits a command line into words; double quotes keep spaces together, as the kernel has it. A word in which quotes
/// keep a newline or another control character is left out, since what is made of words is lists with a line each.
pub fn words(line: &str) -> Vec<&str> {
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
    words.retain(|word| !word.contains(char::is_control));
    words
}

/// The module and the rest of a word such as `scsi_mod.scan=sync`. The kernel applies these to code that it contains,
/// and modprobe to modules. `None` for other words.
pub fn parameter(word: &str) -> Option<(&str, String)> {
    let (quote, plain) = word.strip_prefix('"').map_or(("", word), |rest| ("\"", rest));
    let key = plain.split('=').next().unwrap_or(plain);
    let (module, _) = key.split_once('.')?;
    let is_name = |text: &str| {
        let mut bytes = text.bytes();
        !text.is_empty() && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
    };
    let of_code = is_name(key) && !module.is_empty() && !NO_CODE.contains(&module) && key.len() > module.len() + 1;
    of_code.then(|| (module, format!("{quote}{}", &plain[module.len() + 1..])))
}

/// The new command line. Only known words and parameters of code are taken over: a root file system, a resume device or
/// a service that the old system asked for has no meaning in RAM.
pub fn compose(host: &str) -> String {
    // Words after `--` are for the old init.
    let kept = words(host).into_iter().take_while(|word| *word != "--").filter(|word| {
        let key = word.split('=').next().unwrap_or(word);
        // Leaves out a word whose quote never closes, since it would swallow the words after it.
        word.matches('"').count() % 2 == 0 && (KEEP.contains(&key.trim_matches('"')) || parameter(word).is_some())
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
    fn parameters_of_code() {
        for (word, expected) in [
            ("scsi_mod.scan=sync", Some(("scsi_mod", "scan=sync"))),
            ("nvme-core.io_timeout=4294967295", Some(("nvme-core", "io_timeout=4294967295"))),
            ("ipv6.disable", Some(("ipv6", "disable"))),
            ("dm_mod.create=\"a, b\"", Some(("dm_mod", "create=\"a, b\""))),
            ("\"dm_mod.create=a, b\"", Some(("dm_mod", "\"create=a, b\""))),
            ("printk.devkmsg=on", Some(("printk", "devkmsg=on"))),
            ("BOOT_IMAGE=/boot/vmlinuz-6.1.0", None),
            ("systemd.unit=rescue.target", None),
            ("rd.luks.uuid=ab", None),
            ("sysctl.kernel.panic=0", None),
            ("modprobe.blacklist=nouveau", None),
            (".x=1", None),
            ("a.=1", None),
            ("/dev/a.b", None),
            ("quiet", None),
        ] {
            assert_eq!(parameter(word), expected.map(|(module, rest)| (module, rest.to_owned())), "{word}");
        }
    }

    #[test]
    fn quotes_keep_words_together() {
        assert_eq!(words("a \"b c\" d=\"e f\"  g"), ["a", "\"b c\"", "d=\"e f\"", "g"]);
        assert_eq!(words("\"open end"), ["\"open end"]);
        assert_eq!(words("a \"nvme.x=b\n/evil.ko\" c"), ["a", "c"], "of one word, two lines would be made");
    }

    proptest::proptest! {
        /// No word of the host's swallows ours, and none comes after them.
        #[test]
        fn ours_come_last(host in "([a-c\"=. -]|console=|a\\.b=){0,30}") {
            let line = compose(&host);
            let all = words(&line);
            proptest::prop_assert!(all.ends_with(&["rdinit=/init", "panic=10"]), "{}", line);
            proptest::prop_assert!(!all.contains(&"--"), "{}", line);
        }
    }
}
