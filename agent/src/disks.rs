//! Disks: finding those that the payload may write, guarding the others, and noticing writes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anemos_proto::host::DiskId;

use crate::cgroup::Numbers;
use crate::paths::Paths;

/// A disk as the kernel of this boot shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// `sda`.
    pub name: String,
    wwid: Option<String>,
    serial: Option<String>,
    /// Place in the device tree, with the numbers that change between boots taken out.
    place: String,
    size: u64,
}

/// The disks of this machine.
#[derive(Debug, Clone)]
pub struct Disks {
    sys: PathBuf,
}

impl Disks {
    /// Looks under `sys`.
    pub fn new(sys: &Path) -> Self {
        Self { sys: sys.into() }
    }

    /// Names of all disks that are hardware: no loop, RAM, mapper or RAID devices, whose backing disks count instead.
    pub fn names(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.sys.join("block")) else { return Vec::new() };
        let mut names: Vec<String> = entries
            .flatten()
            // Hidden paths of multipath NVMe disks have no device number and can't be opened.
            .filter(|entry| !is_virtual(&entry.path()) && entry.path().join("dev").exists())
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    fn see(&self, name: &str) -> Seen {
        let dir = self.sys.join("block").join(name);
        let place = fs::canonicalize(&dir).unwrap_or_else(|_| dir.clone());
        let place = place.strip_prefix(fs::canonicalize(&self.sys).unwrap_or_default()).unwrap_or(&place);
        let size = text(&dir.join("size")).and_then(|s| s.parse::<u64>().ok()).unwrap_or(0) * 512;
        Seen {
            name: name.into(),
            wwid: text(&dir.join("wwid")).or_else(|| text(&dir.join("device/wwid"))),
            serial: text(&dir.join("serial"))
                .or_else(|| text(&dir.join("device/serial")))
                .or_else(|| page_80(&dir.join("device/vpd_pg80"))),
            place: place_of(&place.to_string_lossy(), name),
            size,
        }
    }

    /// Which of the disks here is each of `wanted`, by name; an error says what is missing or ambiguous.
    pub fn resolve(&self, wanted: &[DiskId]) -> Result<Vec<String>, String> {
        let seen: Vec<Seen> = self.names().iter().map(|name| self.see(name)).collect();
        let found: Vec<String> = wanted.iter().map(|id| pick(&seen, id)).collect::<Result<_, _>>()?;
        let distinct: BTreeSet<&String> = found.iter().collect();
        if distinct.len() != found.len() {
            return Err(format!("two of the disks named for this host are the same one ({})", found.join(", ")));
        }
        Ok(found)
    }

