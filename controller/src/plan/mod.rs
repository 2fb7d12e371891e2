//! The plan for one host: what is lost, what is kept, what is sent, what boots, and what speaks against it.
//!
//! [`judge`] makes it from the host's facts and from what hosts.toml chooses. It is the only place that judges these. A
//! plan without refusals can be approved: the engine carries out nothing without an [`Approval`], and nothing else than
//! what was approved. Screens show plans; a plan is data, and knows no terminal.

mod approval;
mod base;
mod judge;
mod kexec;
mod memory;
mod watchdogs;
mod way;
mod words;

#[cfg(test)]
pub mod tests;

use anemos_proto::config::Finish;
use anemos_proto::host::{Disk, DiskId, Firmware, Partition};
use anemos_proto::ids::{BlobRef, Digest};
use anemos_proto::stage::{BaseSource, KernelSource, Proxy};
use serde::{Deserialize, Serialize};

pub use approval::Approval;
pub use base::sources;
pub use judge::judge;

use crate::config::{Become, DiskSelector};
use crate::payload::Keep;

/// What hosts.toml and the workstation choose for one host, and what the connection showed of the host.
#[derive(Debug, Clone)]
pub struct Choices {
    /// The host's name in hosts.toml.
    pub host: String,
    /// How it is reached, for people: `root@203.0.113.7:22`.
    pub address: String,
    /// How the user who logs in there became root; `None`: it is root.
    pub becomes: Option<Become>,
    /// The host key that it proved to have: algorithm and fingerprint.
    pub host_key: String,
    /// What its root file system is: see [`Plan::system`].
    pub system: String,
    /// The disks that the payload may write, `ANEMOS_DISK` first.
    pub disks: Vec<DiskSelector>,
    /// The stage, which runs on the host already.
    pub stage: Upload,
    /// The other blobs that every deployment needs, and what they are called.
    pub blobs: Vec<(&'static str, BlobRef)>,
    /// The kernel that is wanted.
    pub kernel: KernelSource,
    /// Release of the kernel in base.lock, if it names one.
    pub locked_kernel: Option<String>,
    /// What the base is: [`anemos_base::Lock::digest`] of the groups that the payload needs.
    pub base: Digest,
    /// The groups' names.
    pub groups: Vec<String>,
    /// SHA-256 of each group's uncompressed image.
    pub images: Vec<Digest>,
    /// Bytes of all uncompressed images.
    pub base_size: u64,
    /// Where the base may come from, in this order.
    pub sources: Vec<BaseSource>,
    /// Whether hosts.toml or this machine names a package archive.
    pub has_mirror: bool,
    /// Whether either names an archive of past versions.
    pub has_snapshot: bool,
    /// Through what archives are to be reached.
    pub proxy: Proxy,
    /// The payload: its directory, for people.
    pub payload: String,
    /// What the payload leaves as it is on the first of `disks`.
    pub keeps: Vec<Keep>,
    /// Whether what the payload makes is known not to start where Secure Boot is enforced.
    pub is_unsigned: bool,
    /// How the agent leaves.
    pub finish: Finish,
    /// The command that must succeed on the new system.
    pub check: Option<String>,
    /// Whether the run's key opens the new system, until the end of `verify`.
    pub verify_key: bool,
}

/// Something that is sent unless the host has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    /// What: `stage`, `agent`, `payload`, `base.lock`, `base`.
    pub what: String,
    /// Bytes as sent.
    pub bytes: u64,
    /// The host has it.
    pub cached: bool,
}

