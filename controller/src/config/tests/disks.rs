//! Which disk is meant.

use anemos_proto::host::{Disk, DiskId};

use super::*;

fn disk(name: &str, model: &str, serial: Option<&str>, size: u64) -> Disk {
    Disk {
        id: DiskId {
            name: name.into(),
            serial: serial.map(Into::into),
            wwid: Some(format!("wwid-of-{name}")),
            path: String::new(),
            size,
        },
        model: model.into(),
        removable: false,
        rotational: false,
        read_only: false,
        table: None,
        content: None,
        partitions: vec![],
        mounts: vec![],
        out_of_reach: None,
    }
}

fn selector(text: &str) -> DiskSelector {
    one(&format!("[hosts.a]\npayload = \"p\"\ndisk = {text}\n")).disk
}

#[test]
fn a_selector_means_exactly_one_disk() {
    let disks = [
        // SCSI pads its strings with spaces.
        disk("/dev/sda", "MODEL-X         ", Some("  S1"), 480_103_981_056),
        disk("/dev/sdb", "MODEL-X         ", Some("S2"), 480_103_981_056),
        disk("/dev/nvme0n1", "", None, 2_000_398_934_016),
    ];
    let name =
        |text: &str| selector(text).select(&disks).map(|disk| disk.id.name.clone()).map_err(|error| error.to_string());
    assert_eq!(name("\"/dev/sdb\""), Ok("/dev/sdb".into()));
    assert_eq!(name("{ serial = \"S1\" }"), Ok("/dev/sda".into()));
    assert_eq!(name("{ wwid = \"wwid-of-/dev/sdb\" }"), Ok("/dev/sdb".into()));
    assert_eq!(name("{ min_size = \"1T\" }"), Ok("/dev/nvme0n1".into()));
    assert_eq!(name("{ model = \"MODEL-X\", serial = \"S2\" }"), Ok("/dev/sdb".into()));
    assert_eq!(
        name("{ model = \"MODEL-X\", max_size = \"500GB\" }").unwrap_err(),
        "2 disks are (model `MODEL-X`, at most 500.0 GB): say more, so that only one is, such as its serial\n  \
         /dev/sda: 480.1 GB, model `MODEL-X`, serial `S1`, wwid `wwid-of-/dev/sda`\n  \
         /dev/sdb: 480.1 GB, model `MODEL-X`, serial `S2`, wwid `wwid-of-/dev/sdb`"
    );
    assert_eq!(
        name("\"/dev/vda\"").unwrap_err(),
        "no disk is (/dev/vda): name one of these in hosts.toml\n  \
         /dev/sda: 480.1 GB, model `MODEL-X`, serial `S1`, wwid `wwid-of-/dev/sda`\n  \
         /dev/sdb: 480.1 GB, model `MODEL-X`, serial `S2`, wwid `wwid-of-/dev/sdb`\n  \
         /dev/nvme0n1: 2.0 TB, wwid `wwid-of-/dev/nvme0n1`"
    );
    assert_eq!(
        selector("\"/dev/vda\"").select(&[]).unwrap_err().to_string(),
        "no disk is (/dev/vda): the host has no disks"
    );
}

#[test]
fn a_disk_may_be_meant_once() {
    let disks = [disk("/dev/sda", "", Some("S1"), 1000), disk("/dev/sdb", "", None, 1000)];
    let host = one("[hosts.a]\npayload = \"p\"\ndisk = \"/dev/sdb\"\ndisks = [{ serial = \"S1\" }]\n");
    let names: Vec<_> =
        select_disks(host.all_disks(), &disks).unwrap().into_iter().map(|d| d.id.name.as_str()).collect();
    assert_eq!(names, ["/dev/sdb", "/dev/sda"]);
    let host = one("[hosts.a]\npayload = \"p\"\ndisk = \"/dev/sda\"\ndisks = [{ serial = \"S1\" }]\n");
    assert_eq!(
        select_disks(host.all_disks(), &disks).unwrap_err().to_string(),
        "disk (serial `S1`) is the same as (/dev/sda): each disk may be named once\n  \
         /dev/sda: 1.0 kB, serial `S1`, wwid `wwid-of-/dev/sda`"
    );
}

/// What the agent could not find again for certain is refused before anything happens.
#[test]
fn a_disk_must_be_told_from_others_after_the_boot() {
    let with = |name: &str, wwid: Option<&str>, serial: Option<&str>, path: &str, size: u64| {
        let mut disk = disk(name, "", serial, size);
        disk.id.wwid = wwid.map(Into::into);
        disk.id.path = path.into();
        disk
    };
    let disks = [
        with("/dev/sda", Some("naa.5"), Some("S"), "/sys/devices/pci0/0000:02:00.0/host1", 1000),
        with("/dev/sdb", Some("naa.5"), Some("S"), "/sys/devices/pci0/0000:03:00.0/host2", 1000),
        with("/dev/sdc", None, Some("S"), "/sys/devices/pci0/0000:04:00.0/host3", 2000),
        with("/dev/vda", None, None, "/sys/devices/pci0/0000:05:00.0/virtio0", 1000),
        with("/dev/vdb", None, None, "/sys/devices/pci0/0000:06:00.0/virtio1", 1000),
        with("/dev/nbd", None, None, "/sys/devices/virtual/block", 1000),
    ];
    let select = |path: &str| {
        let found = select_disks([&DiskSelector::Path(path.into())], &disks);
        found.map(|found| found[0].id.name.clone()).map_err(|error| error.to_string())
    };
    for fine in ["/dev/sdc", "/dev/vda", "/dev/vdb"] {
        assert_eq!(select(fine).as_deref(), Ok(fine));
    }
    let alike = select("/dev/sda").unwrap_err();
    for part in ["could not be told from another", "\n  /dev/sda: 1.0 kB, serial `S`", "\n  /dev/sdb: "] {
        assert!(alike.contains(part), "{alike}");
    }
    assert!(!alike.contains("/dev/sdc"), "{alike}");
    assert!(select("/dev/nbd").unwrap_err().contains("could not be found again"), "a disk without anything to go by");
}
