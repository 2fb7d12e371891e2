//! The disks of this machine, and which of them are those that the payload may write.

use std::collections::BTreeSet;

use anemos_host::Root;
use anemos_host::disks::{self, hardware, partitions};
use anemos_proto::host::DiskId;

/// Block devices with one major number: `first..=last` of the minor ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    /// Major number.
    pub major: u32,
    /// First minor number.
    pub first: u32,
    /// Last minor number.
    pub last: u32,
}

/// The disks of this machine.
#[derive(Debug, Clone)]
pub struct Disks {
    root: Root,
}

impl Disks {
    /// Reads `/sys` under `root`.
    pub fn new(root: &Root) -> Self {
        Self { root: root.clone() }
    }

    /// Sorted names in `/sys` of all disks that are hardware and can be opened.
    pub fn names(&self) -> Vec<String> {
        let mut names = hardware(&self.root);
        // The hidden paths of multipath NVMe disks have no device number and can't be opened.
        names.retain(|name| self.root.text(&format!("/sys/block/{name}/dev")).is_some());
        names
    }

    /// Every disk, with its name in `/sys`.
    fn here(&self) -> Vec<(String, DiskId)> {
        let see = |name: String| {
            let id = disks::id(&self.root, &name);
            (name, id)
        };
        self.names().into_iter().map(see).collect()
    }

    /// Finds each of `wanted` among the disks of this machine; returns their names in `/sys`. An error says which disk
    /// is missing or can't be told from another. `known` are all disks of the old system: an id that two of them share
    /// identifies neither.
    pub fn resolve(&self, wanted: &[DiskId], known: &[DiskId]) -> Result<Vec<String>, String> {
        let here = self.here();
        let found: Vec<String> = wanted.iter().map(|id| pick(&here, id, known)).collect::<Result<_, _>>()?;
        let distinct: BTreeSet<&String> = found.iter().collect();
        if distinct.len() != found.len() {
            return Err(format!("two of the disks named for this host are the same one ({})", found.join(", ")));
        }
        Ok(found)
    }

    /// The names in `found` that still belong to their disks. [`Disks::resolve`] has returned `found` for `wanted`; a
    /// disk that was plugged in since may have got a name that another had.
    pub fn still(&self, found: &[String], wanted: &[DiskId]) -> Vec<String> {
        let is_other = |name: &str, id: &DiskId| {
            let here = disks::id(&self.root, name);
            // A payload may make the namespaces of its disk anew, which changes world-wide id and size, but not the
            // serial number.
            let by_serial = id.serial.is_some() && here.serial.is_some();
            let wwid = if by_serial { here.wwid.clone() } else { id.wwid.clone() };
            DiskId { wwid, size: here.size, ..id.clone() }.contradiction(&here).is_some()
        };
        found.iter().zip(wanted).filter(|(name, id)| !is_other(name, id)).map(|(name, _)| name.clone()).collect()
    }

    /// The disks of `known` that this machine doesn't show. Leaves out disks that nothing tells from others, since they
    /// could not be recognised.
    pub fn missing<'a>(&self, known: &'a [DiskId]) -> Vec<&'a DiskId> {
        let here = self.here();
        known.iter().filter(|id| id.is(id) && !here.iter().any(|(_, disk)| id.is(disk))).collect()
    }

    /// Names in `/sys` of a disk and its partitions.
    pub fn with_partitions(&self, name: &str) -> Vec<String> {
        let mut names = vec![name.to_owned()];
        names.extend(partitions(&self.root, name));
        names
    }

    /// Device numbers of every disk but `allowed`, and of its partitions. Where the kernel reserves numbers for a
    /// disk's partitions, partitions that the disk doesn't have yet are included.
    pub fn numbers_without(&self, allowed: &[String]) -> Vec<Numbers> {
        let mut found: Vec<Numbers> = Vec::new();
        for disk in self.names().iter().filter(|name| !allowed.contains(name)) {
            for device in self.with_partitions(disk) {
                let dir = format!("/sys/class/block/{device}");
                let number = self.root.text(&format!("{dir}/dev"));
                let number = number.as_deref().and_then(|t| t.split_once(':'));
                let Some((Ok(major), Ok(first))) = number.map(|(a, b)| (a.parse(), b.parse::<u32>())) else { continue };
                let reserved = self.root.text(&format!("{dir}/range")).and_then(|t| t.parse().ok()).unwrap_or(1).max(1);
                let known = |n: &Numbers| n.major == major && (n.first..=n.last).contains(&first);
                if !found.iter().any(known) {
                    found.push(Numbers { major, first, last: first.saturating_add(reserved - 1) });
                }
            }
        }
        found
    }

    /// Whether the kernel has the device set read-only.
    pub fn is_read_only(&self, name: &str) -> bool {
        self.root.flag(&format!("/sys/class/block/{name}/ro"))
    }
}

/// The ids of a disk in words, for an error.
fn ids(id: &DiskId) -> String {
    let or = |id: &Option<String>| id.clone().unwrap_or_else(|| "unknown".into());
    let place = if id.has_id() { String::new() } else { format!(", at {}", id.path) };
    format!("serial {}, world-wide id {}, {} bytes{place}", or(&id.serial), or(&id.wwid), id.size)
}

/// The name of the one disk in `here` that is `id`. Fails if none is, if several could be, or if the old system had
/// several disks with these ids (`known`).
fn pick(here: &[(String, DiskId)], id: &DiskId, known: &[DiskId]) -> Result<String, String> {
    let alike: Vec<&str> = known.iter().filter(|other| id.is(other)).map(|other| &*other.name).collect();
    if alike.len() > 1 {
        return Err(format!("the old system's {} can't be told apart ({})", alike.join(" and "), ids(id)));
    }
    let found: Vec<&(String, DiskId)> = here.iter().filter(|(_, disk)| id.is(disk)).collect();
    if let [(name, _)] = found[..] {
        return Ok(name.clone());
    }
    let (what, listed) = if found.is_empty() {
        let why = |(name, disk): &(String, DiskId)| {
            let why = id
                .contradiction(disk)
                .unwrap_or_else(|| if id.has_id() { "shows none of these ids" } else { "is at another place" }.into());
            format!("{name} {why}")
        };
        ("is not here", here.iter().map(why).collect::<Vec<_>>())
    } else {
        let at = |(name, disk): &&(String, DiskId)| format!("{name} is one, at {}", disk.path);
        ("can't be told from others", found.iter().map(at).collect())
    };
    let listed = if listed.is_empty() { "no disk is".into() } else { listed.join("; ") };
    Err(format!("the disk that was {} ({}) {what}: {listed}", id.name, ids(id)))
}

#[cfg(test)]
#[path = "disks_tests.rs"]
mod tests;
