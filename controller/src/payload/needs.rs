//! Which groups of the base a payload needs.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use makeimg::imgbuild::Imgbuild;
use makeimg::settings::{Format, Target};
use makeimg::words::Filesystem;
use serde::{Deserialize, Serialize};

use super::PayloadError;

/// The file in a payload that names the groups, one a line; `#` begins a comment.
const FILE: &str = "needs";

/// What is said of the groups that a payload needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needs {
    /// What its file says, if it has one.
    pub named: Option<Vec<String>>,
    /// What follows from its IMGBUILD; `None` if it has none, or one that may need anything.
    pub implied: Option<Vec<String>>,
}

impl Needs {
    /// The groups, where hosts.toml may name some in place of the file; `None` if nobody says anything.
    pub fn with(&self, of_host: Option<&Vec<String>>) -> Option<Vec<String>> {
        let named = of_host.or(self.named.as_ref());
        if named.is_none() && self.implied.is_none() {
            return None;
        }
        let mut all: Vec<String> = named.into_iter().chain(&self.implied).flatten().cloned().collect();
        all.sort();
        all.dedup();
        Some(all)
    }
}

/// The name of a group, as far as that can be judged without a lock.
pub fn group(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !text.is_empty() && text.chars().all(fits) {
        return Ok(text.to_owned());
    }
    Err("is no name of a group of the base: those are of a-z, 0-9 and -".into())
}

/// What the payload's file says.
pub(super) fn of_file(dir: &Path) -> Result<Option<Vec<String>>, PayloadError> {
    let path = dir.join(FILE);
    let text = match fs::read(&path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(why) => return Err(PayloadError::Read { path, why }),
    };
    let mut groups = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let word = line.split('#').next().unwrap_or_default().trim();
        if word.is_empty() {
            continue;
        }
        let wrong = |why| PayloadError::Needs { path: path.clone(), line: number + 1, text: word.into(), why };
        groups.push(group(word).map_err(wrong)?);
    }
    Ok(Some(groups))
}

/// With what these require, all groups that are not on demand, and Arch's.
const ALL_AND_ARCH: [&str; 5] = ["arch", "debian", "filesystems", "grub-tools", "volumes"];

/// What is needed to build an IMGBUILD on a host; `None` if it has functions that run there, and may call anything.
pub(super) fn of_imgbuild(imgbuild: &Imgbuild) -> Option<Vec<String>> {
    let settings = &imgbuild.settings;
    if ["setup", "cleanup"].iter().any(|function| imgbuild.functions.contains(*function)) {
        // Who says nothing gets what is not on demand, and Arch's tools are.
        let is_arch = settings.target == Target::Arch;
        return is_arch.then(|| ALL_AND_ARCH.map(str::to_owned).to_vec());
    }
    let mut groups = vec!["disk", "tools"];
    groups.push(match settings.target {
        Target::Debian { .. } => "debian",
        Target::Arch => "arch",
        Target::Alpine => "alpine",
    });
    let usual = match settings.format {
        Format::Raw { filesystem, .. } => Some(filesystem),
        Format::Tar(_) | Format::Dir | Format::Squashfs(_) | Format::Oci(_) | Format::Custom => None,
    };
    let others = |filesystem: Option<Filesystem>| matches!(filesystem, Some(Filesystem::Xfs | Filesystem::Btrfs));
    if others(usual) || settings.filesystems.iter().any(|volume| others(volume.filesystem)) {
        groups.push("filesystems");
    }
    if settings.filesystems.iter().any(|volume| volume.luks.is_some()) {
        groups.push("volumes");
    }
    Some(groups.into_iter().map(str::to_owned).collect())
}
