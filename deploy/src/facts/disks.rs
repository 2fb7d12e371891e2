//! Whole disks and their partitions, from `/sys/block`.

use std::collections::BTreeSet;
use std::io::Read;

use anemos_host::Root;
use anemos_host::disks::{SECTOR, dev_path, id, partitions, whole};
use anemos_host::mounts::Mount;
use anemos_proto::host::{Disk, Partition};

use super::signature::{self, Content};

/// What is mounted, and what is swap in use, to be matched with devices.
#[derive(Debug, Default)]
pub struct InUse {
    /// From mountinfo.
    pub mounts: Vec<Mount>,
    /// Device paths of swap.
    pub swaps: Vec<String>,
}

/// Every whole disk.
pub fn disks(root: &Root, in_use: &InUse) -> Vec<Disk> {
    whole(root).iter().map(|name| disk(root, name, in_use)).collect()
}

fn disk(root: &Root, name: &str, in_use: &InUse) -> Disk {
    let sys = format!("/sys/block/{name}");
    let head = head(root, &dev_path(name));
    let content = signature::content(&head).map(|content| content.kind.to_owned());
    let partitions = partitions(root, name);
    let partitions = partitions.iter().map(|part| partition(root, &format!("{sys}/{part}"), part, in_use)).collect();
    Disk {
        id: id(root, name),
        model: model(root, &sys),
        removable: root.flag(&format!("{sys}/removable")),
        rotational: root.flag(&format!("{sys}/queue/rotational")),
        read_only: root.flag(&format!("{sys}/ro")),
        table: signature::table(&head).map(str::to_owned),
        content,
        partitions,
        mounts: mounted(root, &sys, name, in_use),
        out_of_reach: out_of_reach(root, name),
    }
}

/// Why RAM can't have the disk, in words that follow `it is`: something of the old system makes it a disk, and is not
/// there. `None` if RAM can have it.
fn out_of_reach(root: &Root, name: &str) -> Option<String> {
    for holder in root.names(&format!("/sys/block/{name}/holders")) {
        let text = |file: &str| root.text(&format!("/sys/block/{holder}/dm/{file}"));
        if text("uuid").is_some_and(|uuid| uuid.starts_with("mpath-")) {
            let called = text("name").unwrap_or(holder);
            return Some(format!("one of the paths of the multipath disk {called}"));
        }
    }
    remote(root, name).map(|how| format!("reached over the network ({how})"))
}

/// How a disk is reached over the network, if it is.
pub fn remote(root: &Root, name: &str) -> Option<String> {
    let path = root.resolve(&format!("/sys/block/{name}"))?;
    let is = |part: &str, word: &str| {
        let number = part.strip_prefix(word).unwrap_or_default();
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    // An iSCSI session, also one that a card has opened by itself; and the control device of an FCoE link.
    if path.split('/').any(|part| is(part, "session")) {
        return Some("iSCSI".into());
    }
    if path.split('/').any(|part| is(part, "ctlr_")) {
        return Some("FCoE".into());
    }
    if !name.starts_with("nvme") {
        return None;
    }
    // The controllers of an NVMe disk: the one that it is below, or those that its subsystem has.
    let above = path.rsplit_once('/').map_or("", |(above, _)| above);
    let below = root.names(above).into_iter().filter(|name| is(name, "nvme")).map(|name| format!("{above}/{name}"));
    let transports = below.chain([above.to_owned()]).filter_map(|path| root.text(&format!("{path}/transport")));
    let transports: Vec<String> = transports.collect();
    let is_local = transports.iter().any(|transport| matches!(&**transport, "pcie" | "apple-nvme"));
    transports.first().filter(|_| !is_local).map(|transport| format!("NVMe over {transport}"))
}

fn model(root: &Root, sys: &str) -> String {
    // Leaves out vendors that don't help a person: `ATA` is the transport, and virtio's is a number.
    let vendor = root.text(&format!("{sys}/device/vendor")).filter(|v| v != "ATA" && !v.starts_with("0x"));
    let model = root.text(&format!("{sys}/device/model")).or_else(|| root.text(&format!("{sys}/device/name")));
    let words = [vendor, model].into_iter().flatten().filter(|text| !text.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

fn partition(root: &Root, sys: &str, name: &str, in_use: &InUse) -> Partition {
    let found = signature::content(&head(root, &dev_path(name)));
    let (content, label) = match found {
        Some(Content { kind, label }) => (Some(kind.to_owned()), label),
        None => (None, None),
    };
    Partition {
        name: dev_path(name),
        size: root.number(&format!("{sys}/size")).unwrap_or(0) * SECTOR,
        content,
        label,
        mounts: mounted(root, sys, name, in_use),
    }
}

/// Where the device at `sys`, or something on top of it (LVM, RAID, crypt), is mounted.
fn mounted(root: &Root, sys: &str, name: &str, in_use: &InUse) -> Vec<String> {
    let mut stack = vec![(sys.to_owned(), name.to_owned())];
    let mut seen = BTreeSet::new();
    let mut targets = BTreeSet::new();
    while let Some((sys, name)) = stack.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        let number = root.text(&format!("{sys}/dev")).unwrap_or_default();
        let mapped = root.text(&format!("{sys}/dm/name")).map(|name| format!("/dev/mapper/{name}"));
        let is_me = |path: &str| path == dev_path(&name) || Some(path) == mapped.as_deref();
        for mount in &in_use.mounts {
            // Compares sources as well, since btrfs shows an anonymous device number.
            if mount.device == number || is_me(&mount.source) {
                targets.insert(mount.target.clone());
            }
        }
        if in_use.swaps.iter().any(|path| is_me(path)) {
            targets.insert("[SWAP]".into());
        }
        for holder in root.names(&format!("{sys}/holders")) {
            stack.push((format!("/sys/block/{holder}"), holder));
        }
    }
    targets.into_iter().collect()
}

fn head(root: &Root, device: &str) -> Vec<u8> {
    let mut head = Vec::new();
    if let Ok(file) = std::fs::File::open(root.at(device)) {
        // Errors are ignored: a disk that can't be read is shown without a signature.
        _ = file.take(signature::HEAD as u64).read_to_end(&mut head);
    }
    head
}

#[cfg(test)]
#[path = "disks_tests.rs"]
pub(super) mod tests;
