use super::*;
use anemos_host::mounts;

/// Makes a tree of files and links: `path = text`, with `\n` for a new line, or `path -> target`.
pub fn tree(lines: &str) -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (path, text, link) = match line.split_once(" -> ") {
            Some((path, target)) => (path, target, true),
            None => line.split_once(" = ").map(|(path, text)| (path, text, false)).unwrap(),
        };
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        if link {
            std::os::unix::fs::symlink(text, path).unwrap();
        } else {
            std::fs::write(path, text.replace("\\n", "\n")).unwrap();
        }
    }
    let root = Root::new(dir.path());
    (dir, root)
}

// A server: a SATA disk with an encrypted LVM on its second partition, an NVMe disk, a CD drive, and what is no disk.
const SERVER: &str = "
    sys/block/sda -> ../devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda
    sys/devices/pci0000:00/0000:00:1f.2/ata1/ata_port/ata1/port_no = 3
    sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda/size = 2097152
    sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda/dev = 8:0
    sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda/removable = 0
    sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda/queue/rotational = 1
    sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda/device/vendor = ATA     
    sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda/device/model = ST1000NM0033
    sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda/device/wwid = naa.5000c5007a8b2c31
    sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda/device/vpd_pg80 = ____  Z1W4ABCD
    sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda/sda1/partition = 1
    sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda/sda1/size = 2048
    sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda/sda1/dev = 8:1
    sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda/sda2/partition = 2
    sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda/sda2/size = 4096
    sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda/sda2/dev = 8:2
    sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda/sda2/holders/dm-0 = x
    sys/block/dm-0/size = 4000
    sys/block/dm-0/dev = 253:0
    sys/block/dm-0/dm/name = crypt
    sys/block/dm-0/holders/dm-1 = x
    sys/block/dm-0/holders/dm-2 = x
    sys/block/dm-1/size = 3000
    sys/block/dm-1/dev = 253:1
    sys/block/dm-1/dm/name = vg-root
    sys/block/dm-2/size = 900
    sys/block/dm-2/dev = 253:2
    sys/block/dm-2/dm/name = vg-swap
    sys/block/nvme0n1 -> ../devices/pci0000:00/0000:01:00.0/nvme/nvme0/nvme0n1
    sys/devices/pci0000:00/0000:01:00.0/nvme/nvme0/nvme0n1/size = 1000
    sys/devices/pci0000:00/0000:01:00.0/nvme/nvme0/nvme0n1/wwid = eui.0025385b71b0a4d1
    sys/devices/pci0000:00/0000:01:00.0/nvme/nvme0/nvme0n1/device/serial = S4EVNX0N123456      
    sys/devices/pci0000:00/0000:01:00.0/nvme/nvme0/nvme0n1/device/model = Samsung SSD 970 EVO Plus 1TB            
    sys/block/nvme0c0n1/size = 1000
    sys/block/nvme0c0n1/hidden = 1
    sys/block/sr0/size = 2097151
    sys/block/loop0/size = 100
    sys/block/zram0/size = 100
    sys/block/md127/size = 100
    sys/block/nbd0/size = 100
    sys/block/sdb/size = 0
    sys/block/mmcblk0boot0/size = 8192
    dev/sda2 = LUKS\u{0}
";

#[test]
fn a_server() {
    let (_dir, root) = tree(SERVER);
    let mountinfo = "28 1 253:1 / / rw - ext4 /dev/mapper/vg-root rw\n\
                     29 28 8:1 / /boot rw - ext4 /dev/sda1 rw\n\
                     30 28 0:44 / /srv rw - btrfs /dev/nvme0n1 rw\n";
    let in_use = InUse {
        mounts: mounts::parse_mountinfo(mountinfo),
        swaps: mounts::parse_swaps("Filename Type Size Used Priority\n/dev/dm-2 partition 1 0 -2\n"),
    };
    let found = disks(&root, &in_use);
    let names: Vec<_> = found.iter().map(|disk| &*disk.id.name).collect();
    assert_eq!(names, ["/dev/nvme0n1", "/dev/sda"]);

    let sda = &found[1];
    assert_eq!(sda.model, "ST1000NM0033");
    assert_eq!(sda.id.serial.as_deref(), Some("Z1W4ABCD"));
    assert_eq!(sda.id.wwid.as_deref(), Some("naa.5000c5007a8b2c31"));
    assert_eq!(sda.id.path, "/sys/devices/pci0000:00/0000:00:1f.2/ata1.3/host0/target0:0:0/0:0:0:0/block");
    assert_eq!(sda.id.size, 1 << 30);
    assert!(sda.rotational && !sda.removable && sda.mounts.is_empty());
    assert_eq!(sda.partitions[0].mounts, ["/boot"]);
    assert_eq!(sda.partitions[1].mounts, ["/", "[SWAP]"]);

    let nvme = &found[0];
    assert_eq!(nvme.model, "Samsung SSD 970 EVO Plus 1TB");
    assert_eq!(nvme.id.serial.as_deref(), Some("S4EVNX0N123456"));
    assert_eq!(nvme.mounts, ["/srv"]);
}

