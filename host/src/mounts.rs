//! Which block devices are mounted where, and which are swap.

use crate::root::Root;

/// Something mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// `major:minor` of the file system; anonymous for some (btrfs, overlay).
    pub device: String,
    /// Where.
    pub target: String,
    /// File system type.
    pub kind: String,
    /// What was mounted, as it was named.
    pub source: String,
}

/// What is mounted in this process' view, the last mounted last.
pub fn mounts(root: &Root) -> Vec<Mount> {
    parse_mountinfo(&root.text("/proc/self/mountinfo").unwrap_or_default())
}

/// The device paths of swap in use. Swap files are not among them.
pub fn swaps(root: &Root) -> Vec<String> {
    parse_swaps(&root.text("/proc/swaps").unwrap_or_default())
}

/// Parses `/proc/self/mountinfo` (proc_pid_mountinfo(5)). Lines that make no sense are left out.
pub fn parse_mountinfo(text: &str) -> Vec<Mount> {
    text.lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let mut left = left.split(' ').skip(2);
            let device = left.next()?;
            let target = left.nth(1)?;
            let mut right = right.split(' ');
            Some(Mount {
                device: device.into(),
                target: unescape(target),
                kind: right.next()?.into(),
                source: unescape(right.next()?),
            })
        })
        .collect()
}

/// Parses `/proc/swaps` (proc_swaps(5)): the device paths.
pub fn parse_swaps(text: &str) -> Vec<String> {
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let path = words.next()?;
            (words.next()? == "partition").then(|| unescape(path))
        })
        .collect()
}

/// Undoes the kernel's octal escapes (`\040` is a space).
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let code = bytes.get(i + 1..i + 4).filter(|_| bytes[i] == b'\\').and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok().filter(|d| d.bytes().all(|b| matches!(b, b'0'..=b'7')))?;
            u8::from_str_radix(digits, 8).ok()
        });
        out.push(code.unwrap_or(bytes[i]));
        i += if code.is_some() { 4 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    // Lines of a Debian 12 guest, of a host with btrfs subvolumes, and one with a space in its path.
    const MOUNTINFO: &str = "\
22 28 0:21 / /proc rw,nosuid,nodev,noexec,relatime shared:12 - proc proc rw
28 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,discard,errors=remount-ro
31 28 0:27 /@home /home rw,relatime shared:3 - btrfs /dev/nvme0n1p2 rw,space_cache=v2,subvolid=257,subvol=/@home
97 28 8:17 / /mnt/my\\040disk rw,relatime - xfs /dev/sdb1 rw
nonsense
";

    #[test]
    fn mountinfo() {
        let mounts = parse_mountinfo(MOUNTINFO);
        let short: Vec<_> = mounts.iter().map(|m| (&*m.device, &*m.target, &*m.kind, &*m.source)).collect();
        assert_eq!(
            short,
            [
                ("0:21", "/proc", "proc", "proc"),
                ("8:1", "/", "ext4", "/dev/sda1"),
                ("0:27", "/home", "btrfs", "/dev/nvme0n1p2"),
                ("8:17", "/mnt/my disk", "xfs", "/dev/sdb1"),
            ]
        );
    }

    #[test]
    fn swaps() {
        let text = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
                    /dev/dm-1                               partition\t999420\t\t0\t\t-2\n\
                    /swapfile                               file\t\t999420\t\t0\t\t-3\n";
        assert_eq!(parse_swaps(text), ["/dev/dm-1"]);
    }

    #[test]
    fn escapes_that_are_none_stay() {
        assert_eq!(unescape("a\\040b\\x\\09"), "a b\\x\\09");
        assert_eq!(unescape("\\777"), "\\777");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_survived(text in "(?s).{0,400}") {
            parse_mountinfo(&text);
            parse_swaps(&text);
        }
    }
}
