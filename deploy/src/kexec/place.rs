//! Finds free places in physical memory, and makes the memory map for the new kernel.

use anemos_host::Root;

/// Bytes of a page, by which the kernel places.
pub const PAGE: u64 = 4096;

/// A range of physical addresses: the first, and the first after the range.
pub type Range = (u64, u64);

/// An entry of the new kernel's memory map: start, length, type.
pub type E820 = (u64, u64, u32);

/// Free RAM in `/proc/iomem`: "System RAM" without what is reserved inside it. The running kernel's own places count as
/// free, because nothing is written there before it has ended.
pub fn free_ram(iomem: &str) -> Vec<Range> {
    let mut free: Vec<Range> = Vec::new();
    let mut inside: Option<Range> = None;
    for line in iomem.lines() {
        let depth = line.len() - line.trim_start().len();
        let Some((range, name)) = line.trim().split_once(" : ") else { continue };
        let Some((start, end)) = range.split_once('-') else { continue };
        let (Ok(start), Ok(end)) = (u64::from_str_radix(start, 16), u64::from_str_radix(end, 16)) else { continue };
        let Some(end) = end.checked_add(1) else { continue };
        if depth == 0 {
            inside = (name == "System RAM" && start < end).then_some((start, end));
            free.extend(inside);
        } else if inside.is_some() && !name.starts_with("Kernel ") {
            free = without(&free, (start, end));
        }
    }
    free
}

/// The parts of `ranges` that are not in `taken`.
pub fn without(ranges: &[Range], taken: Range) -> Vec<Range> {
    let cut = |&(start, end): &Range| {
        let pieces = if taken.1 <= start || taken.0 >= end {
            [(start, end), (end, end)]
        } else {
            [(start, taken.0), (taken.1, end)]
        };
        pieces.into_iter().filter(|(start, end)| start < end)
    };
    ranges.iter().flat_map(cut).collect()
}

/// The lowest place for `size` bytes from `from` up, below `limit`, at a multiple of `align`.
pub fn lowest(free: &[Range], size: u64, align: u64, from: u64, limit: u64) -> Option<u64> {
    let fits = |&(start, end): &Range| {
        let at = start.max(from).checked_next_multiple_of(align)?;
        (at.checked_add(size)? <= end.min(limit)).then_some(at)
    };
    free.iter().filter_map(fits).min()
}

/// The highest place for `size` bytes below `limit`, from `from` up, at a page.
pub fn highest(free: &[Range], size: u64, from: u64, limit: u64) -> Option<u64> {
    let fits = |&(start, end): &Range| {
        let at = end.min(limit).checked_sub(size)? / PAGE * PAGE;
        (at >= start.max(from)).then_some(at)
    };
    free.iter().filter_map(fits).max()
}

/// The firmware's memory map, from `/sys/firmware/memmap`.
pub fn memory_map(root: &Root) -> Vec<E820> {
    let hex = |path: &str| u64::from_str_radix(root.text(path)?.trim_start_matches("0x"), 16).ok();
    let mut map: Vec<E820> = root
        .names("/sys/firmware/memmap")
        .into_iter()
        .filter_map(|name| {
            let dir = format!("/sys/firmware/memmap/{name}");
            let (start, end) = (hex(&format!("{dir}/start"))?, hex(&format!("{dir}/end"))?);
            let length = end.checked_sub(start)?.checked_add(1)?;
            Some((start, length, kind(&root.text(&format!("{dir}/type"))?)))
        })
        .collect();
    map.sort_unstable();
    map
}

/// The number of a memory type, by the kernel's name for it. Unknown types count as reserved.
fn kind(name: &str) -> u32 {
    match name {
        "System RAM" => 1,
        "ACPI Tables" => 3,
        "ACPI Non-volatile Storage" => 4,
        "Unusable memory" => 5,
        "Persistent Memory" => 7,
        "Persistent Memory (legacy)" => 12,
        "Soft Reserved" => 0xefff_ffff,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A virtual machine with 1 GiB and a crash kernel, as root sees it.
    const IOMEM: &str = "\
00000000-00000fff : Reserved
00001000-0009fbff : System RAM
0009fc00-0009ffff : Reserved
00100000-3ffd9fff : System RAM
  1c000000-1e2029ff : Kernel code
  30000000-37ffffff : Crash kernel
  3f000000-3f000fff : Reserved
3ffda000-3fffffff : Reserved
fd000000-fdffffff : 0000:00:02.0
";

    #[test]
    fn ram_that_is_free() {
        let expected =
            [(0x1000, 0x9_fc00), (0x10_0000, 0x3000_0000), (0x3800_0000, 0x3f00_0000), (0x3f00_1000, 0x3ffd_a000)];
        assert_eq!(free_ram(IOMEM), expected);
        assert_eq!(free_ram("00002000-00000fff : System RAM\n"), []);
        // What a user without privileges sees: every address is zero.
        assert_eq!(lowest(&free_ram("00000000-00000000 : System RAM\n"), 4096, 4096, 0, u64::MAX), None);
    }

    #[test]
    fn places() {
        let free = free_ram(IOMEM);
        assert_eq!(lowest(&free, 0x200_0000, 0x20_0000, 0x100_0000, 1 << 32), Some(0x100_0000));
        assert_eq!(highest(&free, 0x1000, 0, 1 << 32), Some(0x3ffd_9000));
        assert_eq!(highest(&free, 0x500_0000, 0, 1 << 32), Some(0x3a00_0000));
        assert_eq!(highest(&free, 0x1_0000_0000, 0, 1 << 32), None);
        assert_eq!(lowest(&free, u64::MAX, 0x20_0000, 0, u64::MAX), None);
    }

    proptest::proptest! {
        #[test]
        fn what_is_taken_is_gone(
            ranges in proptest::collection::vec((0_u64..100, 1_u64..40), 0..6),
            taken in (0_u64..100, 1_u64..40),
        ) {
            // Ranges that don't touch, as the kernel's.
            let mut at = 0;
            let ranges: Vec<Range> = ranges.into_iter().map(|(gap, length)| {
                let start = at + gap + 1;
                at = start + length;
                (start, at)
            }).collect();
            let taken = (taken.0, taken.0 + taken.1);
            let left = without(&ranges, taken);
            let holds = |ranges: &[Range], n| ranges.iter().filter(|r| (r.0..r.1).contains(&n)).count();
            for n in 0..at + 2 {
                let expected = usize::from(holds(&ranges, n) == 1 && !(taken.0..taken.1).contains(&n));
                proptest::prop_assert_eq!(holds(&left, n), expected);
            }
        }

        #[test]
        fn any_text_is_survived(text in "([0-9a-f]{1,17}-[0-9a-f]{1,17} : System RAM\n| ?.{0,40}\n){0,8}") {
            free_ram(&text);
        }
    }
}