#[test]
fn circles_of_holders_end() {
    let (_dir, root) = tree(
        "sys/block/sda/size = 8\nsys/block/sda/dev = 8:0\nsys/block/sda/holders/dm-0 = x\n\
         sys/block/dm-0/holders/sda = x\nsys/block/dm-0/dev = 253:0",
    );
    assert_eq!(disks(&root, &InUse::default()).len(), 1);
}

#[test]
fn what_ram_cannot_have() {
    let pci = "devices/pci0000:00/0000:01:00.0";
    let over = |how: &str| Some(format!("reached over the network ({how})"));
    let sd = |above: &str| {
        let path = format!("{above}/target2:0:0/2:0:0:1/block/sda");
        format!("sys/block/sda -> ../{path}\nsys/{path}/size = 8\n")
    };
    let nvme = |path: &str| format!("sys/block/nvme0n1 -> ../{path}/nvme0n1\nsys/{path}/nvme0n1/size = 8\n");
    let subsystem = "devices/virtual/nvme-subsystem/nvme-subsys0";
    let head = |transports: &[&str]| {
        let controller = |(n, how): (usize, &&str)| {
            format!("sys/{subsystem}/nvme{n} -> ../../../c{n}\nsys/devices/c{n}/transport = {how}\n")
        };
        transports.iter().enumerate().map(controller).fold(nvme(subsystem), |all, text| all + &text)
    };
    let mapped = |uuid: &str| {
        format!(
            "{}sys/{pci}/host2/target2:0:0/2:0:0:1/block/sda/holders/dm-3 = x\nsys/block/dm-3/dm/uuid = {uuid}\n\
             sys/block/dm-3/dm/name = mpatha\n",
            sd(&format!("{pci}/host2"))
        )
    };
    for (what, files, expected) in [
        ("a SATA disk", sd(&format!("{pci}/ata1/host2")), None),
        ("a Fibre Channel LUN: the card's driver finds it", sd(&format!("{pci}/host2/rport-2:0-1")), None),
        ("iSCSI", sd("devices/platform/host2/session1"), over("iSCSI")),
        ("iSCSI by a card", sd(&format!("{pci}/host2/session7")), over("iSCSI")),
        ("FCoE", sd(&format!("{pci}/net/eth0/ctlr_0/host2/rport-2:0-0")), over("FCoE")),
        ("multipath", mapped("mpath-36001405abcdef"), Some("one of the paths of the multipath disk mpatha".into())),
        ("LVM", mapped("LVM-abcdef"), None),
        ("NVMe", nvme(&format!("{pci}/nvme/nvme0")) + &format!("sys/{pci}/nvme/nvme0/transport = pcie\n"), None),
        ("NVMe of a kernel that does not tell", nvme(&format!("{pci}/nvme/nvme0")), None),
        (
            "NVMe over TCP",
            nvme("devices/virtual/nvme-fabrics/ctl/nvme0")
                + "sys/devices/virtual/nvme-fabrics/ctl/nvme0/transport = tcp\n",
            over("NVMe over tcp"),
        ),
        ("an NVMe head", head(&["pcie", "pcie"]), None),
        ("an NVMe head of remote controllers", head(&["rdma", "rdma"]), over("NVMe over rdma")),
    ] {
        let (_dir, root) = tree(&files);
        let found = disks(&root, &InUse::default());
        assert_eq!(found.len(), 1, "{what}");
        assert_eq!(found[0].out_of_reach, expected, "{what}");
    }
}
