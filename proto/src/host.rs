//! What the stage finds out about a host before anything changes.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::ids::Digest;
use crate::net::{LinkId, NetworkState};

/// Everything that the plan needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// As in `/proc/sys/kernel/hostname`.
    pub hostname: String,
    /// `PRETTY_NAME` of os-release, or empty.
    pub os: String,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// `uname -m`.
    pub arch: String,
    /// `uname -r`.
    pub kernel_release: String,
    /// A readable image of the running kernel, if there is one.
    pub kernel_image: Option<String>,
    /// `/proc/cmdline`.
    pub cmdline: String,
    /// How the firmware boots this machine.
    pub firmware: Firmware,
    /// Bytes of usable memory (`MemTotal`).
    pub memory_total: u64,
    /// Bytes that can be had now (`MemAvailable`).
    pub memory_available: u64,
    /// Every block device that is a whole disk.
    pub disks: Vec<Disk>,
    /// What stands in the way of a kexec, or not.
    pub kexec: KexecSupport,
    /// The network as it is.
    pub network: NetworkState,
    /// What the host is reached through and can't be restored in RAM, as `wg0 (wireguard)`.
    pub lost_ways: Vec<String>,
    /// The port on which the host accepted the SSH connection that runs the stage.
    pub ssh_port: u16,
    /// Public SSH host keys of the old system, as `.pub` lines.
    pub host_keys: Vec<String>,
    /// Archive URLs found in the host's own apt sources.
    pub mirrors: Vec<String>,
    /// Blobs that the host has from an earlier deployment.
    pub cached_blobs: Vec<Digest>,
    /// Base images that the host has, by the SHA-256 of the uncompressed image.
    pub cached_bases: Vec<Digest>,
    /// Watchdogs, also those that nobody uses.
    #[serde(default)]
    pub watchdogs: Vec<Watchdog>,
    /// The links that the host is reached through.
    #[serde(default)]
    pub ways: Vec<LinkId>,
    /// Where a way is lost: addresses of the host's that it has in RAM too.
    #[serde(default)]
    pub instead: Vec<IpAddr>,
    /// What the running kernel lacks to run the system in RAM, in short words such as `CONFIG_CGROUP_BPF`.
    #[serde(default)]
    pub kernel_lacks: Vec<String>,
    /// What its system runs in.
    #[serde(default)]
    pub inside: Inside,
    /// Bytes of memory that are kept for a kernel that would tell of a crash (`/sys/kernel/kexec_crash_size`). They are
    /// not in `memory_total`, and RAM has them.
    #[serde(default)]
    pub memory_reserved: u64,
    /// The archive of past versions that its apt knows, or the apt in a base image of its cache, as a URL template with
    /// `@SNAPSHOTID@`. Asked for only where `mirrors` is empty.
    #[serde(default)]
    pub snapshot: Option<String>,
    /// The HTTP proxy that the host reaches archives through, without user name and password.
    #[serde(default)]
    pub proxy: Option<String>,
}

/// What a host's system runs in, as far as that says whether another kernel can be booted by kexec.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Inside {
    /// A machine, or a virtual machine that is like one.
    #[default]
    Machine,
    /// A container: its kernel is that of the system around it. What kind, such as `docker`.
    Container(String),
    /// A paravirtualised domain of Xen, or Xen's own. Linux knows no kexec there.
    XenPv,
    /// A virtual machine whose memory is encrypted against the machine around it: `SEV`, `SEV-ES`, `SEV-SNP` or `TDX`.
    Encrypted(String),
}

/// A watchdog timer, from `/sys/class/watchdog` (Documentation/ABI/testing/sysfs-class-watchdog).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watchdog {
    /// Its name in `/dev`, such as `watchdog0`.
    pub name: String,
    /// What it calls itself, such as `iTCO_wdt`.
    pub identity: String,
    /// Name of the module of its driver, or empty where the kernel contains the driver.
    pub module: String,
    /// Whether it is counting now.
    pub active: bool,
    /// Seconds after which it resets the machine unless it is fed, if known.
    pub timeout_s: Option<u32>,
    /// Whether it can't be stopped once it counts.
    pub nowayout: bool,
    /// Who holds it open, as `systemd (1)`, if somebody does.
    pub holder: Option<String>,
}

