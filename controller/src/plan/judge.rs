//! From facts and choices to a plan. Pure: the same facts and choices give the same plan.

use std::collections::HashSet;

use anemos_proto::host::{Disk, Firmware, HostFacts};
use anemos_proto::stage::{KernelSource, Proxy};

use super::{Choices, Plan, PlanDisk, base, kexec, memory, watchdogs, way};
use crate::config::select_disks;
use crate::payload::Keep;

/// The plan that follows from the host's facts and what was chosen for it.
pub fn judge(facts: &HostFacts, choices: Choices) -> Plan {
    let (wipe, mut refusals) = match select_disks(&choices.disks, &facts.disks) {
        Ok(disks) => (disks, Vec::new()),
        Err(error) => (Vec::new(), vec![error.to_string()]),
    };
    refusals.extend(wipe.iter().filter_map(|disk| out_of_reach(disk)));
    refusals.extend(system_refusals(facts, choices.kernel));
    let kept = Kept::find(wipe.first().copied(), &choices.keeps);
    let mut warnings: Vec<String> = memory::warning(facts, choices.base_size).into_iter().collect();
    warnings.extend(base::warnings(facts, &choices));
    warnings.extend(system_warnings(facts));
    refusals.extend(unsigned(facts, choices.is_unsigned));
    warnings.extend(wipe.iter().flat_map(|disk| disk_warnings(disk, &kept)));
    warnings.extend(old_starts(facts, &wipe));
    let uploads = base::uploads(facts, &choices);
    let base_source = base::text(facts, &choices);
    refusals.extend(memory::refusal(facts, choices.base_size));
    let unfit = unfit(facts);
    let host_fits = unfit.is_none() && facts.kexec.refused.is_none();
    let unfit = unfit.filter(|_| choices.kernel == KernelSource::Host);
    let (kernel_source, kernel) = if choices.kernel == KernelSource::Locked || unfit.is_some() {
        (KernelSource::Locked, choices.locked_kernel.clone())
    } else {
        (KernelSource::Host, Some(facts.kernel_release.clone()))
    };
    match (unfit, &kernel) {
        (Some(why), Some(_)) => warnings.push(format!("{why}: the locked kernel boots instead")),
        (Some(why), None) => refusals.push(format!(
            "{why}, and base.lock names no kernel to boot instead: name a lock that does, or boot another kernel"
        )),
        (None, _) => {}
    }
    let plan_disk = |disk: &Disk| {
        let mut shown = PlanDisk::from(disk);
        shown.contents.iter_mut().for_each(|content| content.kept = kept.names.contains(&content.name));
        shown
    };
    let untouched = facts.disks.iter().filter(|disk| !wipe.iter().any(|wiped| wiped.id == disk.id));
    let untouched = untouched.map(PlanDisk::from).collect();
    let wipe = wipe.into_iter().map(plan_disk).collect();
    refusals.extend(base::refusals(facts, &choices, kernel_source));
    warnings.extend(kexec::warnings(facts, kernel_source, host_fits));
    warnings.extend(watchdogs::warnings(&facts.watchdogs));
    refusals.extend(watchdogs::refusals(&facts.watchdogs, kernel_source, host_fits));
    warnings.extend(kept.made);
    refusals.extend(kept.refusals);
    let mut seen = HashSet::new();
    warnings.retain(|warning| seen.insert(warning.clone()));
    Plan {
        host: choices.host,
        address: choices.address,
        becomes: choices.becomes,
        host_key: choices.host_key,
        hostname: facts.hostname.clone(),
        os: facts.os.clone(),
        system: choices.system,
        arch: facts.arch.clone(),
        firmware: facts.firmware.into(),
        memory_total: facts.memory_total,
        through: way::through(facts),
        wipe,
        untouched,
        upload_bytes: uploads.iter().filter(|upload| !upload.cached).map(|upload| upload.bytes).sum(),
        uploads,
        kernel: kernel.unwrap_or_default(),
        kernel_source,
        hang_covered: watchdogs::cover_the_boot(&facts.watchdogs, kernel_source),
        base: choices.base,
        groups: choices.groups,
        base_source,
        proxy: match choices.proxy {
            Proxy::Own => facts.proxy.clone(),
            Proxy::Direct => None,
            Proxy::At(url) => Some(url),
        },
        payload: choices.payload,
        finish: choices.finish,
        check: choices.check,
        verify_key: choices.verify_key,
        warnings,
        refusals,
    }
}

/// Why the payload could not write a disk that it is to write, if RAM can't have it.
fn out_of_reach(disk: &Disk) -> Option<String> {
    let why = disk.out_of_reach.as_ref()?;
    Some(format!(
        "{} can't be had in RAM, where nothing makes it a disk: it is {why}. Name a disk of the machine's own in \
         hosts.toml; of a disk with several paths, unplug all but one and end multipathd for the deployment",
        disk.id.name
    ))
}

/// Why no new kernel can be booted, or the host would not be reached in RAM.
fn system_refusals(facts: &HostFacts, wanted: KernelSource) -> Vec<String> {
    let mut refusals: Vec<String> = kexec::refusal(facts, wanted == KernelSource::Host).into_iter().collect();
    if !facts.lost_ways.is_empty() {
        let others: Vec<String> = facts.instead.iter().map(ToString::to_string).collect();
        let instead = match &others[..] {
            [] => String::new(),
            [one] => format!("it would have {one} there, so give that as its `address` if it is reached at it; or "),
            all => format!(
                "it would have {} there, so give one of these as its `address` if it is reached at it; or ",
                all.join(" and ")
            ),
        };
        refusals.push(format!(
            "the host is reached through {}, which can't be restored in RAM: {instead}move its address and default \
             route to a network card, or to a VLAN, a bond or a bridge of cards, for the deployment",
            facts.lost_ways.join(" and ")
        ));
    }
    refusals
}

