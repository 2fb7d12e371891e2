//! The ways to give a disk or its controller commands that the kernel passes on without looking at them, and so without
//! counting them as writes.

use anemos_host::Root;

use crate::disks::Numbers;

/// Requests of ioctl(2), as whole numbers: where type and number are also those of a harmless request.
pub const REQUESTS: [u32; 8] = [
    // SCSI_IOCTL_SEND_COMMAND of <scsi/scsi_ioctl.h>. FIBMAP of <linux/fs.h> is the same number.
    1,
    // FSACTL_SENDFIB, FSACTL_SEND_RAW_SRB, FSACTL_FORCE_DELETE_DISK, FSACTL_SEND_LARGE_FIB and FSACTL_DELETE_DISK of
    // drivers/scsi/aacraid/aacraid.h, which also a disk of the controller takes.
    0x0004_2008,
    0x0004_204c,
    0x0004_2123,
    0x0004_2168,
    0x0163,
    // MEGASAS_IOC_FIRMWARE and its form for 32-bit programs, of drivers/scsi/megaraid/megaraid_sas.h.
    0xc194_4d01,
    0xc114_4d01,
];

/// Requests of ioctl(2) by their lower 16 bits, type and number (<asm-generic/ioctl.h>), first to last. The size of the
/// argument, in the upper bits, is another for 32-bit programs.
pub const REQUEST_TYPES: [(u16, u16); 15] = [
    // SG_IO of <scsi/sg.h>.
    (0x2285, 0x2285),
    // HDIO_DRIVE_TASKFILE, HDIO_DRIVE_TASK and HDIO_DRIVE_CMD of <linux/hdreg.h>.
    (0x031d, 0x031f),
    // NVME_IOCTL_ADMIN_CMD, NVME_IOCTL_SUBMIT_IO and NVME_IOCTL_IO_CMD of <linux/nvme_ioctl.h>.
    (0x4e41, 0x4e43),
    // NVME_IOCTL_ADMIN64_CMD, NVME_IOCTL_IO64_CMD and NVME_IOCTL_IO64_CMD_VEC.
    (0x4e47, 0x4e49),
    // MMC_IOC_CMD and MMC_IOC_MULTI_CMD of <linux/mmc/ioctl.h>.
    (0xb300, 0xb301),
    // CDROM_SEND_PACKET of <linux/cdrom.h>.
    (0x5393, 0x5393),
    // CCISS_PASSTHRU and CCISS_BIG_PASSTHRU of <linux/cciss_ioctl.h>, which hpsa and smartpqi take too.
    (0x420b, 0x420b),
    (0x4212, 0x4212),
    // MPT3COMMAND of drivers/scsi/mpt3sas/mpt3sas_ctl.h.
    (0x4c14, 0x4c14),
    // MPTFWDOWNLOAD and MPTCOMMAND of drivers/message/fusion/mptctl.h.
    (0x6d0f, 0x6d0f),
    (0x6d14, 0x6d14),
    // IOC_OPAL_TAKE_OWNERSHIP to IOC_OPAL_GENERIC_TABLE_RW of <linux/sed-opal.h>: all but saving a password, unlocking
    // and asking for the state.
    (0x70de, 0x70eb),
    // IOC_OPAL_REVERT_LSP and IOC_OPAL_SET_SID_PW.
    (0x70f0, 0x70f1),
    // BLKRESETZONE and BLKFINISHZONE of <linux/blkzoned.h>: no sector is written, and all of a zone may be gone.
    (0x1283, 0x1283),
    (0x1288, 0x1288),
];

/// Kinds of character devices in /proc/devices that pass commands on, or memory of a controller.
const KINDS: [&str; 18] = [
    "sg",
    "bsg",
    "nvme",
    "nvme-generic",
    "megaraid_sas_ioctl",
    "megadev_legacy",
    "aac",
    "twa",
    "twe",
    "twl",
    "pmcsas",
    "gdth",
    "rpmb",
    "ndctl",
    "dimmctl",
    "cxl",
    "vfio",
    "uio",
];

/// The same in /proc/misc, where each device has a minor number of the major number [`MISC`].
const MISC_KINDS: [&str; 7] = ["mptctl", "mpt2ctl", "mpt3ctl", "megadev0", "twl", "mpi3mrctl", "vfio"];

/// Major numbers of <linux/major.h>: the memory devices and the miscellaneous ones.
const MEM: u32 = 1;
const MISC: u32 = 10;

/// Last minor number that there can be.
const LAST_MINOR: u32 = (1 << 20) - 1;

/// Character devices that nobody may open, by the drivers that are loaded now.
pub fn devices(root: &Root) -> Vec<Numbers> {
    let text = |path: &str| root.text(path).unwrap_or_default();
    of_kinds(&text("/proc/devices"), &text("/proc/misc"))
}

/// Character devices that nobody may write: /dev/mem and /dev/port (Documentation/admin-guide/devices.txt).
pub const MEMORY: [Numbers; 2] = [Numbers { major: MEM, first: 1, last: 1 }, Numbers { major: MEM, first: 4, last: 4 }];

pub fn of_kinds(devices: &str, misc: &str) -> Vec<Numbers> {
    let pair = |line: &str| {
        let (number, name) = line.trim().split_once(' ')?;
        Some((number.parse::<u32>().ok()?, name.trim().to_owned()))
    };
    let characters = devices.lines().take_while(|line| !line.starts_with("Block devices"));
    let majors = characters.filter_map(pair).filter(|(_, name)| KINDS.contains(&&**name));
    let minors = misc.lines().filter_map(pair).filter(|(_, name)| MISC_KINDS.contains(&&**name));
    let whole = majors.map(|(major, _)| Numbers { major, first: 0, last: LAST_MINOR });
    whole.chain(minors.map(|(minor, _)| Numbers { major: MISC, first: minor, last: minor })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_found_by_the_names_of_their_drivers() {
        // Parts of both files on a server with NVMe and SAS disks.
        let devices = "Character devices:\n  1 mem\n  5 /dev/tty\n 10 misc\n 21 sg\n240 nvme-generic\n241 nvme\n\
                       247 megaraid_sas_ioctl\n248 bsg\n251 rtc\n\nBlock devices:\n  8 sd\n 21 sg\n259 blkext\n";
        let misc = "221 mpt2ctl\n222 mpt3ctl\n236 device-mapper\n237 loop-control\n  1 psaux\n";
        let found: Vec<(u32, u32, u32)> =
            of_kinds(devices, misc).iter().map(|numbers| (numbers.major, numbers.first, numbers.last)).collect();
        let whole = [21, 240, 241, 247, 248].map(|major| (major, 0, 0xf_ffff));
        assert_eq!(found[..5], whole);
        assert_eq!(found[5..], [(10, 221, 221), (10, 222, 222)]);
        assert!(of_kinds("", "").is_empty() && of_kinds("nonsense", "x y z\n7\n").is_empty());
    }
}
