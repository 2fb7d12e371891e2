//! Disks, from `/sys/block`: what is one, and what tells it from others. [`DiskId`] judges whether two are the same.

use anemos_proto::host::DiskId;

use crate::root::Root;

/// Bytes of a sector in `/sys`, whatever the disk's sectors have.
pub const SECTOR: u64 = 512;

/// Names of block devices that are no disks: RAM, loops, floppies, CDs, network devices, and what is stacked on disks.
const NO_DISKS: &[&str] = &["dm-", "drbd", "fd", "loop", "md", "mtdblock", "nbd", "ram", "rbd", "sr", "zd", "zram"];

/// Sorted names in `/sys/block` of the disks that a system can be installed on: whole, with a size, and accessible.
pub fn whole(root: &Root) -> Vec<String> {
    root.names("/sys/block").into_iter().filter(|name| is_whole(root, name)).collect()
}

fn is_whole(root: &Root, name: &str) -> bool {
    let sys = format!("/sys/block/{name}");
    let boot_area = name.starts_with("mmcblk") && (name.contains("boot") || name.contains("rpmb"));
    let other = NO_DISKS.iter().any(|prefix| {
        name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()) || rest.is_empty())
    });
    // The paths of a multipath NVMe namespace are hidden: they can't be opened.
    !boot_area && !other && !root.flag(&format!("{sys}/hidden")) && root.number(&format!("{sys}/size")).unwrap_or(0) > 0
}

/// Sorted names in `/sys/block` of everything that is hardware and may keep data, also what [`whole`] leaves out: boot
/// areas, CD drives, disks without a medium. Loop, RAM, mapper and RAID devices are not, since the disks below them
/// are.
pub fn hardware(root: &Root) -> Vec<String> {
    let is_virtual =
        |name: &str| root.resolve(&format!("/sys/block/{name}")).is_some_and(|path| path.contains("/virtual/block/"));
    root.names("/sys/block").into_iter().filter(|name| !is_virtual(name)).collect()
}

/// The names in `/sys` of a disk's partitions, by their numbers.
pub fn partitions(root: &Root, disk: &str) -> Vec<String> {
    let sys = format!("/sys/block/{disk}");
    let number = |name: String| Some((root.number(&format!("{sys}/{name}/partition"))?, name));
    let mut found: Vec<(u64, String)> = root.names(&sys).into_iter().filter_map(number).collect();
    found.sort();
    found.into_iter().map(|(_, name)| name).collect()
}

/// `/dev/…` of a name in `/sys`, in which `!` stands for `/`.
pub fn dev_path(name: &str) -> String {
    format!("/dev/{}", name.replace('!', "/"))
}

/// What names the disk that is called `name` in `/sys/block`. Where each part is from: Documentation/ABI in the
/// kernel's sources (sysfs-block, sysfs-ata), and SPC for the page of vital product data.
pub fn id(root: &Root, name: &str) -> DiskId {
    let sys = format!("/sys/block/{name}");
    let dir = root.resolve(&sys).unwrap_or(sys);
    let read = |file: &str| root.read(&format!("{dir}/{file}")).ok();
    let text = |file: &str| tidy(&read(file)?);
    // SCSI keeps the serial number in a page of its own: four bytes of header, then text.
    let page = || tidy(read("device/vpd_pg80")?.get(4..)?);
    let parts: Vec<&str> = dir.split('/').collect();
    let above = parts.len().saturating_sub(1);
    let mut path: Vec<String> = parts[..above].iter().map(|&part| part.to_owned()).collect();
    for (depth, part) in path.iter_mut().enumerate() {
        // The kernel numbers ATA ports through all controllers, in the order of probing; port_no is the port's number
        // at its own controller.
        if part.starts_with("ata") {
            let up = "../".repeat(above - depth);
            if let Some(port) = text(&format!("{up}ata_port/{part}/port_no")) {
                part.push('.');
                part.push_str(&port);
            }
        }
    }
    DiskId {
        name: dev_path(name),
        serial: text("serial").or_else(|| text("device/serial")).or_else(page),
        wwid: text("wwid").or_else(|| text("device/wwid")),
        path: path.join("/"),
        size: text("size").and_then(|sectors| sectors.parse().ok()).unwrap_or(0_u64).saturating_mul(SECTOR),
    }
}