/// The plan for one host. docs/JSON.md describes its form as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The host's name in hosts.toml.
    pub host: String,
    /// How it is reached, for people: `root@203.0.113.7:22`.
    pub address: String,
    /// How the user who logs in there became root; `None`: it is root.
    #[serde(default, rename = "become")]
    pub becomes: Option<Become>,
    /// The host key that it proved to have: algorithm and fingerprint.
    pub host_key: String,
    /// What it calls itself.
    pub hostname: String,
    /// What it runs now, or empty.
    pub os: String,
    /// What its root file system is, as the bootstrap script says it: the file system's number and the machine id.
    pub system: String,
    /// `uname -m`.
    pub arch: String,
    /// How the firmware boots it.
    pub firmware: FirmwareKind,
    /// Bytes of usable memory.
    pub memory_total: u64,
    /// What it is reached through, where that is not a card itself: `bond0.7 (VLAN 7 on bond0 of eno1, eno2)`.
    #[serde(default)]
    pub through: Option<String>,
    /// Disks whose contents are lost, but for what is kept; `ANEMOS_DISK` first.
    pub wipe: Vec<PlanDisk>,
    /// Disks that are set read-only.
    pub untouched: Vec<PlanDisk>,
    /// What must be on the host.
    pub uploads: Vec<Upload>,
    /// Bytes of that which it lacks.
    pub upload_bytes: u64,
    /// Release of the kernel that boots, or empty.
    pub kernel: String,
    /// Whose kernel that is.
    #[serde(with = "words::KernelWord")]
    pub kernel_source: KernelSource,
    /// Whether a watchdog resets the machine should the new kernel hang before its init.
    #[serde(default)]
    pub hang_covered: bool,
    /// What the base is: the SHA-256 of its images' SHA-256s.
    #[serde(with = "words::digest")]
    pub base: Digest,
    /// The groups of the base that the payload needs.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Where the base comes from, for people.
    pub base_source: String,
    /// The HTTP proxy that archives are reached through, without user name and password.
    #[serde(default)]
    pub proxy: Option<String>,
    /// The payload: its directory, for people.
    pub payload: String,
    /// How the agent leaves.
    #[serde(with = "words::FinishWord")]
    pub finish: Finish,
    /// The command that must succeed on the new system.
    pub check: Option<String>,
    /// Whether the run's key, too, opens the new system, until the end of `verify`.
    #[serde(default)]
    pub verify_key: bool,
    /// What to think about before saying yes.
    pub warnings: Vec<String>,
    /// Why this host can't be deployed; empty if it can. What follows the first line of one is a list of what there is.
    pub refusals: Vec<String>,
}

/// What kind of firmware a machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FirmwareKind {
    /// PC BIOS.
    Bios,
    /// UEFI, with or without Secure Boot.
    Uefi,
}

impl From<Firmware> for FirmwareKind {
    fn from(firmware: Firmware) -> Self {
        match firmware {
            Firmware::Bios => Self::Bios,
            Firmware::Uefi { .. } => Self::Uefi,
        }
    }
}

/// A disk in a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanDisk {
    /// Which disk it is.
    #[serde(flatten)]
    pub id: DiskId,
    /// Vendor and model, or empty.
    pub model: String,
    /// What is on it now: the disk itself if it has no partitions, else each partition.
    pub contents: Vec<PlanContent>,
}

/// What is on a disk or partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanContent {
    /// `/dev/…`.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// File system or other signature, if known.
    pub content: Option<String>,
    /// Its label, if it has one.
    pub label: Option<String>,
    /// Where it, or something on top of it, is mounted.
    pub mounts: Vec<String>,
    /// Whether it stays as it is although the disk is written.
    pub kept: bool,
}

impl Plan {
    /// Why this host can't be deployed, in one sentence; `None` if it can.
    pub fn refused(&self) -> Option<String> {
        // What follows the first line of each, such as a list of disks, the plan has shown.
        let why: Vec<&str> = self.refusals.iter().filter_map(|why| why.lines().next()).collect();
        (!why.is_empty()).then(|| format!("it can't be deployed as hosts.toml says: {}", why.join("; ")))
    }

    /// The disks that the payload may write, `ANEMOS_DISK` first.
    pub fn disks(&self) -> Vec<DiskId> {
        self.wipe.iter().map(|disk| disk.id.clone()).collect()
    }

    /// Labels of the partitions of `ANEMOS_DISK` that must be found and kept.
    pub fn keeps(&self) -> Vec<String> {
        let contents = self.wipe.first().into_iter().flat_map(|disk| &disk.contents);
        contents.filter(|content| content.kept).filter_map(|content| content.label.clone()).collect()
    }
}

impl From<&Disk> for PlanDisk {
    fn from(disk: &Disk) -> Self {
        let whole = disk.partitions.is_empty() || !disk.mounts.is_empty() || disk.content.is_some();
        let contents = whole
            .then(|| PlanContent {
                name: disk.id.name.clone(),
                size: disk.id.size,
                content: disk.content.clone(),
                label: None,
                mounts: disk.mounts.clone(),
                kept: false,
            })
            .into_iter()
            .filter(|content| content.content.is_some() || !content.mounts.is_empty())
            .chain(disk.partitions.iter().map(PlanContent::from))
            .collect();
        Self { id: disk.id.clone(), model: disk.model.clone(), contents }
    }
}

impl From<&Partition> for PlanContent {
    fn from(partition: &Partition) -> Self {
        Self {
            name: partition.name.clone(),
            size: partition.size,
            content: partition.content.clone(),
            label: partition.label.clone(),
            mounts: partition.mounts.clone(),
            kept: false,
        }
    }
}
