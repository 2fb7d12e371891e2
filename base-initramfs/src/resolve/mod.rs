//! Making a lock: apt's own tools resolve the packages, in directories of their own, against archives' signed indexes.

mod apt;
mod groups;
mod list;
mod sources;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

#[cfg(any(test, fuzzing))]
pub(crate) use apt::offer;
pub use list::{BaseList, ListedGroup};
pub use sources::{Security, Sources};

use crate::archive::{Archive, Mirrors};
use crate::build::{self, Progress};
use crate::{Error, Exclude, Fetcher, Group, Kernel, Lock, Sha256};

/// How to make a lock.
#[derive(Clone, Debug)]
pub struct Resolve {
    /// What to resolve against, and to download from.
    pub sources: Sources,
    /// The keys that their indexes must be signed with; Debian's are in [`DEBIAN_KEYRING`].
    pub keyring: PathBuf,
    /// The snapshot archive that the lock is to name, if any.
    pub snapshot: Option<String>,
}

/// Where the package `debian-archive-keyring` has its keys.
pub const DEBIAN_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Resolves the list, downloads the packages, builds each image once, and gives the lock that pins all of it. While
/// the archive doesn't change, the lock is the same.
pub fn resolve(
    list: &BaseList,
    how: &Resolve,
    fetcher: &Fetcher,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Lock, Error> {
    let apt = apt::Apt::new(list, how)?;
    apt.update()?;
    let groups = groups::assign(list, |names| apt.relations(names))?;
    let kernel = match &list.kernel {
        Some(kernel) => Some(locked_kernel(&apt, kernel)?),
        None => None,
    };
    let all: Vec<String> = groups.iter().flatten().cloned().collect();
    let packages = apt.show(&all)?;
    let group = |(listed, names): (&ListedGroup, &Vec<String>)| {
        let mut packages: Vec<_> = packages.iter().filter(|package| names.contains(&package.name)).cloned().collect();
        packages.sort_by(|a, b| a.name.cmp(&b.name));
        Group {
            name: listed.name.clone(),
            requires: listed.requires.iter().cloned().collect(),
            on_demand: listed.on_demand,
            image: Sha256::from_bytes([0; 32]),
            image_size: 0,
            packages,
        }
    };
    let mut lock = Lock {
        arch: list.arch.clone(),
        suite: list.suite.clone(),
        made: apt.made()?,
        snapshot: how.snapshot.clone(),
        skeleton: crate::skeleton_hash(),
        exclude: list.exclude.clone(),
        groups: list.groups.iter().zip(&groups).map(group).collect(),
        kernel,
    };
    lock.groups.sort_by(Group::by_place);
    let Sources { mirror, security, .. } = &how.sources;
    let mirrors = Mirrors { main: vec![mirror.clone()], security: security.iter().cloned().collect() };
    let archive = Archive::new(fetcher, &lock, mirrors, || None);
    let (mut images, mut overlap) = (Vec::new(), groups::Overlap::default());
    let mut had_effect = BTreeSet::new();
    for group in &lock.groups {
        let tree = build::assemble(&lock, group, &archive, u64::from(u32::MAX), progress)?;
        overlap.add(&group.name, &tree)?;
        had_effect.extend(tree.matched().map(|exclude| exclude.as_str().to_owned()));
        images.push(build::write_image(&tree, lock.made, 1, io::sink())?);
    }
    if let Some(problem) = overlap.problem() {
        return Err(list.wrong(problem));
    }
    let idle = list.exclude.iter().map(Exclude::as_str).filter(|exclude| !had_effect.contains(*exclude));
    list.without_effect("exclude", "no package has", idle)?;
    for (group, image) in lock.groups.iter_mut().zip(images) {
        (group.image, group.image_size) = (image.sha256, image.size);
    }
    Ok(lock)
}

/// The kernel that `name` depends on: the packages whose names have a release in them.
fn locked_kernel(apt: &apt::Apt, name: &str) -> Result<Kernel, Error> {
    let mut names = apt.closure(&[name.to_owned()])?;
    let release = |name: &str| {
        let rest = name.strip_prefix("linux-image-").or_else(|| name.strip_prefix("linux-modules-"))?;
        rest.starts_with(|c: char| c.is_ascii_digit()).then(|| rest.to_owned())
    };
    names.retain(|name| release(name).is_some());
    let found = names.iter().find_map(|name| release(name));
    let found = found.ok_or_else(|| apt::error(format!("{name} depends on no package linux-image-RELEASE")))?;
    Ok(Kernel { release: found, packages: apt.show(&names)? })
}
