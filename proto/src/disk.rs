//! Which disk is which under two kernels. Stage and agent read what names a disk in the same way (crate anemos-host).

use crate::host::DiskId;

/// Beginnings of parts of a device path that are numbered in the order of probing or discovery: below them no number
/// tells where a disk is plugged in.
const NO_PLACE: [&str; 6] = ["virtual", "session", "rport-", "end_device-", "vmbus_", "nvme-subsys"];

/// Parts that are numbered so as well, but are the only ones below what is above them, or what is below them tells
/// more.
const ONE: [&str; 4] = ["host", "virtio", "nvme", "usb"];

impl DiskId {
    /// Why `here` can't be this disk, in words that follow its name: an id that both have differs, or the size does. A
    /// world-wide id in another form (`t10.…` and `naa.…`) may be the same disk's, as another kernel prefers it, but
    /// nothing shows that.
    pub fn contradiction(&self, here: &Self) -> Option<String> {
        let differ = |a: &Option<String>, b: &Option<String>| match (a, b) {
            // Kernels pad ids with spaces, or don't.
            (Some(a), Some(b)) if !a.split_whitespace().eq(b.split_whitespace()) => Some((a.clone(), b.clone())),
            _ => None,
        };
        let mut has = Vec::new();
        if let Some((_, other)) = differ(&self.serial, &here.serial) {
            has.push(format!("the serial number {other}"));
        }
        if let Some((mine, other)) = differ(&self.wwid, &here.wwid) {
            let form = |id: &str| id.split_once('.').map_or(String::new(), |(form, _)| form.to_owned());
            has.push(if form(&mine) == form(&other) {
                format!("the world-wide id {other}")
            } else {
                format!(
                    "a world-wide id of another form, {other}, which can't be compared (the kernel that the host ran, \
                     `kernel = \"host\"`, gives the same form)"
                )
            });
        }
        if self.size != here.size {
            has.push(format!("{} bytes", here.size));
        }
        (!has.is_empty()).then(|| format!("has {}", has.join(" and ")))
    }

    /// Whether `here` is this disk, as far as can be told: nothing contradicts, and one of the ids is the same. Place
    /// and size count only where this disk has no id at all.
    pub fn is(&self, here: &Self) -> bool {
        // Both have it, and it doesn't differ.
        let same = |a: &Option<String>, b: &Option<String>| a.is_some() && b.is_some();
        self.contradiction(here).is_none()
            && if self.has_id() {
                same(&self.wwid, &here.wwid) || same(&self.serial, &here.serial)
            } else {
                self.place().is_some_and(|place| here.place() == Some(place))
            }
    }

    /// Whether it has a world-wide id or a serial number.
    pub fn has_id(&self) -> bool {
        self.wwid.is_some() || self.serial.is_some()
    }

    /// Where it is plugged in, in a form that is the same in each boot, if its path tells that.
    pub fn place(&self) -> Option<String> {
        let path = self.path.strip_prefix("/sys").unwrap_or(&self.path).trim_start_matches('/');
        let path = path.strip_prefix("devices/").unwrap_or(path);
        let parts: Vec<String> = path.split('/').map(stable).collect::<Option<_>>()?;
        (!path.is_empty()).then(|| parts.join("/"))
    }
}

/// Whether a part of a path is this word and a number.
fn number(part: &str, word: &str) -> bool {
    part.strip_prefix(word).is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
}

