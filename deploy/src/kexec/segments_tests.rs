use super::*;

fn image() -> Vec<u8> {
    let mut image = vec![0x90; 0x10_0000];
    image[..0x1000].fill(0);
    image[0x1f1] = 27;
    image[0x201] = 0x6a;
    put(&mut image, 0x202, b"HdrS");
    put(&mut image, 0x206, &0x20f_u16.to_le_bytes());
    put(&mut image, 0x22c, &0x7fff_ffff_u32.to_le_bytes());
    put(&mut image, 0x230, &0x20_0000_u32.to_le_bytes());
    image[0x234] = 1;
    image[0x236] = 3;
    put(&mut image, 0x258, &0x100_0000_u64.to_le_bytes());
    put(&mut image, 0x260, &0x300_0000_u32.to_le_bytes());
    image
}

fn machine(free: Vec<Range>) -> Machine {
    let mut params = vec![0; 4096];
    params[7] = 0x50;
    params[0x1e9] = 1;
    Machine { free, map: vec![(0, 0x9_fc00, 1), (0x10_0000, 0x3fed_a000, 1)], params, efi: None, rsdp: None }
}

#[test]
fn a_gibibyte() {
    let layout = lay_out(&image(), 0x500_0001, "console=ttyS0", &machine(vec![(0x10_0000, 0x3ffd_a000)])).unwrap();
    assert_eq!(layout.kernel, (0x100_0000, 0x300_0000, 28 * 512));
    let (params, block) = &layout.params;
    assert_eq!(*params, 0x3ffd_8000);
    assert_eq!(layout.initramfs, 0x3afd_7000);
    assert_eq!(layout.entry, params + CODE);
    assert_eq!((u32_at(block, 0x218), u32_at(block, 0x21c)), (0x3afd_7000, 0x500_0001));
    assert_eq!(u32_at(block, 0x228), 0x3ffd_9000);
    assert_eq!(&block[CMDLINE as usize..][..14], b"console=ttyS0\0");
    assert_eq!((block[0x1e8], block[7], block[0x1e9], block[0x210]), (2, 0x50, 1, 0xd0));
    assert_eq!((u64_at(block, 0x2d0 + 20), u32_at(block, 0x2d0 + 36)), (0x10_0000, 1));
    assert_eq!(block[0x1ef], 0, "the sentinel says that the parameters are clean");
}

#[test]
fn little_room_below_four_gibibytes() {
    let layout =
        lay_out(&image(), 0x1000_0000, "", &machine(vec![(0x10_0000, 0x500_0000), (1 << 32, 3 << 32)])).unwrap();
    assert_eq!(layout.initramfs, (3 << 32) - 0x1000_0000);
    assert_eq!(u32_at(&layout.params.1, 0xc0), 2, "the high half of its address");
}

#[test]
fn what_cannot_be_loaded_is_said() {
    let good = machine(vec![(0x10_0000, 0x3ffd_a000)]);
    let mut old = image();
    old[0x206] = 0;
    let mut no_entry = image();
    no_entry[0x236] = 0;
    for (image, initramfs, machine, expected) in [
        (old, 1, &good, "no bzImage"),
        (no_entry, 1, &good, "64-bit"),
        (b"\x7fELF".to_vec(), 1, &good, "no bzImage"),
        (image(), 0x4000_0000, &good, "no room for the initramfs"),
        (image(), 1, &machine(vec![(0x10_0000, 0x20_0000)]), "no room for the kernel"),
        (image(), 1, &machine(vec![]), "no memory map"),
    ] {
        let error = lay_out(&image, initramfs, "", machine).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn the_code_fits_its_place() {
    assert!(code(u64::MAX / 2, 1).len() < 256);
    assert_eq!(gdt(0).len(), 42);
}

proptest::proptest! {
    #[test]
    fn nothing_overlaps(
        ranges in proptest::collection::vec((1_u64..0x1_0000, 1_u64..0x4_0000), 1..6),
        initramfs in 1_u64..0x2000_0000,
    ) {
        let mut at = 0;
        let free: Vec<Range> = ranges.into_iter().map(|(gap, pages)| {
            let start = at + gap * PAGE;
            at = start + pages * PAGE;
            (start, at)
        }).collect();
        let Ok(layout) = lay_out(&image(), initramfs, "", &machine(free.clone())) else { return Ok(()) };
        let mut taken = [
            (layout.kernel.0, layout.kernel.0 + layout.kernel.1),
            (layout.initramfs, layout.initramfs + initramfs.next_multiple_of(PAGE)),
            (layout.params.0, layout.params.0 + layout.params.1.len() as u64),
        ];
        taken.sort_unstable();
        proptest::prop_assert!(taken.windows(2).all(|pair| pair[0].1 <= pair[1].0));
        for piece in taken {
            proptest::prop_assert!(free.iter().any(|range| range.0 <= piece.0 && piece.1 <= range.1));
            proptest::prop_assert_eq!(piece.0 % PAGE, 0);
        }
    }
}