impl Watchdog {
    /// Name of the driver of a BMC's watchdog. When the machine restarts it lets the watchdog count on, for two minutes
    /// at least. Those of other drivers stop for a restart, or may.
    pub const IPMI: &str = "ipmi_watchdog";

    /// Whether PID 1 holds it open, and so keeps anybody else from stopping it.
    pub fn is_held_by_init(&self) -> bool {
        self.holder.as_ref().is_some_and(|holder| holder.ends_with(" (1)"))
    }

    /// Whether somebody but PID 1 can stop it, once whoever feeds it has ended.
    pub fn can_be_stopped(&self) -> bool {
        !self.nowayout && !self.is_held_by_init()
    }
}

/// How the machine was booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Firmware {
    /// PC BIOS.
    Bios,
    /// UEFI.
    Uefi {
        /// Whether Secure Boot is enforced.
        secure_boot: bool,
    },
}

/// Whether and how the running kernel can boot another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KexecSupport {
    /// `kexec_file_load(2)` exists.
    pub file_load: bool,
    /// `kexec_load(2)` exists.
    pub load: bool,
    /// `kernel.kexec_load_disabled` is set.
    pub disabled: bool,
    /// Kernel lockdown: `none`, `integrity`, `confidentiality`, or empty where the kernel has none.
    pub lockdown: String,
    /// How often a kernel may still be loaded (`kernel.kexec_load_limit_reboot`, since Linux 6.3), where that is
    /// limited. Where it is, nobody has asked whether `file_load` and `load` exist, since each question counts.
    #[serde(default)]
    pub loads_left: Option<u32>,
    /// IMA wants a signature of what is loaded.
    #[serde(default)]
    pub appraised: bool,
    /// Why the running kernel does not load the image that it was started from, where that was tried: where signatures
    /// are wanted, and loads are not counted.
    #[serde(default)]
    pub refused: Option<String>,
}

impl KexecSupport {
    /// Whether the kernel loads none by `kexec_load(2)`, and wants signatures.
    pub fn is_locked_down(&self) -> bool {
        locks_down(&self.lockdown)
    }
}

/// Whether that state of lockdown, as [`KexecSupport::lockdown`] has it, is one.
pub fn locks_down(lockdown: &str) -> bool {
    !matches!(lockdown, "" | "none")
}

/// A whole disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// How to find it again after the boot.
    pub id: DiskId,
    /// Vendor and model, or empty.
    pub model: String,
    /// Whether it can be taken out.
    pub removable: bool,
    /// Whether it has rotating parts.
    pub rotational: bool,
    /// Whether the kernel has it read-only.
    pub read_only: bool,
    /// Partition table: `gpt`, `dos`, or `None`.
    pub table: Option<String>,
    /// File system or other signature directly on the disk, if any.
    pub content: Option<String>,
    /// Its partitions, by number.
    pub partitions: Vec<Partition>,
    /// Where the disk itself, or something on top of it (LVM, RAID, crypt), is mounted.
    pub mounts: Vec<String>,
    /// Why it can't be had in RAM, such as `iSCSI`: what makes it a disk here isn't there. `None` where it can.
    pub out_of_reach: Option<String>,
}

/// What names a disk across a kexec, where names such as `/dev/sda` may change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskId {
    /// `/dev/…` under the old system.
    pub name: String,
    /// Serial number, if it has one.
    pub serial: Option<String>,
    /// World-wide id (`/sys/block/*/device/wwid` or `wwid`), if it has one.
    pub wwid: Option<String>,
    /// Path of the device under `/sys/devices`, without the disk's own name at the end. In a part such as `ata7` the
    /// number of the port at its own controller is appended to its number in the machine: `ata7.2`.
    pub path: String,
    /// Bytes.
    pub size: u64,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// `/dev/…`.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// File system or other signature, if known.
    pub content: Option<String>,
    /// Its label, if it has one.
    pub label: Option<String>,
    /// Where it, or something on top of it, is mounted; `[SWAP]` for swap in use.
    pub mounts: Vec<String>,
}
