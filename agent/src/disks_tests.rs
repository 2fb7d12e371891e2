use std::fs;
use std::io;
use std::path::Path;

use proptest::prelude::*;

use super::*;

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// A disk with these ids; an empty one is none.
fn id(name: &str, wwid: &str, serial: &str, path: &str, size: u64) -> DiskId {
    DiskId { name: format!("/dev/{name}"), serial: some(serial), wwid: some(wwid), path: path.into(), size }
}

fn here(name: &str, wwid: &str, serial: &str, path: &str, size: u64) -> (String, DiskId) {
    (name.into(), id(name, wwid, serial, path, size))
}

const SATA: &str = "/sys/devices/pci0000:00/0000:00:1f.2";

/// Port `port` of a SATA controller whose ports the kernel numbers from `first`.
fn sata(first: u32, port: u32) -> String {
    let ata = first + port - 1;
    format!("{SATA}/ata{ata}.{port}/host{ata}/target{ata}:0:0/{ata}:0:0:0/block")
}

#[test]
fn a_disk_is_found_by_what_is_its_own() {
    let disks = [
        here("sda", "naa.1", "S1", &sata(1, 1), 100),
        here("sdb", "naa.2", "S2", &sata(1, 2), 100),
        here("sdc", "", "S3", &sata(1, 3), 100),
        here("sdd", "t10.ATA     MODEL               S4", "S4", &sata(1, 4), 100),
        here("vda", "", "", "/sys/devices/pci0/0000:00:04.0/virtio1/block", 50),
        here("vdb", "naa.9", "", "/sys/devices/pci0/0000:00:05.0/virtio2/block", 50),
    ];
    let cases = [
        ("world-wide id, wherever it is plugged in now", id("sdq", "naa.2", "S2", &sata(1, 1), 100), "sdb"),
        ("serial number", id("sdq", "", "S1", "", 100), "sda"),
        ("world-wide id, the serial number being unknown before", id("sdq", "naa.1", "", "", 100), "sda"),
        ("serial number, the world-wide id being unknown here", id("sdq", "naa.3", "S3", "", 100), "sdc"),
        ("ids that are padded otherwise", id("sdq", "t10.ATA MODEL  S4", "  S4 ", "", 100), "sdd"),
        ("place, with other numbers", id("vdq", "", "", "/sys/devices/pci0/0000:00:04.0/virtio7/block", 50), "vda"),
        (
            "place, an id being unknown before",
            id("vdq", "", "", "/sys/devices/pci0/0000:00:05.0/virtio0/block", 50),
            "vdb",
        ),
        ("an ATA port, numbered from another first one", id("sdq", "", "", &sata(7, 3), 100), "sdc"),
    ];
    for (what, id, name) in cases {
        assert_eq!(pick(&disks, &id, &[]).as_deref(), Ok(name), "{what}");
    }
}

