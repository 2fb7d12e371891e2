use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use super::*;

/// Counters of disks that are the first of their names.
fn counts(pairs: &[(&str, u64)]) -> Counts {
    lives(&pairs.iter().map(|(name, sectors)| (*name, *sectors, "1")).collect::<Vec<_>>())
}

fn lives(disks: &[(&str, u64, &str)]) -> Counts {
    let one = |(name, sectors, life): &(&str, u64, &str)| {
        ((*name).to_owned(), Count { sectors: *sectors, life: (*life).to_owned() })
    };
    disks.iter().map(one).collect()
}

#[test]
fn written_is_what_grew() {
    let before = counts(&[("sda", 8), ("sdb", 0)]);
    assert_eq!(written(&before, &before), []);
    let now = counts(&[("sda", 8), ("sdb", 3), ("sdc", 1)]);
    assert_eq!(written(&before, &now), [("sdb".to_owned(), 3), ("sdc".to_owned(), 1)]);
    let another = lives(&[("sda", 5, "2"), ("sdb", 0, "1")]);
    assert_eq!(written(&before, &another), [("sda".to_owned(), 5)], "the new sda has counted from zero");
}

#[test]
fn a_disk_that_went_took_its_counter_along() {
    let before = counts(&[("sda", 8), ("sdb", 0), ("sdc", 5)]);
    assert!(uncounted(&before, &counts(&[("sda", 8), ("sdb", 3), ("sdc", 5), ("sdd", 0)])).is_empty());
    assert_eq!(uncounted(&before, &counts(&[("sda", 8), ("sdc", 0)])), ["sdb", "sdc"], "pulled, and its counter anew");
    let again = lives(&[("sda", 8, "1"), ("sdb", 0, "4"), ("sdc", 9, "5")]);
    assert_eq!(uncounted(&before, &again), ["sdb", "sdc"], "plugged in again, however much was written since");
}

#[test]
fn what_a_hidden_path_wrote_is_its_disks() {
    let before = counts(&[("nvme1c4n2", 10), ("nvme1c5n2", 0), ("nvme1n2", 0)]);
    let disk = |sectors| vec![("nvme1n2".to_owned(), sectors)];
    assert_eq!(written(&before, &before), []);
    let old_kernel = counts(&[("nvme1c4n2", 15), ("nvme1c5n2", 2), ("nvme1n2", 0)]);
    assert_eq!(written(&before, &old_kernel), disk(7));
    let new_kernel = counts(&[("nvme1c4n2", 15), ("nvme1c5n2", 2), ("nvme1n2", 7)]);
    assert_eq!(written(&before, &new_kernel), disk(7));
    let path_gone = counts(&[("nvme1c5n2", 2), ("nvme1n2", 7)]);
    assert_eq!(written(&before, &path_gone), disk(7));
    let much = counts(&[("nvme1c4n2", u64::MAX), ("nvme1c5n2", u64::MAX)]);
    assert_eq!(written(&counts(&[]), &much), disk(u64::MAX));
}

#[test]
fn a_declared_disk_is_lost_when_it_is_gone_or_another() {
    let found = [("vda", "1"), ("vdb", "2")].map(|(name, life)| Found { name: name.into(), life: life.into() });
    let cases: [(&str, Counts, &[&str]); 4] = [
        ("both are here", lives(&[("vda", 0, "1"), ("vdb", 0, "2"), ("vdc", 0, "3")]), &[]),
        ("one is gone", lives(&[("vda", 0, "1")]), &["vdb"]),
        ("one was made anew", lives(&[("vda", 0, "4"), ("vdb", 0, "2")]), &["vda"]),
        ("they have changed their names", lives(&[("vda", 0, "2"), ("vdb", 0, "1")]), &["vda", "vdb"]),
    ];
    for (what, now, expected) in cases {
        assert_eq!(lost(&found, &now), expected, "{what}");
    }
}

/// A machine with one disk, in a directory.
struct Machine {
    _dir: tempfile::TempDir,
    paths: Paths,
}

