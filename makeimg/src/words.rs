//! Words that the values of an IMGBUILD's variables are made of. docs/IMGBUILD.md is the manual.

use serde::{Deserialize, Serialize};

/// What /etc/hosts has of every machine (hosts(5)).
pub const HOSTS: &str = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n";

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$item_doc:meta])* $item:ident = $word:literal $(| $also:literal)*,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$item_doc])* $item,)*
        }

        impl $name {
            /// The words, in the order of the manual, without other words for the same.
            pub const WORDS: &'static [&'static str] = &[$($word),*];

            /// As an IMGBUILD has it.
            pub fn from_word(word: &str) -> Option<Self> {
                match word {
                    $($word $(| $also)* => Some(Self::$item),)*
                    _ => None,
                }
            }

            /// As an IMGBUILD has it.
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$item => $word,)*
                }
            }
        }
    };
}

words! {
    /// Kind of partition table.
    Table {
        /// The PC's old one.
        Msdos = "msdos",
        /// GUID partition table.
        Gpt = "gpt",
    }
}

words! {
    /// Kind of file system.
    Filesystem {
        /// ext4.
        Ext4 = "ext4",
        /// ext3.
        Ext3 = "ext3",
        /// ext2.
        Ext2 = "ext2",
        /// XFS.
        Xfs = "xfs",
        /// Btrfs.
        Btrfs = "btrfs",
        /// The Flash-Friendly File System.
        F2fs = "f2fs",
        /// JFS.
        Jfs = "jfs",
        /// NILFS2.
        Nilfs2 = "nilfs2",
        /// FAT with long names.
        Vfat = "vfat",
        /// exFAT.
        Exfat = "exfat",
    }
}

impl Filesystem {
    /// Whether it is of the family of ext4, and so of its tools.
    pub fn is_ext(self) -> bool {
        matches!(self, Self::Ext4 | Self::Ext3 | Self::Ext2)
    }

    /// The program that makes it.
    pub fn mkfs(self) -> &'static str {
        match self {
            Self::Ext4 => "mkfs.ext4",
            Self::Ext3 => "mkfs.ext3",
            Self::Ext2 => "mkfs.ext2",
            Self::Xfs => "mkfs.xfs",
            Self::Btrfs => "mkfs.btrfs",
            Self::F2fs => "mkfs.f2fs",
            Self::Jfs => "mkfs.jfs",
            Self::Nilfs2 => "mkfs.nilfs2",
            Self::Vfat => "mkfs.vfat",
            Self::Exfat => "mkfs.exfat",
        }
    }

    /// The option of that program for a label.
    pub fn label_option(self) -> &'static str {
        match self {
            Self::F2fs => "-l",
            Self::Vfat => "-n",
            _ => "-L",
        }
    }

    /// The longest label, in characters, of those that makeimg gives.
    pub fn longest_label(self) -> usize {
        if matches!(self, Self::Vfat | Self::Exfat) { 11 } else { 12 }
    }

    /// Whether files in it have owners and modes, and can be links, which a system's own must.
    pub fn has_owners(self) -> bool {
        !matches!(self, Self::Vfat | Self::Exfat)
    }

    /// Whether a host that Anemos deploys can make it: the others' programs are not in its base.
    pub fn is_in_base(self) -> bool {
        self.is_ext() || matches!(self, Self::Xfs | Self::Btrfs | Self::Vfat)
    }
}

words! {
    /// How an archive is compressed: the ending of its name.
    Compression {
        /// Not at all.
        None = "none",
        /// gzip.
        Gzip = "gz" | "gzip",
        /// xz.
        Xz = "xz",
        /// zstd.
        Zstd = "zst" | "zstd",
        /// bzip2.
        Bzip2 = "bz2" | "bzip2",
    }
}

words! {
    /// How a SquashFS is compressed (mksquashfs(1)).
    Squash {
        /// zstd.
        Zstd = "zst" | "zstd",
        /// zlib.
        Gzip = "gz" | "gzip",
        /// xz.
        Xz = "xz",
        /// LZ4.
        Lz4 = "lz4",
        /// LZO.
        Lzo = "lzo",
    }
}

words! {
    /// What the file of a disk image is.
    Image {
        /// The disk's bytes.
        Raw = "raw",
        /// QEMU's format, compressed.
        Qcow2 = "qcow2",
    }
}

words! {
    /// What starts the kernel of a raw image.
    Bootloader {
        /// GRUB, for BIOS and UEFI.
        Grub = "grub",
        /// Nothing, or what `provision` installs.
        None = "none",
    }
}

/// Bytes of a size, as truncate(1) and parted's binary units have it: `8G` and `8GiB` are 8 x 2^30, `8GB` is 8 x 10^9.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub fn size(text: &str) -> Result<u64, (String, String)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let step = |base: u64| {
        let at = "KMGT".find(unit.chars().next()?.to_ascii_uppercase())?;
        base.checked_pow(at as u32 + 1)
    };
    let unit = match unit.get(1..) {
        None if unit.is_empty() => Some(1),
        Some("" | "iB") => step(1024),
        Some("B") => step(1000),
        // Also what begins with a character of several bytes.
        None | Some(_) => None,
    };
    let bytes = number.parse().ok().zip(unit).and_then(|(number, unit): (u64, u64)| number.checked_mul(unit));
    match bytes {
        // Places in a file are numbers with a sign (lseek(2)).
        Some(bytes) if bytes > i64::MAX as u64 => Err((format!("{text} is more than any disk has"), "say less".into())),
        Some(bytes) if bytes >= 1 << 20 => Ok(bytes),
        Some(bytes) => Err((format!("{bytes} bytes are no disk"), "say the unit, such as 8G".into())),
        None => Err((format!("{text:?} is no size"), "such as 8G, 900M or 20GB".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [("8G", 8 << 30), ("8GiB", 8 << 30), ("8GB", 8_000_000_000), ("900m", 900 << 20)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "8", "G", "8X", "8Gb", "9000000\u{e9}", "8\u{e9}B", "99999999999G", "9223372036854775808"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
