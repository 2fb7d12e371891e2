//! Finds the disks that the payload may write, guards the others, and notices writes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;

use anemos_host::Root;
use anemos_host::disks::{self, dev_path, hardware, partitions};
use anemos_proto::host::DiskId;

use crate::paths::Paths;

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

    /// Sectors of 512 bytes written or discarded since the boot, by name of the disk (Documentation/block/stat.rst).
    /// Includes the hidden paths of multipath NVMe disks, because before Linux 6.3 only the paths count, not the disk.
    pub fn sectors_written(&self) -> BTreeMap<String, u64> {
        let count = |name: &str| {
            let stat = self.root.text(&format!("/sys/block/{name}/stat"))?;
            let fields: Vec<u64> = stat.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
            Some(fields.get(6)? + fields.get(13).copied().unwrap_or(0))
        };
        let counted = |name: String| {
            let count = count(&name).unwrap_or(0);
            (name, count)
        };
        hardware(&self.root).into_iter().map(counted).collect()
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
    fn is_read_only(&self, name: &str) -> bool {
        self.root.flag(&format!("/sys/class/block/{name}/ro"))
    }

    /// Sets every disk but `allowed`, and its partitions, read-only; returns the devices that were not before, and
    /// failures.
    pub fn guard(&self, allowed: &[String]) -> (Vec<String>, Vec<String>) {
        let (mut done, mut failed) = (Vec::new(), Vec::new());
        for disk in self.names().iter().filter(|name| !allowed.contains(name)) {
            for device in self.with_partitions(disk) {
                if self.is_read_only(&device) {
                    continue;
                }
                match set_read_only(&device, true) {
                    Ok(()) => done.push(device),
                    // A drive without a medium can't be set read-only, and can't be written.
                    Err(e) if matches!(e.raw_os_error(), Some(libc::ENOMEDIUM | libc::ENXIO)) => {}
                    Err(e) => failed.push(format!("{device}: {e}")),
                }
            }
        }
        (done, failed)
    }

    /// Makes these disks and their partitions writable again; returns failures.
    pub fn release(&self, allowed: &[String]) -> Vec<String> {
        let devices = allowed.iter().flat_map(|disk| self.with_partitions(disk));
        let locked = devices.filter(|device| self.is_read_only(device));
        locked.filter_map(|device| Some(format!("{device}: {}", set_read_only(&device, false).err()?))).collect()
    }
}

fn set_read_only(device: &str, on: bool) -> io::Result<()> {
    // Without O_NONBLOCK a floppy drive without a disk can't be opened.
    let device = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(dev_path(device))?;
    crate::sys::set_read_only(&device, on)
}

/// The disks' counters as they were before anything could be written. The first agent of this boot stores them for
/// those that are started after it.
pub fn baseline(paths: &Paths) -> Result<BTreeMap<String, u64>, String> {
    let path = paths.run.join("baseline");
    if let Ok(text) = fs::read_to_string(&path) {
        let entry = |line: &str| line.split_once(' ').and_then(|(name, n)| Some((name.to_owned(), n.parse().ok()?)));
        return Ok(text.lines().filter_map(entry).collect());
    }
    let found = Disks::new(&paths.tree).sectors_written();
    let text: Vec<String> = found.iter().map(|(name, n)| format!("{name} {n}")).collect();
    fs::write(&path, text.join("\n")).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(found)
}

/// Disks of `baseline` that are gone or whose counters began anew, so that writes to them can't be known.
pub fn uncounted(baseline: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) -> Vec<String> {
    let lost = |(name, before): &(&String, &u64)| now.get(*name).is_none_or(|count| count < *before);
    baseline.iter().filter(lost).map(|(name, _)| name.clone()).collect()
}

/// Disks written since `baseline`, each with the number of sectors.
pub fn written(baseline: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) -> Vec<(String, u64)> {
    let mut grown: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for (name, count) in now {
        let sectors = count.saturating_sub(baseline.get(name).copied().unwrap_or(0));
        let head = head(name);
        let (own, paths) = grown.entry(head.clone().unwrap_or_else(|| name.clone())).or_default();
        *if head.is_some() { paths } else { own } += sectors;
    }
    // Since Linux 6.3 a write counts for the path and for the disk, so the two must not be added up.
    grown.into_iter().map(|(name, (own, paths))| (name, own.max(paths))).filter(|(_, sectors)| *sectors > 0).collect()
}

/// The disk that a hidden path of a multipath NVMe disk leads to: `nvme0n1` for `nvme0c3n1`.
fn head(path: &str) -> Option<String> {
    let (subsystem, rest) = path.strip_prefix("nvme")?.split_once('c')?;
    let (_, namespace) = rest.split_once('n')?;
    Some(format!("nvme{subsystem}n{namespace}"))
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
