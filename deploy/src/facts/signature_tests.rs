use super::*;

fn with(parts: &[(usize, &[u8])]) -> Vec<u8> {
    let mut head = vec![0; HEAD];
    for (at, bytes) in parts {
        head[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    head
}

#[test]
fn contents() {
    let lvm: &[(usize, &[u8])] = &[(512, b"LABELONE"), (536, b"LVM2 001")];
    for (parts, kind, label) in [
        (
            &[(1080, &[0x53, 0xef][..]), (1116, &[0x3c]), (1120, &[0x42, 0x02]), (1144, b"root")][..],
            "ext4",
            Some("root"),
        ),
        (&[(1080, &[0x53, 0xef]), (1116, &[4]), (1120, &[2])], "ext3", None),
        (&[(1080, &[0x53, 0xef])], "ext2", None),
        (&[(0, b"XFSB"), (108, b"data")], "xfs", Some("data")),
        (&[(0x1_0040, b"_BHRfS_M"), (0x1_012b, b"pool")], "btrfs", Some("pool")),
        (&[(510, &[0x55, 0xaa]), (82, b"FAT32   "), (71, b"EFI        ")], "vfat", Some("EFI")),
        (&[(510, &[0x55, 0xaa]), (54, b"FAT16   "), (43, b"NO NAME    ")], "vfat", None),
        (&[(4086, b"SWAPSPACE2"), (1052, b"swap0")], "swap", Some("swap0")),
        (&[(0, b"LUKS\xba\xbe\0\x02"), (24, b"secret")], "crypto_LUKS", Some("secret")),
        (&[(0, b"LUKS\xba\xbe\0\x01aes")], "crypto_LUKS", None),
        (lvm, "LVM2_member", None),
        (
            &[(4096, &0xa92b_4efc_u32.to_le_bytes()), (4100, &[1]), (4128, b"host:0")],
            "linux_raid_member",
            Some("host:0"),
        ),
        (&[(0x2_0000 + 32 * 1024, &0x00ba_b10c_u64.to_le_bytes())], "zfs_member", None),
        (&[(32769, b"CD001"), (32808, b"DEBIAN")], "iso9660", Some("DEBIAN")),
    ] {
        let found = content(&with(parts)).unwrap_or_else(|| panic!("{kind} was not recognised"));
        assert_eq!((found.kind, found.label.as_deref()), (kind, label));
    }
    assert_eq!(content(&with(&[])), None);
    assert_eq!(content(b""), None);
}

#[test]
fn tables() {
    let entry = [0x80, 0, 2, 0, 0x83, 0xff, 0xff, 0xff, 0, 8, 0, 0, 0, 0, 0x40, 0];
    let dos = with(&[(446, &entry), (510, &[0x55, 0xaa])]);
    assert_eq!(table(&dos), Some("dos"));
    assert_eq!(table(&with(&[(510, &[0x55, 0xaa]), (512, b"EFI PART")])), Some("gpt"));
    assert_eq!(table(&with(&[(4096, b"EFI PART")])), Some("gpt"));
    let fat = with(&[(446, &entry), (510, &[0x55, 0xaa]), (82, b"FAT32   ")]);
    assert_eq!(table(&fat), None, "a file system's boot sector is no partition table");
    assert_eq!(table(&with(&[(510, &[0x55, 0xaa])])), None);
    assert_eq!(table(&dos[..300]), None);
}

/// What mkfs really writes is recognised, where the tools are installed.
#[test]
fn real_file_systems() {
    let dir = tempfile::tempdir().unwrap();
    let mut tried = 0;
    for (command, kind) in
        [("mkfs.ext4 -q -F -L hello", "ext4"), ("mkswap -L hello", "swap"), ("mkfs.vfat -n hello", "vfat")]
    {
        let path = dir.path().join(kind);
        std::fs::File::create(&path).unwrap().set_len(64 << 20).unwrap();
        let script = format!("PATH=$PATH:/sbin:/usr/sbin; {command} {}", path.display());
        let made = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        if made.status.success() {
            tried += 1;
            let bytes = std::fs::read(&path).unwrap();
            let found = content(&bytes[..HEAD]).unwrap();
            assert_eq!(found.kind, kind);
            assert_eq!(found.label.map(|label| label.to_lowercase()).as_deref(), Some("hello"));
        }
    }
    assert!(tried > 0, "mkswap and mkfs.ext4 are on every Debian");
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..2048), at in 0..4_usize) {
        let magics: [(usize, &[u8]); 4] =
            [(0, b"XFSB"), (1080, &[0x53, 0xef]), (0, b"LUKS\xba\xbe"), (510, &[0x55, 0xaa])];
        let mut bytes = bytes;
        let (place, magic) = magics[at];
        if bytes.len() >= place + magic.len() {
            bytes[place..place + magic.len()].copy_from_slice(magic);
        }
        content(&bytes);
        table(&bytes);
    }
}