/// In each case one disk is wanted, and the right one is not there or can't be told from others.
#[test]
fn no_other_disk_is_taken() {
    let nvme = |n: u32| format!("/sys/devices/virtual/nvme-subsystem/nvme-subsys{n}");
    let usb = |port: u32| {
        format!("/sys/devices/pci0/0000:00:14.0/usb2/2-{port}/2-{port}:1.0/host6/target6:0:0/6:0:0:0/block")
    };
    let lun = |host: u32| {
        format!("/sys/devices/pci0/0000:0{host}:00.0/host{host}/rport-{host}:0-2/target{host}:0:0/{host}:0:0:1/block")
    };
    let virtio = |slot: u32| format!("/sys/devices/pci0/0000:00:0{slot}.0/virtio{slot}/block");
    let iscsi = |n: u32| format!("/sys/devices/platform/host{n}/session{n}/target{n}:0:0/{n}:0:0:1/block");
    let cases = [
        (
            "the next of two equal disks at one controller",
            id("sda", "naa.A", "A", &sata(1, 1), 100),
            vec![here("sda", "naa.B", "B", &sata(1, 2), 100)],
            "is not here: sda has the serial number B and the world-wide id naa.B",
        ),
        (
            "a new disk in its very place",
            id("sda", "", "A", &sata(1, 1), 100),
            vec![here("sda", "", "B", &sata(1, 1), 100)],
            "is not here: sda has the serial number B",
        ),
        (
            "the head of another NVMe subsystem that gets its number",
            id("nvme0n1", "eui.A", "A", &nvme(0), 100),
            vec![here("nvme0n1", "eui.B", "B", &nvme(0), 100), here("vda", "", "V", &virtio(4), 60)],
            "(serial A, world-wide id eui.A, 100 bytes) is not here: nvme0n1 has the serial number B and the \
             world-wide id eui.B; vda has the serial number V and 60 bytes",
        ),
        (
            "another namespace of one NVMe disk",
            id("nvme0n1", "eui.A1", "A", &nvme(0), 100),
            vec![here("nvme0n2", "eui.A2", "A", &nvme(0), 100)],
            "nvme0n2 has the world-wide id eui.A2",
        ),
        (
            "an NVMe head without any id, which has no place",
            id("nvme0n1", "", "", &nvme(0), 100),
            vec![here("nvme0n1", "", "", &nvme(0), 100)],
            "nvme0n1 is at another place",
        ),
        (
            "paths to one disk",
            id("sda", "naa.L", "L", &lun(2), 100),
            vec![here("sda", "naa.L", "L", &lun(2), 100), here("sdb", "naa.L", "L", &lun(3), 100)],
            "can't be told from others: sda is one, at /sys/devices/pci0/0000:02:00.0/",
        ),
        (
            "a clone with its serial number",
            id("vda", "", "clone", &virtio(4), 100),
            vec![here("vda", "", "clone", &virtio(4), 100), here("vdb", "", "clone", &virtio(5), 100)],
            "; vdb is one, at /sys/devices/pci0/0000:00:05.0/",
        ),
        (
            "a clone of another size",
            id("vda", "", "clone", &virtio(4), 100),
            vec![here("vdb", "", "clone", &virtio(5), 101)],
            "vdb has 101 bytes",
        ),
        (
            "a disk that shows no id where one is wanted",
            id("sda", "naa.A", "A", &sata(1, 1), 100),
            vec![here("sda", "", "", &sata(1, 1), 100)],
            "sda shows none of these ids",
        ),
        (
            "a world-wide id in another form, though all else agrees",
            id("sda", "t10.ATA     MODEL A", "A", &sata(1, 1), 100),
            vec![here("sda", "naa.A", "A", &sata(1, 1), 100)],
            "sda has a world-wide id of another form, naa.A, which can't be compared",
        ),
        (
            "the neighbouring port, neither disk having an id",
            id("sda", "", "", &sata(1, 1), 100),
            vec![here("sda", "", "", &sata(1, 2), 100)],
            "sda is at another place",
        ),
        (
            "a port that is only known by its number in the machine",
            id("sda", "", "", "/sys/devices/pci0/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block", 100),
            vec![here("sda", "", "", "/sys/devices/pci0/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block", 100)],
            "sda is at another place",
        ),
        (
            "another session's disk",
            id("sda", "", "", &iscsi(1), 100),
            vec![here("sda", "", "", &iscsi(1), 100)],
            "sda is at another place",
        ),
        ("nothing at all", id("sda", "naa.A", "A", &sata(1, 1), 100), vec![], "is not here: no disk is"),
    ];
    for (what, wanted, disks, says) in cases {
        let error = pick(&disks, &wanted, std::slice::from_ref(&wanted)).expect_err(what);
        assert!(error.contains(says), "{what}: {error}");
        assert!(error.contains(&wanted.name), "{what}: {error}");
    }

    // Two USB bridges with a fixed serial number: which one is left can't be told.
    let bridges = [id("sda", "", "0123456789ABCDEF", &usb(1), 100), id("sdb", "", "0123456789ABCDEF", &usb(2), 100)];
    let left = [here("sda", "", "0123456789ABCDEF", &usb(2), 100)];
    let error = pick(&left, &bridges[0], &bridges).unwrap_err();
    assert!(error.contains("the old system's /dev/sda and /dev/sdb can't be told apart"), "{error}");
}

