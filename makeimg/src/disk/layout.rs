//! Where partitions are: those that are kept stay, and the others get what is free.
//!
//! From the disk's beginning: where GRUB starts the system, room for GRUB itself (a BIOS boot partition, with a GPT
//! only) and an EFI system partition; then file systems of a given size; and last the one that has the rest, so that it
//! can grow.

use std::fmt::Write as _;

use super::geometry::{END, FIRST, MIB, SECTOR};
use super::old::{Kept, Old};
use super::seed::Seed;
use crate::luks::Key;
use crate::problem::Problem;
use crate::volumes::{At, Size, Volume};
use crate::words::{Filesystem, Table};

/// Room for GRUB's image on a GPT, in bytes.
const BIOS_BOOT: u64 = MIB;
/// The EFI system partition's size in bytes. FAT32 takes 33 MiB at least.
const ESP: u64 = 64 * MIB;
/// The least room for a file system, in bytes.
const LEAST: u64 = 32 * MIB;
/// The least room for an encrypted file system, in bytes: LUKS2's header takes 16 MiB, and making room for it 16 more.
const LEAST_LUKS: u64 = 64 * MIB;
/// Where an MBR's partitions must end, in bytes: it counts sectors with 32 bits.
const MSDOS_END: u64 = SECTOR << 32;

/// A raw image, and what is wanted of it.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Bytes.
    pub size: u64,
    /// Its partition table.
    pub table: Table,
    /// Where `volumes` say no other.
    pub filesystem: Filesystem,
    /// Whether GRUB will start it.
    pub grub: bool,
    /// What it is divided into, mount points after those above them.
    pub volumes: Vec<Volume>,
    /// What ids come from that are not to be random: those of an image that is to be reproducible.
    pub seed: Option<Seed>,
    /// Passphrases of encrypted volumes, by their names.
    pub keys: Vec<(String, Key)>,
}

/// What a partition is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// GRUB's image.
    BiosBoot,
    /// What UEFI starts from.
    Esp,
    /// A file system or swap, by its place in `volumes`.
    Volume(usize),
}

/// A partition to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// In the table, from 1.
    pub number: u32,
    /// Its first byte.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// What it is for.
    pub role: Role,
}

impl Wanted {
    /// What a volume is made as.
    pub fn filesystem_of(&self, volume: &Volume) -> Filesystem {
        volume.filesystem.unwrap_or(self.filesystem)
    }

