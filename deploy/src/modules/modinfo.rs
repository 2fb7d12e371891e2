//! Reads the `.modinfo` section of modules, for firmware, and for kernels without depmod's files.

/// What a module says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModInfo {
    /// Names of the modules that it needs directly.
    pub depends: Vec<String>,
    /// Device patterns that it wants.
    pub aliases: Vec<String>,
    /// Modules that should be loaded before or after it.
    pub softdeps: Vec<String>,
    /// Files that it has the kernel load, by their paths in `/lib/firmware`.
    pub firmware: Vec<String>,
}

fn number<const N: usize>(bytes: &[u8], offset: usize) -> Option<u64> {
    let bytes = bytes.get(offset..offset.checked_add(N)?)?;
    Some(bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
}

/// The section `wanted` of a 64-bit little-endian ELF file.
fn section<'a>(elf: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    if elf.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let table = number::<8>(elf, 0x28)? as usize;
    let size = number::<2>(elf, 0x3a)? as usize;
    let count = number::<2>(elf, 0x3c)? as usize;
    let names = number::<2>(elf, 0x3e)? as usize;
    let header = |index: usize| elf.get(table.checked_add(index.checked_mul(size)?)?..);
    let body = |header: &[u8]| {
        let (offset, length) = (number::<8>(header, 0x18)? as usize, number::<8>(header, 0x20)? as usize);
        elf.get(offset..offset.checked_add(length)?)
    };
    let names = body(header(names)?)?;
    (0..count).find_map(|index| {
        let header = header(index)?;
        let name = names.get(number::<4>(header, 0)? as usize..)?;
        let name = name.split(|&b| b == 0).next()?;
        (name == wanted).then(|| body(header)).flatten()
    })
}

/// Reads the `.modinfo` section of an uncompressed module; `None` if `elf` is none.
pub fn parse(elf: &[u8]) -> Option<ModInfo> {
    let mut info = ModInfo::default();
    for entry in section(elf, b".modinfo")?.split(|&b| b == 0) {
        let Ok(entry) = std::str::from_utf8(entry) else { continue };
        match entry.split_once('=') {
            Some(("depends", names)) => {
                info.depends.extend(names.split(',').filter(|n| !n.is_empty()).map(|n| n.replace('-', "_")));
            }
            Some(("alias", pattern)) => info.aliases.push(pattern.into()),
            Some(("softdep", words)) => info.softdeps.push(words.into()),
            Some(("firmware", path)) => info.firmware.push(path.into()),
            _ => {}
        }
    }
    Some(info)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An ELF file with the sections `.shstrtab` and `.modinfo`.
    pub(crate) fn elf(modinfo: &[u8]) -> Vec<u8> {
        let names = b"\0.shstrtab\0.modinfo\0";
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let (names_at, modinfo_at) = (64_u64, 64 + names.len() as u64);
        elf.extend_from_slice(names);
        elf.extend_from_slice(modinfo);
        let table = elf.len() as u64;
        elf[0x28..0x30].copy_from_slice(&table.to_le_bytes());
        elf[0x3a..0x3c].copy_from_slice(&64_u16.to_le_bytes());
        elf[0x3c..0x3e].copy_from_slice(&2_u16.to_le_bytes());
        for (name, offset, length) in [(1_u32, names_at, names.len()), (11, modinfo_at, modinfo.len())] {
            let mut header = vec![0; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[0x18..0x20].copy_from_slice(&offset.to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(length as u64).to_le_bytes());
            elf.extend(header);
        }
        elf
    }

    #[test]
    fn modinfo() {
        // As in Debian's ext4.ko, shortened; the firmware is of bnx2x.ko.
        let section = b"softdep=pre: crc32c\0license=GPL\0alias=fs-ext4\0alias=ext3\0\
            firmware=bnx2x/bnx2x-e2-7.13.21.0.fw\0depends=mbcache,jbd2,crc16\0name=ext4\0";
        let info = parse(&elf(section));
        let expected = ModInfo {
            depends: vec!["mbcache".into(), "jbd2".into(), "crc16".into()],
            aliases: vec!["fs-ext4".into(), "ext3".into()],
            softdeps: vec!["pre: crc32c".into()],
            firmware: vec!["bnx2x/bnx2x-e2-7.13.21.0.fw".into()],
        };
        assert_eq!(info, Some(expected));
        assert_eq!(parse(b"\x7fELF\x01\x01 32 bit"), None);
        assert_eq!(parse(&elf(b"depends=\0")), Some(ModInfo::default()));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(
            bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300),
            at in 0..64_usize,
            byte in 0..=255_u8,
        ) {
            _ = parse(&bytes);
            let mut damaged = elf(b"depends=a\0");
            damaged[at] = byte;
            _ = parse(&damaged);
        }
    }
}