/// A part of a device path without numbers that change between boots; `None` if it makes the path worthless.
fn stable(part: &str) -> Option<String> {
    // An ATA port's number in the whole machine changes with the controllers before it.
    if number(part, "ata") || NO_PLACE.iter().any(|begin| part.starts_with(begin)) {
        return None;
    }
    if let Some((_, port)) = part.split_once('.').filter(|(ata, _)| number(ata, "ata")) {
        return Some(format!("ata*.{port}"));
    }
    if let Some(word) = ONE.iter().find(|word| number(part, word)) {
        return Some(format!("{word}*"));
    }
    // target2:0:1 and 2:0:1:0 begin with the host's number.
    let (word, numbers) = part.strip_prefix("target").map_or(("", part), |rest| ("target", rest));
    let scsi = numbers.split(':').count() == if word.is_empty() { 4 } else { 3 };
    Some(match numbers.split_once(':') {
        Some((host, rest)) if scsi && number(host, "") => format!("{word}*:{rest}"),
        _ => part.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(text: &str) -> Option<String> {
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// A disk of 100 bytes with these ids; an empty one is none.
    fn id(wwid: &str, serial: &str, path: &str) -> DiskId {
        DiskId { name: "/dev/x".into(), serial: some(serial), wwid: some(wwid), path: path.into(), size: 100 }
    }

    /// As kernels show them: what the wanted disk showed under the old one, and what a disk shows in RAM.
    #[test]
    fn whether_two_are_the_same() {
        let nvme = |slot: u32| format!("/sys/devices/pci0000:00/0000:0{slot}:00.0/nvme/nvme{slot}");
        let head = |n: u32| format!("/sys/devices/virtual/nvme-subsystem/nvme-subsys{n}");
        let lun = |host: u32, lun: u32| {
            format!("/sys/devices/pci0000:00/0000:0{host}:00.0/host{host}/target{host}:0:0/{host}:0:0:{lun}/block")
        };
        let usb = |port: u32| {
            format!("/sys/devices/pci0000:00/0000:00:14.0/usb2/2-{port}/2-{port}:1.0/host6/target6:0:0/6:0:0:0/block")
        };
        let samsung = "eui.0025385b01417f2c";
        let nguid = "eui.002538b3214019010025385b01417f2c";
        let fallback = "nvme.1b36-616263-51454d55204e564d65204374726c-00000001";
        let cases = [
            (
                "an NVMe disk that became a head, and shows the same",
                id(samsung, "S4EV", &nvme(1)),
                id(samsung, "S4EV", &head(0)),
                true,
            ),
            (
                "a head whose number is another's now",
                id(samsung, "S4EV", &head(0)),
                id("eui.0025385b01417f2d", "S4EW", &head(0)),
                false,
            ),
            (
                "the next namespace of one NVMe disk",
                id("eui.0001", "S4EV", &nvme(1)),
                id("eui.0002", "S4EV", &nvme(1)),
                false,
            ),
            (
                "a kernel that prefers the NGUID to the EUI-64",
                id(samsung, "S4EV", &nvme(1)),
                id(nguid, "S4EV", &nvme(1)),
                false,
            ),
            (
                "a kernel that distrusts the EUI-64 of this model",
                id(samsung, "S4EV", &nvme(1)),
                id("nvme.144d-53344556-53616d73756e67-00000001", "S4EV", &nvme(1)),
                false,
            ),
            (
                "two of a model with one EUI-64 for all",
                id(samsung, "S4EV", &nvme(1)),
                id(samsung, "S4EW", &nvme(2)),
                false,
            ),
            (
                "an NVMe disk without EUI-64 and NGUID",
                id(fallback, "abc", &nvme(1)),
                id(fallback, "abc", &nvme(7)),
                true,
            ),
            ("another namespace without any id", id("", "", &head(0)), id("", "", &head(0)), false),
            ("two paths to one LUN", id("naa.6001405", "L", &lun(2, 1)), id("naa.6001405", "L", &lun(3, 1)), true),
            (
                "another LUN of an array with one serial number for all",
                id("naa.6001405", "L", &lun(2, 1)),
                id("naa.6001406", "L", &lun(2, 1)),
                false,
            ),
            (
                "a clone with the serial number, elsewhere",
                id("", "clone", &lun(2, 0)),
                id("", "clone", &lun(3, 0)),
                true,
            ),
            (
                "a clone that got a world-wide id of its own",
                id("naa.1", "clone", &lun(2, 0)),
                id("naa.2", "clone", &lun(2, 0)),
                false,
            ),
            (
                "two USB bridges with a fixed serial number",
                id("", "0123456789ABCDEF", &usb(1)),
                id("", "0123456789ABCDEF", &usb(2)),
                true,
            ),
            (
                "a USB bridge that now lets the disk's own serial number through",
                id("", "0123456789ABCDEF", &usb(1)),
                id("", "WD-WCC4", &usb(1)),
                false,
            ),
            ("a USB disk without a serial number, at its port", id("", "", &usb(1)), id("", "", &usb(1)), true),
            ("one at the next port", id("", "", &usb(1)), id("", "", &usb(2)), false),
        ];
        for (what, wanted, here, same) in cases {
            assert_eq!(wanted.is(&here), same, "{what}");
            assert_eq!(here.is(&wanted), same, "{what}, the other way round");
            let larger = DiskId { size: 101, ..here };
            assert!(!wanted.is(&larger), "{what}, but larger");
        }
    }

    /// Of disks that are all one by their ids the plan takes none, and neither does the agent.
    #[test]
    fn what_can_not_be_told_apart_is_several() {
        let alike = |disks: &[DiskId]| disks.iter().filter(|disk| disks[0].is(disk)).count();
        let at = |n: u32| format!("/sys/devices/pci0000:00/0000:0{n}:00.0/host{n}/target{n}:0:0/{n}:0:0:1/block");
        assert_eq!(alike(&[id("naa.L", "L", &at(2)), id("naa.L", "L", &at(3)), id("naa.M", "M", &at(2))]), 2, "paths");
        assert_eq!(alike(&[id("", "C", &at(2)), id("", "C", &at(3)), id("naa.9", "C", &at(4))]), 3, "clones");
    }
}
