//! What the first bytes of a kernel image say. Pure.
//!
//! Sources: the kernel's `Documentation/arch/x86/boot.rst` for bzImages; for unified kernel images the UAPI group's
//! specification "Unified Kernel Image", and "PE Format" of Microsoft's.

/// Number of first bytes that are enough for everything here: a bzImage has its version within 64 KiB after its first
/// sector, and what links executables puts the table of sections into the first 4 KiB.
pub const HEAD: usize = 0x1_0200 + 256;

/// The release that a bzImage with these first bytes says it is.
pub fn version(image: &[u8]) -> Result<String, String> {
    let no_kernel = || "it is no x86 kernel image (bzImage)".to_owned();
    if image.get(0x202..0x206) != Some(b"HdrS") || image.get(0x1fe..0x200) != Some(&[0x55, 0xaa]) {
        return Err(no_kernel());
    }
    let offset =
        image.get(0x20e..0x210).map(|b| usize::from(u16::from_le_bytes([b[0], b[1]]))).ok_or_else(no_kernel)?;
    let text = image.get(offset + 0x200..).filter(|_| offset != 0).ok_or("its header has no version")?;
    let word = text.split(|&b| b == b' ' || b == 0).next().unwrap_or_default();
    match std::str::from_utf8(word) {
        Ok(word) if !word.is_empty() && word.len() < 128 => Ok(word.to_owned()),
        _ => Err("its header has no readable version".into()),
    }
}

/// Where the kernels in a unified kernel image with these first bytes are: offset and length of each. There may be
/// several, as there may be several profiles.
pub fn in_uki(head: &[u8]) -> Vec<(u64, u64)> {
    sections(head).unwrap_or_default()
}

fn sections(head: &[u8]) -> Option<Vec<(u64, u64)>> {
    let number = |at: usize, size: usize| -> Option<usize> {
        let bytes = head.get(at..at + size)?;
        Some(bytes.iter().rev().fold(0, |value, &byte| value << 8 | usize::from(byte)))
    };
    // The DOS header says where the PE header is: a signature, then the COFF header, which says how many sections there
    // are and how long the optional header is between it and their table.
    let pe = number(0x3c, 4)?;
    if !head.starts_with(b"MZ") || head.get(pe..pe + 4)? != b"PE\0\0" {
        return None;
    }
    let (count, table) = (number(pe + 6, 2)?, pe + 24 + number(pe + 20, 2)?);
    let headers = (0..count).map(|index| table + index * 40).take_while(|header| header + 40 <= head.len());
    let kernels = headers.filter(|header| head[*header..].starts_with(b".linux\0\0"));
    let place = |header: usize| {
        // What is in memory may be shorter than what is in the file, which is filled up to a multiple.
        let (in_memory, in_file) = (number(header + 8, 4)?, number(header + 16, 4)?);
        let size = if in_memory == 0 { in_file } else { in_memory.min(in_file) };
        Some((number(header + 20, 4)? as u64, size as u64))
    };
    kernels.map(place).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A bzImage of this version, as long as it must be for what is looked at.
    pub(crate) fn bzimage(version: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 0x1000];
        image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x400_u16.to_le_bytes());
        image[0x600..0x600 + version.len()].copy_from_slice(version);
        image
    }

    /// The same with an EFI stub, so that it is a PE executable too.
    pub(crate) fn with_stub(mut image: Vec<u8>) -> Vec<u8> {
        let pe = pe(&[(b".setup\0\0", &[]), (b".text\0\0\0", &[])]);
        image[..0x1f0].copy_from_slice(&pe[..0x1f0]);
        image
    }

    /// A PE executable with these sections: the headers, then the sections, each filled up to a multiple of 512 bytes.
    pub(crate) fn pe(sections: &[(&[u8; 8], &[u8])]) -> Vec<u8> {
        const PE: usize = 0x80;
        const OPTIONAL: usize = 0xf0;
        const HEADERS: usize = 0x400;
        let mut file = vec![0; HEADERS];
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"MZ");
        put(0x3c, &(PE as u32).to_le_bytes());
        put(PE, b"PE\0\0");
        // x86-64, the number of sections, the optional header's length; that it is an executable; and PE32+.
        put(PE + 4, &0x8664_u16.to_le_bytes());
        put(PE + 6, &(sections.len() as u16).to_le_bytes());
        put(PE + 20, &(OPTIONAL as u16).to_le_bytes());
        put(PE + 22, &0x206_u16.to_le_bytes());
        put(PE + 24, &0x20b_u16.to_le_bytes());
        let mut end = HEADERS;
        for (index, (name, contents)) in sections.iter().enumerate() {
            let header = PE + 24 + OPTIONAL + index * 40;
            let filled = contents.len().next_multiple_of(512);
            put(header, *name);
            for (at, number) in [(8, contents.len()), (12, 0x1000 + end), (16, filled), (20, end)] {
                put(header + at, &(number as u32).to_le_bytes());
            }
            end += filled;
        }
        for (_, contents) in sections {
            file.extend_from_slice(contents);
            file.resize(file.len().next_multiple_of(512), 0);
        }
        file
    }

    #[test]
    fn versions() {
        // As in Debian 12's image.
        let debian = bzimage(b"6.1.0-13-cloud-amd64 (debian-kernel@lists.debian.org) #1 SMP");
        assert_eq!(version(&debian).as_deref(), Ok("6.1.0-13-cloud-amd64"));
        assert_eq!(version(&with_stub(debian)).as_deref(), Ok("6.1.0-13-cloud-amd64"));
        assert!(version(&bzimage(b"")).is_err());
        assert!(version(b"\x7fELF").is_err());
    }

    #[test]
    fn a_kernel_in_a_uki() {
        let (one, two) = (bzimage(b"6.8.9 x"), [7; 700]);
        let uki = pe(&[(b".osrel\0\0", b"ID=x\n"), (b".linux\0\0", &one), (b".initrd\0", &two), (b".linux\0\0", &two)]);
        let found = in_uki(&uki);
        let kernels: Vec<_> = found.iter().map(|(at, size)| &uki[*at as usize..(at + size) as usize]).collect();
        assert_eq!(kernels, [&one[..], &two[..]]);
        // Not every tool says how long a section is in memory.
        let mut bare = uki.clone();
        bare[0x80 + 24 + 0xf0 + 3 * 40 + 8..][..4].fill(0);
        assert_eq!(in_uki(&bare)[1], (found[1].0, 1024));
        for none in [&pe(&[(b".linux2\0", &one)]), &with_stub(one.clone()), &uki[..0x80], &uki[..0x170], b"MZ"] {
            assert_eq!(in_uki(none), []);
        }
        // One that says that it has more sections than it has.
        let mut cut = uki;
        cut[0x86..0x88].fill(0xff);
        cut.truncate(0x400);
        assert_eq!(in_uki(&cut).len(), 2);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..2048)) {
            _ = (version(&bytes), in_uki(&bytes));
        }
    }
}