/// Why the host's own kernel can't run the system in RAM, if that is so.
fn unfit(facts: &HostFacts) -> Option<String> {
    let release = &facts.kernel_release;
    if !facts.kernel_lacks.is_empty() {
        return Some(format!("the host's kernel {release} lacks {}", facts.kernel_lacks.join(", ")));
    }
    facts.kernel_image.is_none().then(|| format!("no readable image of the running kernel {release}"))
}

/// Why the firmware would not start what the payload makes, if that is known.
fn unsigned(facts: &HostFacts, is_unsigned: bool) -> Option<String> {
    let enforced = facts.firmware == Firmware::Uefi { secure_boot: true };
    (enforced && is_unsigned).then(|| {
        "Secure Boot is on, and the IMGBUILD has no signed boot loader, so the firmware would not start the new \
         system: add `shim-signed` to its `packages` (target=debian), or switch Secure Boot off"
            .into()
    })
}

/// What may stand in the way of the boot.
fn system_warnings(facts: &HostFacts) -> Vec<String> {
    let mut warnings = Vec::new();
    if facts.firmware == (Firmware::Uefi { secure_boot: true }) {
        warnings.push(
            "Secure Boot is on: only a kernel signed for this machine will load, and so for the new system".into(),
        );
    }
    warnings.extend([false, true].into_iter().filter_map(|v6| way::lost_default(facts, v6)));
    warnings.extend(way::unknown_client(facts));
    warnings
}

/// What stays on the disk that is overwritten.
#[derive(Default)]
struct Kept {
    /// Partitions, `/dev/…`.
    names: Vec<String>,
    /// Warnings about partitions that are not there, and will be made.
    made: Vec<String>,
    refusals: Vec<String>,
}

impl Kept {
    fn find(disk: Option<&Disk>, keeps: &[Keep]) -> Self {
        let mut kept = Self::default();
        let Some(disk) = disk else { return kept };
        let on = &disk.id.name;
        for Keep { label, or_made } in keeps {
            let labelled = disk.partitions.iter().filter(|part| part.label.as_ref() == Some(label));
            match &labelled.map(|part| part.name.clone()).collect::<Vec<_>>()[..] {
                [one] => kept.names.push(one.clone()),
                [] if *or_made => {
                    kept.made.push(format!("{on} has no partition labelled “{label}” to keep: it is made"));
                }
                [] => kept.refusals.push(format!(
                    "{on} has no partition labelled “{label}”, which the IMGBUILD's `filesystems` says to keep: label \
                     it, or give a size with which it is made"
                )),
                several => kept.refusals.push(format!(
                    "{} are both labelled “{label}”, and the IMGBUILD's `filesystems` says to keep one: give the other \
                     another label",
                    several.join(" and ")
                )),
            }
        }
        kept
    }
}

/// What would be missed on a disk that is wiped. Where a system keeps itself is not worth a warning.
fn disk_warnings(disk: &Disk, kept: &Kept) -> Vec<String> {
    let name = &disk.id.name;
    let mut warnings = Vec::new();
    let lost = disk.partitions.iter().filter(|part| !kept.names.contains(&part.name));
    let parts = lost.map(|part| (&part.name, &part.content, &part.mounts));
    for (part, content, mounts) in parts.chain([(name, &disk.content, &disk.mounts)]) {
        for mount in mounts.iter().filter(|mount| !is_system(mount)) {
            warnings.push(format!("{part} is mounted on {mount}: what is there will be lost"));
        }
        if let Some(content) = content
            && is_member(content)
        {
            warnings.push(format!("{part} is part of something larger ({content}), which may span other disks"));
        }
    }
    if disk.read_only {
        warnings.push(format!("{name} is read-only: the payload may not be able to write it"));
    }
    if disk.removable {
        warnings.push(format!("{name} is removable"));
    }
    warnings
}

/// What is not known of a machine that keeps a disk from which it starts now.
fn old_starts(facts: &HostFacts, wipe: &[&Disk]) -> Option<String> {
    let mounts = |disk: &&Disk| {
        let parts = disk.partitions.iter().flat_map(|part| &part.mounts);
        parts.chain(&disk.mounts).any(|mount| matches!(&**mount, "/" | "/boot" | "/boot/efi" | "/efi"))
    };
    let kept = facts.disks.iter().filter(mounts).filter(|disk| !wipe.iter().any(|wiped| wiped.id == disk.id));
    let kept: Vec<&str> = kept.map(|disk| &*disk.id.name).collect();
    let written = wipe.first().filter(|_| !kept.is_empty())?;
    Some(format!(
        "the old system starts from {}, which {}: the firmware may start that again and not {}, and the host would end \
         as held. Look at the boot order of its firmware",
        kept.join(" and "),
        if let [_] = kept[..] { "stays as it is" } else { "stay as they are" },
        written.id.name
    ))
}

/// Whether a system keeps itself there.
pub(super) fn is_system(mount: &str) -> bool {
    matches!(mount, "/" | "/boot" | "/boot/efi" | "/efi" | "/usr" | "/var" | "/tmp" | "/var/tmp" | "[SWAP]")
}

fn is_member(content: &str) -> bool {
    matches!(content, "LVM2_member" | "linux_raid_member" | "zfs_member" | "bcache" | "drbd" | "ceph_bluestore")
}