/// Text without the zeros and spaces around it; `None` if nothing is left.
fn tidy(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_matches(|c: char| c == '\0' || c.is_whitespace());
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io;
    use std::path::Path;

    use super::*;

    /// Makes files below `dir`.
    fn files(dir: &Path, texts: &[(&str, &str)]) -> io::Result<()> {
        for (file, text) in texts {
            let path = dir.join(file);
            fs::create_dir_all(path.parent().unwrap())?;
            fs::write(path, text)?;
        }
        Ok(())
    }

    fn link(root: &Root, disk: &str, dir: &str) -> io::Result<()> {
        fs::create_dir_all(root.at("/sys/block"))?;
        std::os::unix::fs::symlink(format!("..{dir}"), root.at(&format!("/sys/block/{disk}")))
    }

    /// A disk on the second port of a SATA controller.
    #[test]
    fn what_names_a_disk() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let root = Root::new(dir.path());
        let port = "/devices/pci0/0000:00:1f.2/ata7";
        let sda = format!("{port}/host6/target6:0:0/6:0:0:0/block/sda");
        files(&root.at("/sys").join(&port[1..]), &[("ata_port/ata7/port_no", "2\n")])?;
        files(&root.at("/sys").join(&sda[1..]), &[("size", "8\n"), ("dev", "8:0\n")])?;
        let device = root.at("/sys").join(&port[1..]).join("host6/target6:0:0/6:0:0:0");
        let page = "\0\u{1}\0\u{14}            Z1W4ABCD\0";
        files(&device, &[("wwid", "naa.5000c5007a8b2c31\n"), ("vpd_pg80", page)])?;
        std::os::unix::fs::symlink("../../../6:0:0:0", root.at("/sys").join(&sda[1..]).join("device"))?;
        link(&root, "sda", &sda)?;
        let expected = DiskId {
            name: "/dev/sda".into(),
            serial: Some("Z1W4ABCD".into()),
            wwid: Some("naa.5000c5007a8b2c31".into()),
            path: "/sys/devices/pci0/0000:00:1f.2/ata7.2/host6/target6:0:0/6:0:0:0/block".into(),
            size: 4096,
        };
        assert_eq!(id(&root, "sda"), expected);
        let gone =
            DiskId { name: "/dev/cciss/c0d0".into(), serial: None, wwid: None, path: "/sys/block".into(), size: 0 };
        assert_eq!(id(&root, "cciss!c0d0"), gone);
        files(&root.at("/sys").join(&sda[1..]), &[("size", "18446744073709551615\n")])?;
        assert_eq!(id(&root, "sda").size, u64::MAX, "more sectors than there are bytes");
        Ok(())
    }

    /// NVMe shows ids at the disk, and the serial number at what the disk is of: its controller, or, where several
    /// controllers may lead to it, its subsystem.
    #[test]
    fn what_names_an_nvme_disk() -> io::Result<()> {
        for (place, device) in [
            ("/devices/pci0/0000:01:00.0/nvme/nvme0/nvme0n1", "../../nvme0"),
            ("/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1", "../../nvme-subsys0"),
        ] {
            let dir = tempfile::tempdir()?;
            let root = Root::new(dir.path());
            let disk = root.at("/sys").join(&place[1..]);
            let nguid = "00253800-b321-4019-0100-25385b01417f\n";
            files(&disk, &[("size", "8\n"), ("wwid", "eui.0025385b01417f2c\n"), ("nguid", nguid), ("nsid", "1\n")])?;
            files(disk.parent().unwrap(), &[("serial", "S4EVNX0N123456      \n")])?;
            std::os::unix::fs::symlink(device, disk.join("device"))?;
            link(&root, "nvme0n1", place)?;
            let found = id(&root, "nvme0n1");
            assert_eq!(found.wwid.as_deref(), Some("eui.0025385b01417f2c"), "{place}");
            assert_eq!(found.serial.as_deref(), Some("S4EVNX0N123456"), "{place}");
            assert_eq!(found.path, format!("/sys{}", place.strip_suffix("/nvme0n1").unwrap()));
        }
        Ok(())
    }

    #[test]
    fn what_is_a_disk() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let root = Root::new(dir.path());
        for (name, place, size, hidden) in [
            ("vda", "/devices/pci0/virtio0/block/vda", "8", "0"),
            ("nvme0n1", "/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1", "8", "0"),
            ("nvme0c0n1", "/devices/pci0/nvme/nvme0/nvme0c0n1", "8", "1"),
            ("mmcblk0boot0", "/devices/platform/mmc0/block/mmcblk0boot0", "8", "0"),
            ("sdb", "/devices/pci0/usb1/block/sdb", "0", "0"),
            ("sr0", "/devices/pci0/ata1/block/sr0", "8", "0"),
            ("loop0", "/devices/virtual/block/loop0", "8", "0"),
            ("dm-0", "/devices/virtual/block/dm-0", "8", "0"),
        ] {
            files(&root.at("/sys").join(&place[1..]), &[("size", size), ("hidden", hidden)])?;
            link(&root, name, place)?;
        }
        assert_eq!(whole(&root), ["nvme0n1", "vda"]);
        assert_eq!(hardware(&root), ["mmcblk0boot0", "nvme0c0n1", "nvme0n1", "sdb", "sr0", "vda"]);
        Ok(())
    }

    #[test]
    fn partitions_come_by_their_numbers() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let root = Root::new(dir.path());
        let texts = [("sda2/partition", "2\n"), ("sda10/partition", "10\n"), ("sda1/partition", "1\n"), ("ro", "0\n")];
        files(&root.at("/sys/block/sda"), &texts)?;
        assert_eq!(partitions(&root, "sda"), ["sda1", "sda2", "sda10"]);
        Ok(())
    }
}