/// Ids of few different values, so that disks often share some of them.
fn any_id() -> impl Strategy<Value = DiskId> {
    let text = |values: &'static [&'static str]| proptest::sample::select(values).prop_map(some);
    (
        text(&["", "naa.A", "naa.B", "t10.A", "t10.A  B", "t10.A B"]),
        text(&["", "A", " A ", "B"]),
        proptest::sample::select(&["", "/sys/devices/pci0/virtio0/block", "/sys/devices/pci1/virtio0/block"][..]),
        1..3_u64,
    )
        .prop_map(|(wwid, serial, path, size)| DiskId {
            name: "/dev/x".into(),
            serial,
            wwid,
            path: path.into(),
            size,
        })
}

proptest! {
    #[test]
    fn what_contradicts_is_never_taken(
        wanted in any_id(),
        seen in proptest::collection::vec(any_id(), 0..6),
        known in proptest::collection::vec(any_id(), 0..4),
    ) {
        let disks: Vec<(String, DiskId)> =
            seen.into_iter().enumerate().map(|(n, disk)| (format!("sd{n}"), disk)).collect();
        let Ok(name) = pick(&disks, &wanted, &known) else { return Ok(()) };
        let taken = &disks.iter().find(|(other, _)| *other == name).unwrap().1;
        let squeezed = |id: &Option<String>| id.as_ref().map(|id| id.split_whitespace().collect::<Vec<_>>().join(" "));
        let same = |a: &Option<String>, b: &Option<String>| a.is_some() && squeezed(a) == squeezed(b);
        let differ = |a: &Option<String>, b: &Option<String>| a.is_some() && b.is_some() && squeezed(a) != squeezed(b);
        prop_assert!(!differ(&wanted.wwid, &taken.wwid), "{wanted:?} {taken:?}");
        prop_assert!(!differ(&wanted.serial, &taken.serial), "{wanted:?} {taken:?}");
        prop_assert_eq!(wanted.size, taken.size);
        // Something shows that it is the one: its own id, or, where it had none, its place.
        let shown = same(&wanted.wwid, &taken.wwid) || same(&wanted.serial, &taken.serial);
        let nameless = wanted.wwid.is_none() && wanted.serial.is_none();
        prop_assert!(shown || nameless && !wanted.path.is_empty() && wanted.path == taken.path, "{wanted:?} {taken:?}");
        // And nothing else here would do as well.
        let others = disks.iter().filter(|(_, disk)| wanted.is(disk)).count();
        prop_assert_eq!(others, 1);
    }
}

#[test]
fn places_keep_what_is_stable() {
    let cases = [
        ("/sys/devices/pci0000:00/0000:00:04.0/virtio1/block", Some("pci0000:00/0000:00:04.0/virtio*/block")),
        (
            "/sys/devices/pci0000:00/0000:00:1f.2/ata5.2/host4/target4:0:0/4:0:0:0/block",
            Some("pci0000:00/0000:00:1f.2/ata*.2/host*/target*:0:0/*:0:0:0/block"),
        ),
        ("pci0000:00/0000:00:03.0/nvme/nvme0", Some("pci0000:00/0000:00:03.0/nvme/nvme*")),
        ("/sys/devices/virtual/nvme-subsystem/nvme-subsys0", None),
        ("/sys/devices/virtual/block", None),
        ("/sys/devices/pci0/0000:00:1f.2/ata5/host4/target4:0:0/4:0:0:0/block", None),
        ("/sys/devices/pci0/0000:03:00.0/host0/port-0:1/end_device-0:1/target0:0:1/0:0:1:0/block", None),
        ("", None),
    ];
    for (path, expected) in cases {
        assert_eq!(id("sda", "", "", path, 1).place().as_deref(), expected, "{path}");
    }
}

/// Makes files below `dir`.
fn files(dir: &Path, texts: &[(&str, &str)]) -> io::Result<()> {
    for (file, text) in texts {
        let path = dir.join(file);
        fs::create_dir_all(path.parent().unwrap())?;
        fs::write(path, text)?;
    }
    Ok(())
}