    /// Those of `known` that aren't here.
    pub fn missing<'a>(&self, known: &'a [DiskId]) -> Vec<&'a DiskId> {
        let seen: Vec<Seen> = self.names().iter().map(|name| self.see(name)).collect();
        // One that is ambiguous is here: there are several of it.
        known.iter().filter(|id| !signs(id).iter().any(|(_, matches)| seen.iter().any(matches))).collect()
    }

    /// Sectors written or discarded since the boot (Documentation/block/stat.rst), by disk. The paths of a multipath NVMe
    /// disk are among them: the disk itself counts nothing before Linux 6.3.
    pub fn sectors_written(&self) -> BTreeMap<String, u64> {
        let count = |dir: &Path| {
            let stat = text(&dir.join("stat"))?;
            let fields: Vec<u64> = stat.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
            Some(fields.get(6)? + fields.get(13).copied().unwrap_or(0))
        };
        let entries = fs::read_dir(self.sys.join("block")).into_iter().flatten().flatten();
        let hardware = entries.filter(|entry| !is_virtual(&entry.path()));
        hardware
            .map(|entry| (entry.file_name().to_string_lossy().into_owned(), count(&entry.path()).unwrap_or(0)))
            .collect()
    }

    /// Disk and partitions, as names in `/dev`.
    pub fn with_partitions(&self, name: &str) -> Vec<String> {
        let mut names = vec![name.to_owned()];
        let entries = fs::read_dir(self.sys.join("block").join(name)).into_iter().flatten().flatten();
        names.extend(
            entries
                .filter(|entry| entry.path().join("partition").exists())
                .map(|entry| entry.file_name().to_string_lossy().into_owned()),
        );
        names
    }

    /// Device numbers of every disk but `allowed`, and of its partitions, those that it may yet get included where the
    /// kernel reserves numbers for them.
    pub fn numbers_without(&self, allowed: &[String]) -> Vec<Numbers> {
        let mut found: Vec<Numbers> = Vec::new();
        for disk in self.names().iter().filter(|name| !allowed.contains(name)) {
            for device in self.with_partitions(disk) {
                let dir = self.sys.join("class/block").join(&device);
                let number = text(&dir.join("dev"));
                let number = number.as_deref().and_then(|t| t.split_once(':'));
                let Some((Ok(major), Ok(first))) = number.map(|(a, b)| (a.parse(), b.parse::<u32>())) else { continue };
                let reserved = text(&dir.join("range")).and_then(|t| t.parse().ok()).unwrap_or(1).max(1);
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
        text(&self.sys.join("class/block").join(name).join("ro")).is_some_and(|ro| ro == "1")
    }

    /// Sets every disk but `allowed`, and its partitions, read-only; returns those newly set, and failures.
    pub fn guard(&self, allowed: &[String]) -> (Vec<String>, Vec<String>) {
        let (mut done, mut failed) = (Vec::new(), Vec::new());
        for disk in self.names().iter().filter(|name| !allowed.contains(name)) {
            for device in self.with_partitions(disk) {
                if self.is_read_only(&device) {
                    continue;
                }
                match set_read_only(&device, true) {
                    Ok(()) => done.push(device),
                    // A drive without a medium can't be written either.
                    Err(e) if matches!(e.raw_os_error(), Some(libc::ENOMEDIUM | libc::ENXIO)) => {}
                    Err(e) => failed.push(format!("{device}: {e}")),
                }
            }
        }
        (done, failed)
    }

    /// Takes back that these disks and their partitions were set read-only; returns failures.
    pub fn release(&self, allowed: &[String]) -> Vec<String> {
        let devices = allowed.iter().flat_map(|disk| self.with_partitions(disk));
        let locked = devices.filter(|device| self.is_read_only(device));
        locked.filter_map(|device| Some(format!("{device}: {}", set_read_only(&device, false).err()?))).collect()
    }
}

/// Whether it is a loop, RAM, mapper or RAID device.
fn is_virtual(dir: &Path) -> bool {
    fs::canonicalize(dir).unwrap_or_default().to_string_lossy().contains("/virtual/block/")
}

fn set_read_only(device: &str, on: bool) -> io::Result<()> {
    // Names with a slash have it as `!` in sysfs.
    let path = Path::new("/dev").join(device.replace('!', "/"));
    // A floppy drive without a disk can be opened only so.
    let device = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    crate::sys::set_read_only(&device, on)
}

/// The disks' counters when the agent first looked. It looks before anything could be written.
pub fn baseline(paths: &Paths) -> Result<BTreeMap<String, u64>, String> {
    let path = paths.run.join("baseline");
    if let Ok(text) = fs::read_to_string(&path) {
        let entry = |line: &str| line.split_once(' ').and_then(|(name, n)| Some((name.to_owned(), n.parse().ok()?)));
        return Ok(text.lines().filter_map(entry).collect());
    }
    let found = Disks::new(&paths.sys).sectors_written();
    let text: Vec<String> = found.iter().map(|(name, n)| format!("{name} {n}")).collect();
    fs::write(&path, text.join("\n")).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(found)
}

/// Disks written since `baseline`, with the sectors.
pub fn written(baseline: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) -> Vec<(String, u64)> {
    let grown = |(name, count): (&String, &u64)| {
        let sectors = count.saturating_sub(baseline.get(name).copied().unwrap_or(0));
        (sectors > 0).then(|| (name.clone(), sectors))
    };
    now.iter().filter_map(grown).collect()
}

/// A property that tells disks apart, and whether a disk has it.
type Sign<'a> = (&'a str, Box<dyn Fn(&Seen) -> bool + 'a>);

fn place_before(id: &DiskId) -> String {
    place_of(&id.path, id.name.rsplit('/').next().unwrap_or(&id.name))
}

/// From the strongest to the weakest.
fn signs(id: &DiskId) -> [Sign<'_>; 3] {
    let place = place_before(id);
    let same = |a: &Option<String>, b: &Option<String>| matches!((a, b), (Some(a), Some(b)) if !a.trim().is_empty() && a.trim() == b.trim());
    [
        ("world-wide id", Box::new(move |disk| same(&disk.wwid, &id.wwid))),
        ("serial number", Box::new(move |disk| same(&disk.serial, &id.serial))),
        ("place and size", Box::new(move |disk| !place.is_empty() && disk.place == place && disk.size == id.size)),
    ]
}

/// The one disk that `id` names. The strongest sign that anything here bears decides.
fn pick(seen: &[Seen], id: &DiskId) -> Result<String, String> {
    let place = place_before(id);
    for (sign, matches) in signs(id) {
        let found: Vec<&Seen> = seen.iter().filter(|disk| matches(disk)).collect();
        match found[..] {
            [] => {}
            [disk] if disk.size == id.size => return Ok(disk.name.clone()),
            [disk] => {
                return Err(format!(
                    "{} has the {sign} of what was {}, but {} bytes instead of {}",
                    disk.name, id.name, disk.size, id.size
                ));
            }
            _ => {
                // Several paths to one medium, or a clone's copied id: the size and place must decide.
                let exact: Vec<&&Seen> = found.iter().filter(|d| d.place == place && d.size == id.size).collect();
                if let [disk] = exact[..] {
                    return Ok(disk.name.clone());
                }
                let names: Vec<&str> = found.iter().map(|disk| disk.name.as_str()).collect();
                return Err(format!("{} all have the {sign} of what was {}", names.join(", "), id.name));
            }
        }
    }
    let here: Vec<String> = seen.iter().map(|disk| format!("{} ({} bytes)", disk.name, disk.size)).collect();
    let here = if here.is_empty() { "none".into() } else { here.join(", ") };
    Err(format!(
        "the disk that was {} (serial {}, {} bytes) is not here; disks here: {here}",
        id.name,
        id.serial.as_deref().unwrap_or("unknown"),
        id.size
    ))
}

/// A place in the device tree in a form that is the same in each boot: without the disk's own name, and without the
/// numbers that the kernel gives in the order of probing.
fn place_of(path: &str, name: &str) -> String {
    let path = path.strip_prefix("/sys").unwrap_or(path).trim_start_matches('/');
    let path = path.strip_prefix("devices").unwrap_or(path);
    let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    if parts.last() == Some(&name) {
        parts.pop();
    }
    if parts.last() == Some(&"block") {
        parts.pop();
    }
    let parts: Vec<String> = parts.into_iter().map(stable).collect();
    parts.join("/")
}

fn stable(part: &str) -> String {
    for prefix in ["host", "ata", "virtio", "nvme", "usb", "session", "vmbus_"] {
        if let Some(rest) = part.strip_prefix(prefix)
            && !rest.is_empty()
            && rest.bytes().all(|b| b.is_ascii_digit())
        {
            return format!("{prefix}*");
        }
    }
    // target2:0:1 and 2:0:1:0 begin with the host's number.
    let (word, numbers) = part.strip_prefix("target").map_or(("", part), |rest| ("target", rest));
    let scsi = numbers.split(':').count() == if word.is_empty() { 4 } else { 3 };
    match numbers.split_once(':') {
        Some((host, rest)) if scsi && !host.is_empty() && host.bytes().all(|b| b.is_ascii_digit()) => {
            format!("{word}*:{rest}")
        }
        _ => part.into(),
    }
}

fn text(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// The serial number in a SCSI vital product data page 0x80.
fn page_80(path: &Path) -> Option<String> {
    let page = fs::read(path).ok()?;
    let serial = String::from_utf8_lossy(page.get(4..)?).trim_matches(['\0', ' ']).to_owned();
    (!serial.is_empty()).then_some(serial)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(name: &str, wwid: &str, serial: &str, place: &str, size: u64) -> Seen {
        let some = |s: &str| (!s.is_empty()).then(|| s.to_owned());
        Seen { name: name.into(), wwid: some(wwid), serial: some(serial), place: place_of(place, name), size }
    }

    fn id(wwid: &str, serial: &str, path: &str, size: u64) -> DiskId {
        let some = |s: &str| (!s.is_empty()).then(|| s.to_owned());
        DiskId { name: "/dev/sda".into(), serial: some(serial), wwid: some(wwid), path: path.into(), size }
    }

    #[test]
    fn the_strongest_sign_decides() {
        let disks = [
            seen("sda", "naa.1", "S1", "devices/pci0/ata3/host2/target2:0:0/2:0:0:0/block/sda", 100),
            seen("sdb", "naa.2", "S2", "devices/pci0/ata4/host3/target3:0:0/3:0:0:0/block/sdb", 100),
            seen("vda", "", "", "devices/pci0/0000:00:04.0/virtio1/block/vda", 50),
            seen("vdb", "", "same", "devices/pci0/0000:00:05.0/virtio2/block/vdb", 60),
            seen("vdc", "", "same", "devices/pci0/0000:00:06.0/virtio3/block/vdc", 60),
        ];
        let ok: [(&str, DiskId, &str); 6] = [
            ("wwid before place", id("naa.2", "", "pci0/ata3/host2/target2:0:0/2:0:0:0/block", 100), "sdb"),
            ("serial", id("", "S1", "", 100), "sda"),
            ("serial where the wwid is unknown here", id("naa.9", "S2", "", 100), "sdb"),
            ("place with other numbers", id("", "", "pci0/0000:00:04.0/virtio7/block", 50), "vda"),
            ("place without block", id("", "", "/sys/devices/pci0/0000:00:04.0/virtio7", 50), "vda"),
            ("place decides between equals", id("", "same", "pci0/0000:00:06.0/virtio0/block", 60), "vdc"),
        ];
        for (what, id, name) in ok {
            assert_eq!(pick(&disks, &id).as_deref(), Ok(name), "{what}");
        }
        let wrong: [(&str, DiskId, &str); 4] = [
            ("gone", id("naa.7", "S7", "pci0/nowhere", 100), "is not here"),
            ("other size", id("naa.1", "", "", 101), "instead of 101"),
            ("ambiguous", id("", "same", "", 60), "all have the serial number"),
            ("nothing to go by", id("", "", "", 50), "is not here"),
        ];
        for (what, id, text) in wrong {
            let error = pick(&disks, &id).unwrap_err();
            assert!(error.contains(text), "{what}: {error}");
        }
    }

    #[test]
    fn places_keep_what_is_stable() {
        let cases = [
            ("/sys/devices/pci0000:00/0000:00:04.0/virtio1/block/vda", "vda", "pci0000:00/0000:00:04.0/virtio*"),
            (
                "pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block",
                "sda",
                "pci0000:00/0000:00:1f.2/ata*/host*/target*:0:0/*:0:0:0",
            ),
            ("pci0000:00/0000:00:03.0/nvme/nvme0/nvme0n1", "nvme0n1", "pci0000:00/0000:00:03.0/nvme/nvme*"),
        ];
        for (path, name, expected) in cases {
            assert_eq!(place_of(path, name), expected);
        }
    }

    #[test]
    fn written_is_what_grew() {
        let counts = |pairs: &[(&str, u64)]| pairs.iter().map(|(n, c)| ((*n).to_owned(), *c)).collect();
        let before: BTreeMap<String, u64> = counts(&[("sda", 8), ("sdb", 0)]);
        assert_eq!(written(&before, &before), []);
        let now = counts(&[("sda", 8), ("sdb", 3), ("sdc", 1)]);
        assert_eq!(written(&before, &now), [("sdb".to_owned(), 3), ("sdc".to_owned(), 1)]);
    }

    #[test]
    fn sysfs_is_read() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let place = dir.path().join("devices/pci0/virtio0/block/vda");
        let part = place.join("vda1");
        let loops = dir.path().join("devices/virtual/block/loop0");
        fs::create_dir_all(&part)?;
        fs::create_dir_all(&loops)?;
        fs::create_dir_all(dir.path().join("block"))?;
        for (file, text) in
            [("size", "2048\n"), ("serial", "abc\n"), ("dev", "254:0\n"), ("stat", "1 2 3 4 5 6 77 8 9\n")]
        {
            fs::write(place.join(file), text)?;
            fs::write(loops.join(file), text)?;
        }
        fs::write(part.join("partition"), "1\n")?;
        std::os::unix::fs::symlink("../devices/pci0/virtio0/block/vda", dir.path().join("block/vda"))?;
        std::os::unix::fs::symlink("../devices/virtual/block/loop0", dir.path().join("block/loop0"))?;
        let disks = Disks::new(dir.path());
        assert_eq!(disks.names(), ["vda"]);
        assert_eq!(disks.sectors_written(), BTreeMap::from([("vda".to_owned(), 77)]));
        // As later kernels have it: discards, and what a flush took, after these.
        fs::write(place.join("stat"), "1 2 3 4 5 6 77 8 9 10 11 12 13 1000 15 16 17\n")?;
        assert_eq!(disks.sectors_written()["vda"], 1077, "what is discarded is gone");
        assert_eq!(disks.with_partitions("vda"), ["vda", "vda1"]);
        assert_eq!(disks.resolve(&[id("", "abc", "", 2048 * 512)]), Ok(vec!["vda".to_owned()]));
        fs::create_dir_all(dir.path().join("class"))?;
        std::os::unix::fs::symlink("../block", dir.path().join("class/block"))?;
        fs::write(place.join("range"), "16\n")?;
        assert_eq!(disks.numbers_without(&[]), [Numbers { major: 254, first: 0, last: 15 }]);
        assert_eq!(disks.numbers_without(&["vda".to_owned()]), []);
        let known = [
            id("", "abc", "", 1),
            id("naa.1", "other", "pci0/nowhere", 2048 * 512),
            id("", "", "pci0/virtio3/block", 2048 * 512),
        ];
        assert_eq!(disks.missing(&known), [&known[1]], "by any of its signs a disk is there");
        let twice = disks.resolve(&[id("", "abc", "", 2048 * 512), id("", "abc", "", 2048 * 512)]);
        assert!(twice.unwrap_err().contains("the same one"));
        Ok(())
    }
}