impl Machine {
    fn new() -> io::Result<Self> {
        let dir = tempfile::tempdir()?;
        let paths = Paths::trial(dir.path(), SocketAddr::from((Ipv4Addr::LOCALHOST, 1)));
        fs::create_dir_all(&paths.run)?;
        fs::create_dir_all(dir.path().join("sys/block"))?;
        let machine = Self { _dir: dir, paths };
        machine.plug("slot1")?;
        machine.disk("slot1", &[("stat", "1 2 3 4 5 6 77 8 9\n"), ("diskseq", "9\n")])?;
        Ok(machine)
    }

    fn disk(&self, place: &str, texts: &[(&str, &str)]) -> io::Result<()> {
        let dir = self.paths.tree.at("/sys/devices").join(place);
        fs::create_dir_all(&dir)?;
        texts.iter().try_for_each(|(file, text)| fs::write(dir.join(file), text))
    }

    fn plug(&self, place: &str) -> io::Result<()> {
        let link = self.paths.tree.at("/sys/block/vda");
        let _ = fs::remove_file(&link);
        fs::create_dir_all(self.paths.tree.at("/sys/devices").join(place))?;
        std::os::unix::fs::symlink(Path::new("../devices").join(place), link)
    }

    fn life(&self) -> String {
        life(&self.paths.tree, "vda")
    }
}

#[test]
fn counters_are_read_and_stored() -> io::Result<()> {
    let machine = Machine::new()?;
    let paths = &machine.paths;
    assert_eq!(super::counts(&paths.tree), lives(&[("vda", 77, "9")]));
    let before = baseline(paths).unwrap();
    // As later kernels have it: discards, and what a flush took, after these.
    machine.disk("slot1", &[("stat", "1 2 3 4 5 6 77 8 9 10 11 12 13 1000 15 16 17\n")])?;
    assert_eq!(touched(paths, &before), [("vda".to_owned(), 1000)], "what is discarded is gone");
    assert_eq!(baseline(paths).unwrap(), before, "a later agent has the counters of the first");
    Ok(())
}

#[test]
fn a_disk_that_is_lost_counts_as_written_once_anybody_could_write() -> io::Result<()> {
    let machine = Machine::new()?;
    let paths = &machine.paths;
    let before = baseline(paths).unwrap();
    store(paths, &["vda".to_owned()])?;
    assert_eq!(found(paths).unwrap(), [Found { name: "vda".into(), life: "9".into() }]);
    machine.disk("slot1", &[("diskseq", "10\n"), ("stat", "0 0 0 0 0 0 0 0 0\n")])?;
    assert_eq!(touched(paths, &before), [], "it is read-only, and nobody was there");
    expose(paths);
    assert_eq!(touched(paths, &before), [("vda".to_owned(), 1)], "made anew");
    fs::remove_file(paths.tree.at("/sys/block/vda"))?;
    assert_eq!(touched(paths, &before), [("vda".to_owned(), 1)], "gone");
    machine.plug("slot1")?;
    machine.disk("slot1", &[("diskseq", "9\n"), ("stat", "1 2 3 4 5 6 77 8 9\n")])?;
    assert_eq!(touched(paths, &before), []);
    // The agent after this one finds it so as well.
    baseline(paths).unwrap();
    machine.disk("slot1", &[("diskseq", "11\n")])?;
    assert_eq!(touched(paths, &before).len(), 1);
    Ok(())
}

#[test]
fn a_kernel_without_numbers_for_disks_has_places() -> io::Result<()> {
    let machine = Machine::new()?;
    fs::remove_file(machine.paths.tree.at("/sys/devices/slot1/diskseq"))?;
    let first = machine.life();
    assert_eq!(machine.life(), first);
    machine.plug("slot2")?;
    let second = machine.life();
    assert_ne!(second, first, "another place");
    // Made while the old directory is still there, so that the inode is another one, as the kernel's are.
    let devices = machine.paths.tree.at("/sys/devices");
    fs::create_dir(devices.join("new"))?;
    fs::rename(devices.join("slot2"), devices.join("old"))?;
    fs::rename(devices.join("new"), devices.join("slot2"))?;
    assert_ne!(machine.life(), second, "the same place, made anew");
    Ok(())
}
