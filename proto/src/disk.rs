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