    /// Programs that are needed.
    pub fn tools(&self) -> Vec<&'static str> {
        let mut tools = vec!["sfdisk", "losetup", "mount", "blkid"];
        for volume in &self.volumes {
            tools.push(match (&volume.at, volume.size) {
                (_, None) => continue,
                (At::Swap, _) => "mkswap",
                _ => self.filesystem_of(volume).mkfs(),
            });
        }
        if self.volumes.iter().any(|volume| volume.luks.is_some()) {
            tools.push("cryptsetup");
        }
        if self.volumes.iter().any(|volume| volume.subvolume.is_some()) {
            tools.push("btrfs");
        }
        if self.grub {
            tools.push("mkfs.vfat");
        }
        if self.seed.is_some() {
            tools.extend(["debugfs", "dumpe2fs"]);
            // What the kernel writes to FAT has the time at which it does so.
            tools.extend(self.grub.then_some("mcopy"));
        }
        tools
    }

    /// Finds a place for everything that is to be made.
    ///
    /// # Errors
    /// There is no room, or the table has no entry left, or is of a kind that ends before the disk does.
    pub fn place(&self, kept: &[Kept]) -> Result<Vec<Part>, Problem> {
        for volume in self.volumes.iter().filter(|volume| volume.subvolume.is_some() && !volume.is_shared()) {
            let kind = self.filesystem_of(volume);
            if kind != Filesystem::Btrfs {
                let what = format!("filesystems: {}: Btrfs has subvolumes, {} has none", volume.name(), kind.word());
                return Err(Problem::build(what).hint("say btrfs in that line, or in `format`"));
            }
        }
        for volume in self.volumes.iter().filter(|volume| volume.size.is_some() && volume.path().is_some()) {
            let kind = self.filesystem_of(volume);
            let problem =
                |what: String, hint: &str| Problem::build(format!("filesystems: {}: {what}", volume.name())).hint(hint);
            if volume.path() == Some("/") && !kind.has_owners() {
                let what = format!("files in {} have neither owners nor modes, and a system's must", kind.word());
                return Err(problem(what, "say another file system in that line, or in `format`"));
            }
            if volume.label.len() > kind.longest_label() {
                let what = format!("the label {:?} is longer than {}'s may be", volume.label, kind.word());
                return Err(problem(what, "say another with LABEL=…, of 11 characters at most"));
            }
        }
        if self.table == Table::Msdos && self.size > MSDOS_END {
            let what = "a partition table of the kind `msdos` ends at 2 TiB, and the disk does not";
            return Err(Problem::build(what).hint("say gpt in `format`"));
        }
        let mut gaps = self.gaps(kept);
        let no_room = |what: &str, size, free| no_room(self.size, what, size, free);
        let mut parts: Vec<Part> = Vec::new();
        let mut put = |role, (start, size)| parts.push(Part { number: 0, start, size, role });
        if self.grub && self.table == Table::Gpt {
            put(Role::BiosBoot, take(&mut gaps, BIOS_BOOT).map_err(|free| no_room("GRUB", BIOS_BOOT, free))?);
        }
        if self.grub {
            put(Role::Esp, take(&mut gaps, ESP).map_err(|free| no_room("the EFI system partition", ESP, free))?);
        }
        // The root is the first of `volumes`, but gets its place after the others that have a size.
        let made = || {
            let is_made = |index: &usize| !kept.iter().any(|kept| kept.volume == *index);
            (1..self.volumes.len()).chain([0]).filter(is_made).map(|index| (index, &self.volumes[index]))
        };
        for (index, volume) in made() {
            if let Some(Size::Bytes(size)) = volume.size {
                let place = take(&mut gaps, size).map_err(|free| no_room(volume.name(), size, free))?;
                put(Role::Volume(index), place);
            }
        }
        for (index, volume) in made().filter(|(_, volume)| volume.size == Some(Size::Rest)) {
            let largest = gaps.iter().copied().max_by_key(|(start, end)| end - start).unwrap_or((FIRST, FIRST));
            let size = largest.1 - largest.0;
            if size < LEAST {
                return Err(no_room(volume.name(), LEAST, size));
            }
            put(Role::Volume(index), (largest.0, size));
        }
        for part in &parts {
            let Role::Volume(index) = part.role else { continue };
            let volume = &self.volumes[index];
            if volume.luks.is_some() && part.size < LEAST_LUKS {
                return Err(no_room(volume.name(), LEAST_LUKS, part.size.min(LEAST_LUKS - MIB)));
            }
        }
        self.number(&mut parts, kept)?;
        Ok(parts)
    }

    /// First byte and end of what is free, in whole MiB.
    fn gaps(&self, kept: &[Kept]) -> Vec<(u64, u64)> {
        // A table may say what no disk has.
        let end_of = |kept: &Kept| kept.start.checked_add(kept.size)?.checked_next_multiple_of(MIB);
        let mut taken: Vec<(u64, u64)> =
            kept.iter().map(|kept| (kept.start / MIB * MIB, end_of(kept).unwrap_or(u64::MAX))).collect();
        taken.sort_unstable();
        let end = (self.size / MIB * MIB).saturating_sub(END);
        let mut gaps = Vec::new();
        let mut at = FIRST;
        for (from, to) in taken.into_iter().chain([(end, end)]) {
            let from = from.min(end);
            if from > at {
                gaps.push((at, from));
            }
            at = at.max(to);
        }
        gaps
    }

    /// The root is partition 1, the EFI system partition 2 and so on, but for what those that are kept have.
    fn number(&self, parts: &mut [Part], kept: &[Kept]) -> Result<(), Problem> {
        let most = if self.table == Table::Gpt { 128 } else { 4 };
        let mut free = (1..=most).filter(|number| !kept.iter().any(|kept| kept.number == *number));
        let rank = |part: &Part| match part.role {
            Role::Volume(0) => 0,
            Role::Esp => 1,
            Role::BiosBoot => 2,
            Role::Volume(index) => 2 + index,
        };
        let mut order: Vec<usize> = (0..parts.len()).collect();
        order.sort_by_key(|&at| rank(&parts[at]));
        for at in order {
            parts[at].number = free.next().ok_or_else(|| {
                Problem::build(format!(
                    "a partition table of the kind `{}` has {most} entries at most",
                    self.table.word()
                ))
                .hint("gpt in `format` has more")
            })?;
        }
        Ok(())
    }

    /// What sfdisk(8) reads.
    pub fn script(&self, parts: &[Part], old: Option<&Old>, kept: &[Kept]) -> String {
        let gpt = self.table == Table::Gpt;
        let mut script = format!("label: {}\n", if gpt { "gpt" } else { "dos" });
        if let Some(old) = old {
            let _ = writeln!(script, "label-id: {}", old.id);
        } else if let Some(seed) = &self.seed {
            let id = if gpt { seed.uuid("disk") } else { format!("{:#010x}", seed.number("disk")) };
            let _ = writeln!(script, "label-id: {id}");
        }
        let mut lines: Vec<(u32, String)> = kept.iter().map(|kept| (kept.number, kept.line.clone())).collect();
        for part in parts {
            let kind = match (part.role, gpt) {
                // Discoverable Partitions Specification; UEFI specification 2.10, 5.3.3.
                (Role::BiosBoot, _) => "21686148-6449-6E6F-744E-656564454649",
                (Role::Esp, true) => "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
                (Role::Esp, false) => "ef",
                (Role::Volume(0), true) => "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",
                (Role::Volume(0), false) => "83, bootable",
                (Role::Volume(index), _) => match (&self.volumes[index].at, gpt) {
                    (At::Swap, true) => "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F",
                    (At::Swap, false) => "82",
                    (_, true) => "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
                    (_, false) => "83",
                },
            };
            // In units that do not depend on the disk's sectors.
            let mut place = format!("start={}MiB, size={}MiB, type={kind}", part.start / MIB, part.size / MIB);
            if let Some(seed) = self.seed.as_ref().filter(|_| gpt) {
                let _ = write!(place, ", uuid={}", seed.uuid(&format!("partition {}", part.number)));
            }
            lines.push((part.number, place));
        }
        lines.sort();
        for (number, line) in lines {
            let _ = writeln!(script, "{number} : {line}");
        }
        script
    }
}

