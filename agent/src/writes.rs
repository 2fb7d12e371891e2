//! Whether disks were written: what the kernel counts, and the disks that took their counters along.
//!
//! All of it is read from files of the kernel's own memory in /sys, and of /run. So it never waits for a disk, and the
//! agent's driver and init read it themselves. (The ids of a disk are not of this kind: virtio asks the device for its
//! serial number each time.)

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use anemos_host::Root;
use anemos_host::disks::hardware;

use crate::paths::Paths;

/// What the kernel counts of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// Sectors of 512 bytes written or discarded since the kernel has this disk.
    pub sectors: u64,
    /// Which disk it is of all that have had its name: see [`life`].
    pub life: String,
}

/// What the kernel counts, by the disk's name.
pub type Counts = BTreeMap<String, Count>;

/// A declared disk, as it was when it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its name in `/sys`.
    pub name: String,
    /// See [`life`].
    pub life: String,
}

/// What tells a disk from every other one that has or will have the same name, be it the same piece of hardware,
/// plugged in again: the kernel's number (`diskseq`, since Linux 5.15), or else the place in `/sys` and the inode
/// number there, which the kernel doesn't give away again.
pub fn life(root: &Root, name: &str) -> String {
    let sys = format!("/sys/block/{name}");
    root.text(&format!("{sys}/diskseq")).unwrap_or_else(|| {
        let place = root.resolve(&sys).unwrap_or_default();
        let inode = fs::metadata(root.at(&sys)).map_or(0, |found| found.ino());
        format!("{place}#{inode}")
    })
}

/// What the kernel counts now (Documentation/block/stat.rst). Includes the hidden paths of multipath NVMe disks,
/// because before Linux 6.3 only the paths count, not the disk.
pub fn counts(root: &Root) -> Counts {
    let sectors = |name: &str| {
        let stat = root.text(&format!("/sys/block/{name}/stat"))?;
        let fields: Vec<u64> = stat.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
        Some(fields.get(6)? + fields.get(13).copied().unwrap_or(0))
    };
    let counted = |name: String| {
        let count = Count { sectors: sectors(&name).unwrap_or(0), life: life(root, &name) };
        (name, count)
    };
    hardware(root).into_iter().map(counted).collect()
}

/// The counters as they were before anything could be written. The first agent of this boot stores them for those that
/// are started after it, and leaves the mark that no disk was exposed yet.
pub fn baseline(paths: &Paths) -> Result<Counts, String> {
    let path = paths.run.join("baseline");
    if let Ok(text) = fs::read_to_string(&path) {
        return Ok(parse(&text));
    }
    let found = counts(&paths.tree);
    let text: Vec<String> = found.iter().map(|(name, n)| format!("{name} {} {}", n.sectors, n.life)).collect();
    let written = fs::write(paths.unexposed(), "").and_then(|()| fs::write(&path, text.join("\n")));
    written.map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(found)
}

pub fn parse(text: &str) -> Counts {
    let entry = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let (name, sectors, life) = (words.next()?, words.next()?.parse().ok()?, words.next()?.to_owned());
        Some((name.to_owned(), Count { sectors, life }))
    };
    text.lines().filter_map(entry).collect()
}

/// Notes that from now on a process may write to disks: a payload or a person's. To be called before the process
/// starts.
pub fn expose(paths: &Paths) {
    // The mark is a file that goes, because even on a full file system a file can be removed.
    let _ = fs::remove_file(paths.unexposed());
}

/// Stores which disks are those declared. They are found so: see [`crate::disks::Disks::resolve`].
pub fn store(paths: &Paths, names: &[String]) -> io::Result<()> {
    let lines: Vec<String> = names.iter().map(|name| format!("{name} {}", life(&paths.tree, name))).collect();
    fs::write(paths.ready_mark(), lines.join("\n"))
}

/// The declared disks as [`store`] stored them; `None` if they were never found.
pub fn found(paths: &Paths) -> Option<Vec<Found>> {
    let text = fs::read_to_string(paths.ready_mark()).ok()?;
    let entry = |line: &str| line.split_once(' ').map(|(name, life)| Found { name: name.into(), life: life.into() });
    Some(text.lines().filter_map(entry).collect())
}

/// Disks written since `baseline`, each with the number of sectors. A declared disk that is gone, or has become another
/// one, counts as one sector once processes were able to write: what was written to it can't be known.
pub fn touched(paths: &Paths, baseline: &Counts) -> Vec<(String, u64)> {
    let now = counts(&paths.tree);
    let mut touched = written(baseline, &now);
    if !paths.unexposed().exists() {
        for name in lost(&found(paths).unwrap_or_default(), &now) {
            if !touched.iter().any(|(other, _)| *other == name) {
                touched.push((name, 1));
            }
        }
    }
    touched
}

/// The disks of `found` that are gone, or whose names others have now.
pub fn lost(found: &[Found], now: &Counts) -> Vec<String> {
    let is_here = |disk: &&Found| now.get(&disk.name).is_some_and(|count| count.life == disk.life);
    found.iter().filter(|disk| !is_here(disk)).map(|disk| disk.name.clone()).collect()
}

/// Disks of `baseline` that are gone, were replaced, or whose counters began anew, so that writes to them can't be
/// known.
pub fn uncounted(baseline: &Counts, now: &Counts) -> Vec<String> {
    let goes_on = |before: &Count, now: &Count| now.life == before.life && now.sectors >= before.sectors;
    let lost = |(name, before): &(&String, &Count)| !now.get(*name).is_some_and(|now| goes_on(before, now));
    baseline.iter().filter(lost).map(|(name, _)| name.clone()).collect()
}

/// Disks whose counters have grown since `baseline`, each with the number of sectors.
pub fn written(baseline: &Counts, now: &Counts) -> Vec<(String, u64)> {
    let mut grown: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for (name, count) in now {
        // Another disk of the same name has counted from zero.
        let before = baseline.get(name).filter(|before| before.life == count.life).map_or(0, |before| before.sectors);
        let sectors = count.sectors.saturating_sub(before);
        let head = head(name);
        let (own, paths) = grown.entry(head.clone().unwrap_or_else(|| name.clone())).or_default();
        let sum = if head.is_some() { paths } else { own };
        *sum = sum.saturating_add(sectors);
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

#[cfg(test)]
mod tests;
