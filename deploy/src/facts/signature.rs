//! What is on a disk or partition, by the signatures at its beginning. Knows only the common ones, since a person just
//! has to recognise what is about to be overwritten.

/// Number of bytes from the beginning of a device that [`content`] and [`table`] need.
pub const HEAD: usize = 256 * 1024;

/// A signature and the label next to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// The kind, as blkid names it.
    pub kind: &'static str,
    /// The label, if there is one.
    pub label: Option<String>,
}

fn at(head: &[u8], offset: usize, magic: &[u8]) -> bool {
    head.get(offset..offset + magic.len()) == Some(magic)
}

fn le32(head: &[u8], offset: usize) -> Option<u32> {
    head.get(offset..offset + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

fn label(head: &[u8], offset: usize, length: usize) -> Option<String> {
    let bytes = head.get(offset..offset + length)?;
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(length);
    let text = String::from_utf8_lossy(&bytes[..end]).trim().to_owned();
    (!text.is_empty() && text != "NO NAME").then_some(text)
}

/// The file system or other signature directly on a device that begins with `head`.
pub fn content(head: &[u8]) -> Option<Content> {
    let found = |kind, label| Some(Content { kind, label });
    if at(head, 0, b"LUKS\xba\xbe") {
        return found("crypto_LUKS", if at(head, 6, &[0, 2]) { label(head, 24, 48) } else { None });
    }
    // Members of RAID, LVM and ZFS are tried before file systems, since a member of a RAID 1 also looks like the file
    // system on the RAID.
    if (0..4).any(|sector| at(head, sector * 512, b"LABELONE") && at(head, sector * 512 + 24, b"LVM2 001")) {
        return found("LVM2_member", None);
    }
    for offset in [0, 4096] {
        if le32(head, offset) == Some(0xa92b_4efc) && le32(head, offset + 4) == Some(1) {
            return found("linux_raid_member", label(head, offset + 32, 32));
        }
    }
    if (0..128).any(|slot| {
        let uberblock = head.get(0x2_0000 + slot * 1024..);
        uberblock.is_some_and(|u| at(u, 0, &0x00ba_b10c_u64.to_le_bytes()) || at(u, 0, &0x00ba_b10c_u64.to_be_bytes()))
    }) {
        return found("zfs_member", None);
    }
    if at(head, 0, b"XFSB") {
        return found("xfs", label(head, 108, 12));
    }
    if at(head, 0x1_0040, b"_BHRfS_M") {
        return found("btrfs", label(head, 0x1_0000 + 299, 256));
    }
    if at(head, 1024 + 56, &[0x53, 0xef]) {
        let journal = le32(head, 1024 + 92).is_some_and(|compat| compat & 4 != 0);
        let modern = le32(head, 1024 + 96).is_some_and(|incompat| incompat & !0x1f != 0);
        let kind = match (journal, modern) {
            (_, true) => "ext4",
            (true, false) => "ext3",
            (false, false) => "ext2",
        };
        return found(kind, label(head, 1024 + 120, 16));
    }
    for page in [4096, 8192, 16384, 65536] {
        if at(head, page - 10, b"SWAPSPACE2") {
            return found("swap", label(head, 1024 + 28, 16));
        }
    }
    if at(head, 32769, b"CD001") {
        return found("iso9660", label(head, 32808, 32));
    }
    if at(head, 0, b"hsqs") {
        return found("squashfs", None);
    }
    if at(head, 1024, &0xf2f5_2010_u32.to_le_bytes()) {
        return found("f2fs", None);
    }
    if at(head, 3, b"NTFS    ") {
        return found("ntfs", None);
    }
    if at(head, 510, &[0x55, 0xaa]) {
        if at(head, 82, b"FAT32") {
            return found("vfat", label(head, 71, 11));
        }
        if at(head, 54, b"FAT1") {
            return found("vfat", label(head, 43, 11));
        }
        if at(head, 3, b"EXFAT   ") {
            return found("exfat", None);
        }
    }
    None
}

/// The partition table on a disk that begins with `head`.
pub fn table(head: &[u8]) -> Option<&'static str> {
    if at(head, 512, b"EFI PART") || at(head, 4096, b"EFI PART") {
        return Some("gpt");
    }
    if !at(head, 510, &[0x55, 0xaa]) || content(head).is_some() {
        return None;
    }
    // The boot sector of a file system ends with the same two bytes as a partition table, so the entries must make
    // sense too.
    let entries: Vec<_> = (0..4).map(|i| &head[446 + 16 * i..462 + 16 * i]).collect();
    let sound = entries.iter().all(|e| matches!(e[0], 0 | 0x80));
    let used = entries.iter().any(|e| e[4] != 0 && e[12..16] != [0; 4]);
    (sound && used).then_some("dos")
}

#[cfg(test)]
#[path = "signature_tests.rs"]
mod tests;