/// Takes `size` from the first gap that is large enough, and returns start and size of what was taken. The error is the
/// size of the largest gap.
fn take(gaps: &mut [(u64, u64)], size: u64) -> Result<(u64, u64), u64> {
    let size = size.next_multiple_of(MIB);
    let Some(gap) = gaps.iter_mut().find(|(start, end)| end - start >= size) else {
        return Err(gaps.iter().map(|(start, end)| end - start).max().unwrap_or(0));
    };
    gap.0 += size;
    Ok((gap.0 - size, size))
}

fn no_room(disk: u64, what: &str, size: u64, free: u64) -> Problem {
    let (disk, size, free) = (disk / MIB, size.div_ceil(MIB), free / MIB);
    let room = format!("{size} MiB are needed, and {free} MiB are free in one piece");
    Problem::build(format!("a disk of {disk} MiB has no room for {what}: {room}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volumes;

    fn wanted(mib: u64, table: Table, grub: bool, lines: &[&str]) -> Wanted {
        let volumes = lines.iter().map(|line| Volume::parse(line).unwrap()).collect();
        let volumes = volumes::together(volumes).unwrap();
        Wanted { size: mib * MIB, table, filesystem: Filesystem::Ext4, grub, volumes, seed: None, keys: Vec::new() }
    }

    fn kept(volume: usize, number: u32, start: u64, size: u64) -> Kept {
        let line = format!("start={}, size={}, type=83, uuid=THEIRS", start / SECTOR, size / SECTOR);
        Kept { volume, number, start, size, line, uuid: String::new(), kind: String::new() }
    }

    #[test]
    fn places() {
        let plain = wanted(1024, Table::Msdos, false, &[]).place(&[]).unwrap();
        assert_eq!(plain, [Part { number: 1, start: MIB, size: 1022 * MIB, role: Role::Volume(0) }]);
        let gpt = wanted(1024, Table::Gpt, true, &[]).place(&[]).unwrap();
        let numbers: Vec<_> = gpt.iter().map(|part| (part.number, part.start / MIB, part.size / MIB)).collect();
        assert_eq!(numbers, [(3, 1, 1), (2, 2, 64), (1, 66, 957)]);
        let dos = wanted(1024, Table::Msdos, true, &[]);
        let script = dos.script(&dos.place(&[]).unwrap(), None, &[]);
        assert_eq!(
            script,
            "label: dos\n1 : start=65MiB, size=958MiB, type=83, bootable\n2 : start=1MiB, size=64MiB, type=ef\n"
        );
    }

    #[test]
    fn what_is_kept_may_claim_to_end_nowhere() {
        let wanted = wanted(4096, Table::Gpt, false, &["/ rest", "/srv keep"]);
        for size in [u64::MAX, u64::MAX - 2048 * MIB, u64::MAX - 2047 * MIB] {
            let parts = wanted.place(&[kept(1, 1, 2048 * MIB, size)]).unwrap();
            assert_eq!((parts[0].start, parts[0].size), (MIB, 2047 * MIB));
        }
    }

    #[test]
    fn many_file_systems() {
        let wanted = wanted(4096, Table::Gpt, true, &["/srv rest", "/ 1G", "swap 500M", "/var 300M"]);
        let parts = wanted.place(&[]).unwrap();
        let what = |part: &Part| match part.role {
            Role::Volume(index) => wanted.volumes[index].name(),
            Role::Esp => "esp",
            Role::BiosBoot => "bios",
        };
        let shown: Vec<_> =
            parts.iter().map(|part| (what(part), part.number, part.start / MIB, part.size / MIB)).collect();
        let expected = [
            ("bios", 3, 1, 1),
            ("esp", 2, 2, 64),
            ("/var", 5, 66, 300),
            ("swap", 6, 366, 500),
            ("/", 1, 866, 1024),
            ("/srv", 4, 1890, 2205),
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn what_is_kept_stays() {
        let wanted = wanted(2048, Table::Gpt, true, &["/srv keep"]);
        // In the middle, and not in whole MiB.
        let kept = [kept(1, 1, 500 * MIB + SECTOR, 100 * MIB)];
        let parts = wanted.place(&kept).unwrap();
        let shown: Vec<_> = parts.iter().map(|part| (part.number, part.start / MIB, part.size / MIB)).collect();
        assert_eq!(shown, [(4, 1, 1), (3, 2, 64), (2, 601, 1446)]);
        let old = Old { table: Table::Gpt, id: "ID".into(), parts: Vec::new() };
        let script = wanted.script(&parts, Some(&old), &kept);
        assert!(
            script.starts_with("label: gpt\nlabel-id: ID\n1 : start=1024001, size=204800, type=83, uuid=THEIRS\n2 : ")
        );
    }

    #[test]
    fn subvolumes_are_of_btrfs() {
        let wanted = wanted(1024, Table::Gpt, false, &["/ subvol=@"]);
        assert_eq!(wanted.place(&[]).unwrap_err().what, "filesystems: /: Btrfs has subvolumes, ext4 has none");
        assert_eq!(Wanted { filesystem: Filesystem::Btrfs, ..wanted }.place(&[]).unwrap().len(), 1);
    }

    #[test]
    fn what_a_file_system_can_not_be() {
        let problem = |lines: &[&str]| wanted(1024, Table::Gpt, false, lines).place(&[]).unwrap_err().what;
        assert_eq!(
            problem(&["/ vfat"]),
            "filesystems: /: files in vfat have neither owners nor modes, and a system's must"
        );
        assert_eq!(
            problem(&["/data 100M exfat LABEL=twelve-chars"]),
            "filesystems: /data: the label \"twelve-chars\" is longer than exfat's may be"
        );
        assert!(wanted(1024, Table::Gpt, false, &["/ f2fs", "/boot 100M vfat"]).place(&[]).is_ok());
    }

    #[test]
    fn no_room() {
        let problem = |wanted: Wanted, kept: &[Kept]| wanted.place(kept).unwrap_err().what;
        assert_eq!(
            problem(wanted(60, Table::Gpt, true, &[]), &[]),
            "a disk of 60 MiB has no room for the EFI system partition: 64 MiB are needed, and 57 MiB are free in one \
             piece"
        );
        assert_eq!(
            problem(wanted(1024, Table::Gpt, true, &["/var 2G"]), &[]),
            "a disk of 1024 MiB has no room for /var: 2048 MiB are needed, and 957 MiB are free in one piece"
        );
        assert_eq!(
            problem(wanted(80, Table::Gpt, true, &["/srv keep"]), &[kept(1, 1, 67 * MIB, MIB)]),
            "a disk of 80 MiB has no room for /: 32 MiB are needed, and 11 MiB are free in one piece"
        );
        assert_eq!(
            problem(wanted(1024, Table::Msdos, true, &["/a 33M", "/b 33M", "/c 33M"]), &[]),
            "a partition table of the kind `msdos` has 4 entries at most"
        );
        assert_eq!(
            problem(wanted(3 << 20, Table::Msdos, true, &[]), &[]),
            "a partition table of the kind `msdos` ends at 2 TiB, and the disk does not"
        );
    }

    proptest::proptest! {
        /// Nothing overlaps, and nothing is outside of the disk or twice in its table.
        #[test]
        fn nothing_overlaps(
            sizes in proptest::collection::vec(1u64..200, 0..5),
            places in proptest::collection::vec((1u32..100, 2048u64..2_000_000, 1u64..400_000), 0..4),
            gpt: bool,
            grub: bool,
        ) {
            let mut lines: Vec<String> = sizes.iter().enumerate().map(|(n, size)| format!("/m{n} {size}M")).collect();
            let first = lines.len() + 1;
            let mut all: Vec<Kept> = Vec::new();
            for (n, &(number, start, size)) in places.iter().enumerate() {
                let new = kept(first + n, number, start * SECTOR, size * SECTOR);
                let apart = |other: &Kept| other.start + other.size <= new.start || new.start + new.size <= other.start;
                if all.iter().all(|other| apart(other) && other.number != number) {
                    all.push(Kept { volume: first + all.len(), ..new });
                }
            }
            lines.extend((0..all.len()).map(|n| format!("/k{n} keep")));
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            let wanted = wanted(2048, if gpt { Table::Gpt } else { Table::Msdos }, grub, &lines);
            if let Ok(parts) = wanted.place(&all) {
                let mut taken: Vec<_> = parts.iter().map(|part| (part.start, part.start + part.size)).collect();
                let is_inside = |&(from, to): &(u64, u64)| from >= FIRST && to <= 2047 * MIB && from < to;
                proptest::prop_assert!(taken.iter().all(is_inside));
                taken.extend(all.iter().map(|kept| (kept.start, kept.start + kept.size)));
                taken.sort_unstable();
                proptest::prop_assert!(taken.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{taken:?}");
                let mut numbers: Vec<u32> = parts.iter().map(|part| part.number).collect();
                numbers.extend(all.iter().map(|kept| kept.number));
                numbers.sort_unstable();
                proptest::prop_assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
            }
        }
    }
}