#[test]
fn sysfs_is_read() -> io::Result<()> {
    let dir = tempfile::tempdir()?;
    let (root, sys) = (Root::new(dir.path()), dir.path().join("sys"));
    let place = sys.join("devices/pci0/virtio0/block/vda");
    let part = place.join("vda1");
    let loops = sys.join("devices/virtual/block/loop0");
    fs::create_dir_all(sys.join("block"))?;
    let texts = [("size", "2048\n"), ("serial", "abc\n"), ("dev", "254:0\n"), ("stat", "1 2 3 4 5 6 77 8 9\n")];
    files(&place, &texts)?;
    files(&loops, &texts)?;
    files(&part, &[("partition", "1\n")])?;
    std::os::unix::fs::symlink("../devices/pci0/virtio0/block/vda", sys.join("block/vda"))?;
    std::os::unix::fs::symlink("../devices/virtual/block/loop0", sys.join("block/loop0"))?;
    let disks = Disks::new(&root);
    assert_eq!(disks.names(), ["vda"]);
    assert_eq!(disks.with_partitions("vda"), ["vda", "vda1"]);
    let vda = id("sda", "", "abc", "", 2048 * 512);
    assert_eq!(disks.resolve(std::slice::from_ref(&vda), &[]), Ok(vec!["vda".to_owned()]));
    fs::create_dir_all(sys.join("class"))?;
    std::os::unix::fs::symlink("../block", sys.join("class/block"))?;
    fs::write(place.join("range"), "16\n")?;
    assert_eq!(disks.numbers_without(&[]), [Numbers { major: 254, first: 0, last: 15 }]);
    assert_eq!(disks.numbers_without(&["vda".to_owned()]), []);
    let twice = disks.resolve(&[vda.clone(), vda], &[]);
    assert!(twice.unwrap_err().contains("the same one"));
    Ok(())
}

#[test]
fn equal_disks_are_missing_one_by_one() -> io::Result<()> {
    let dir = tempfile::tempdir()?;
    let (root, sys) = (Root::new(dir.path()), dir.path().join("sys"));
    let place = sys.join("devices/pci0/virtio0/block/vda");
    files(&place, &[("size", "8\n"), ("serial", "one\n"), ("dev", "254:0\n")])?;
    fs::create_dir_all(sys.join("block"))?;
    std::os::unix::fs::symlink("../devices/pci0/virtio0/block/vda", sys.join("block/vda"))?;
    let path = "/sys/devices/pci0/virtio3/block";
    let known = [
        id("vda", "", "one", path, 4096),
        id("vdb", "", "two", path, 4096),
        id("vdc", "naa.3", "", path, 4096),
        id("bcache0", "", "", "/sys/devices/virtual/block", 4096),
    ];
    assert_eq!(Disks::new(&root).missing(&known), [&known[1], &known[2]]);
    Ok(())
}

/// A disk is swapped while the payload runs, and the new one gets its name: the payload was not given that one.
#[test]
fn a_name_stays_with_its_disk() -> io::Result<()> {
    let dir = tempfile::tempdir()?;
    let (root, sys) = (Root::new(dir.path()), dir.path().join("sys"));
    let place = sys.join("devices/pci0/virtio0/block/vda");
    fs::create_dir_all(sys.join("block"))?;
    std::os::unix::fs::symlink("../devices/pci0/virtio0/block/vda", sys.join("block/vda"))?;
    let disks = Disks::new(&root);
    let found = ["vda".to_owned()];
    let cases = [
        ("the same", id("vda", "naa.1", "one", "", 4096), ("naa.1", "one", "8"), true),
        ("made anew", id("vda", "naa.1", "one", "", 4096), ("naa.2", "one", "16"), true),
        ("another serial number", id("vda", "", "one", "", 4096), ("", "two", "8"), false),
        ("another world-wide id, and no serial number", id("vda", "naa.1", "", "", 4096), ("naa.2", "two", "8"), false),
        ("nothing to tell", id("vda", "", "", "", 4096), ("naa.2", "two", "8"), true),
    ];
    for (what, wanted, (wwid, serial, size), still) in cases {
        files(&place, &[("size", size), ("serial", serial), ("wwid", wwid), ("dev", "254:0")])?;
        let expected: &[String] = if still { &found } else { &[] };
        assert_eq!(disks.still(&found, std::slice::from_ref(&wanted)), expected, "{what}");
    }
    // A disk that is gone has no name that could be another's.
    fs::remove_file(sys.join("block/vda"))?;
    assert_eq!(disks.still(&found, &[id("vda", "naa.1", "one", "", 4096)]), found);
    Ok(())
}
