//! Which disk is meant: a path, or properties that exactly one disk must have.

use std::fmt;

use anemos_proto::host::Disk;
use serde::{Deserialize, Serialize};

use super::units::format_size;

/// Says which disk is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskSelector {
    /// `/dev/…`, the name under the old system.
    Path(String),
    /// The one disk that has all of these. At least one is given.
    Match {
        /// Serial number, without surrounding spaces.
        serial: Option<String>,
        /// Model, without surrounding spaces.
        model: Option<String>,
        /// World-wide id.
        wwid: Option<String>,
        /// At least so many bytes.
        min_size: Option<u64>,
        /// At most so many bytes.
        max_size: Option<u64>,
    },
}

impl DiskSelector {
    /// The one disk that is meant. None or more than one is an error that lists what there is.
    pub fn select<'d>(&self, disks: &'d [Disk]) -> Result<&'d Disk, SelectError> {
        let matching: Vec<&Disk> = disks.iter().filter(|disk| self.matches(disk)).collect();
        let (candidates, why) = match matching[..] {
            [disk] => return Ok(disk),
            [] => (disks.iter().collect(), Why::NoDisk),
            _ => (matching.clone(), Why::Several(matching.len())),
        };
        Err(SelectError::new(self, why, candidates))
    }

    fn matches(&self, disk: &Disk) -> bool {
        let equal = |want: &Option<String>, is: Option<&str>| {
            want.as_ref().is_none_or(|want| is.is_some_and(|is| is.trim() == want.trim()))
        };
        match self {
            Self::Path(path) => disk.id.name == *path,
            Self::Match { serial, model, wwid, min_size, max_size } => {
                equal(serial, disk.id.serial.as_deref())
                    && equal(model, Some(&disk.model))
                    && equal(wwid, disk.id.wwid.as_deref())
                    && min_size.is_none_or(|min| disk.id.size >= min)
                    && max_size.is_none_or(|max| disk.id.size <= max)
            }
        }
    }
}

impl fmt::Display for DiskSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => f.write_str(path),
            Self::Match { serial, model, wwid, min_size, max_size } => {
                let text = |name: &str, value: &Option<String>| value.as_ref().map(|value| format!("{name} `{value}`"));
                let size =
                    |name: &str, value: &Option<u64>| value.map(|value| format!("{name} {}", format_size(value)));
                let parts = [
                    text("serial", serial),
                    text("model", model),
                    text("wwid", wwid),
                    size("at least", min_size),
                    size("at most", max_size),
                ];
                f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
            }
        }
    }
}

/// Resolves a host's disks, `ANEMOS_DISK` first. Two selectors that mean the same disk are an error, and so is a disk
/// that could not be told from another after the boot.
pub fn select_disks<'d, 's>(
    selectors: impl IntoIterator<Item = &'s DiskSelector>,
    disks: &'d [Disk],
) -> Result<Vec<&'d Disk>, SelectError> {
    let mut chosen: Vec<(&DiskSelector, &Disk)> = Vec::new();
    for selector in selectors {
        let disk = selector.select(disks)?;
        if let Some((first, _)) = chosen.iter().find(|(_, other)| std::ptr::eq(*other, disk)) {
            return Err(SelectError::new(selector, Why::SameAs(first.to_string()), vec![disk]));
        }
        let alike: Vec<&Disk> = disks.iter().filter(|other| disk.id.is(&other.id)).collect();
        match alike[..] {
            [_] => {}
            [] => return Err(SelectError::new(selector, Why::Nameless, vec![disk])),
            _ => return Err(SelectError::new(selector, Why::Alike, alike)),
        }
        chosen.push((selector, disk));
    }
    Ok(chosen.into_iter().map(|(_, disk)| disk).collect())
}

fn describe(disk: &Disk) -> String {
    let mut parts = vec![format_size(disk.id.size)];
    let properties = [
        ("model", Some(disk.model.as_str())),
        ("serial", disk.id.serial.as_deref()),
        ("wwid", disk.id.wwid.as_deref()),
    ];
    for (name, value) in properties {
        parts.extend(value.map(str::trim).filter(|value| !value.is_empty()).map(|value| format!("{name} `{value}`")));
    }
    format!("{}: {}", disk.id.name, parts.join(", "))
}

/// A selector that doesn't mean exactly one disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectError {
    selector: String,
    why: Why,
    candidates: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Why {
    NoDisk,
    Several(usize),
    /// An earlier selector means the same disk.
    SameAs(String),
    /// Several disks have the same ids.
    Alike,
    /// It has neither an id nor a place that stays.
    Nameless,
}

impl SelectError {
    fn new(selector: &DiskSelector, why: Why, candidates: Vec<&Disk>) -> Self {
        let candidates = candidates.into_iter().map(describe).collect();
        Self { selector: selector.to_string(), why, candidates }
    }
}

impl fmt::Display for SelectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { selector, why, candidates } = self;
        let why = match why {
            Why::SameAs(first) => format!("disk ({selector}) is the same as ({first}): each disk may be named once"),
            Why::NoDisk if candidates.is_empty() => format!("no disk is ({selector}): the host has no disks"),
            Why::NoDisk => format!("no disk is ({selector}): name one of these in hosts.toml"),
            Why::Several(found) => {
                format!("{found} disks are ({selector}): say more, so that only one is, such as its serial")
            }
            Why::Alike => format!(
                "disk ({selector}) could not be told from another after the boot, since these have the same ids and \
                 size: they are paths to one disk, or clones; unplug all but one, or give them serial numbers of \
                 their own"
            ),
            Why::Nameless => format!(
                "disk ({selector}) could not be found again after the boot: it has no serial number, no world-wide \
                 id, and no place that stays the same"
            ),
        };
        f.write_str(&why)?;
        candidates.iter().try_for_each(|candidate| write!(f, "\n  {candidate}"))
    }
}

impl std::error::Error for SelectError {}
