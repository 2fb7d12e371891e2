//! `base.toml`: what the lock is made from.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::lock::{CORE, is_group_name};
use crate::{Error, Exclude};

/// What `base.toml` says.
#[derive(Clone, Debug)]
pub struct BaseList {
    /// The name that errors give it.
    file: String,
    /// The distribution's code name.
    pub suite: String,
    /// Debian's name of the architecture.
    pub arch: String,
    /// What there is to choose from: [`CORE`] first, and each after those that it requires.
    pub groups: Vec<ListedGroup>,
    /// Dependencies to do without, in all groups.
    pub drop: Vec<String>,
    /// The package that depends on the kernel to lock, if any.
    pub kernel: Option<String>,
    /// What to leave out of the images.
    pub exclude: Vec<Exclude>,
}

/// A group of a list.
#[derive(Clone, Debug)]
pub struct ListedGroup {
    /// Its name.
    pub name: String,
    /// The groups that it can't do without, directly or not, besides [`CORE`].
    pub requires: BTreeSet<String>,
    /// Whether it is for payloads only that name it.
    pub on_demand: bool,
    /// Packages to have, together with what they depend on, unless a group that it requires has them.
    pub install: Vec<String>,
    /// Dependencies to do without, here and in those that require the group and don't install them.
    pub drop: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawList {
    suite: String,
    arch: String,
    install: Option<Vec<String>>,
    #[serde(default)]
    groups: BTreeMap<String, RawGroup>,
    #[serde(default)]
    drop: Vec<String>,
    kernel: Option<String>,
    #[serde(default)]
    exclude: Vec<Exclude>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGroup {
    #[serde(default)]
    requires: Vec<String>,
    #[serde(default)]
    on_demand: bool,
    install: Vec<String>,
    #[serde(default)]
    drop: Vec<String>,
}

impl BaseList {
    /// Reads a list. `file` is the name that errors give, together with the line.
    pub fn parse(file: &str, text: &str) -> Result<Self, Error> {
        let wrong = |reason: String| Error::Parse { file: file.to_owned(), reason };
        let raw: RawList = toml::from_str(text).map_err(|error| wrong(error.to_string().trim_end().to_owned()))?;
        let mut groups = raw.groups;
        if let Some(install) = raw.install {
            if !groups.is_empty() {
                return Err(wrong("packages to `install` are in the groups, where there are any".to_owned()));
            }
            let whole = RawGroup { requires: Vec::new(), on_demand: false, install, drop: Vec::new() };
            groups.insert(CORE.to_owned(), whole);
        }
        let groups = in_order(groups).map_err(wrong)?;
        // These become arguments of apt's: nothing that it could take for an option or a pattern.
        let plain = |name: &str| {
            name.starts_with(|c: char| c.is_ascii_alphanumeric())
                && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"+-.".contains(&c))
                && !name.ends_with(['+', '-'])
        };
        let RawList { suite, arch, kernel, exclude, .. } = raw;
        let list = Self { file: file.to_owned(), suite, arch, groups, drop: raw.drop, kernel, exclude };
        let names = list.groups.iter().flat_map(|group| group.install.iter().chain(&group.drop));
        let mut names = names.chain(&list.drop).chain(&list.kernel).chain([&list.suite, &list.arch]);
        let odd = names.find(|name| !plain(name)).cloned();
        drop(names);
        if let Some(name) = odd {
            return Err(wrong(format!("{name:?} is not a name of a package, suite or architecture")));
        }
        Ok(list)
    }

    /// An error of this file.
    pub(super) fn wrong(&self, reason: String) -> Error {
        Error::Parse { file: self.file.clone(), reason }
    }

    /// Fails if there are any of these words, which have an effect on nothing: one that is misspelt is not told from
    /// one that has been left behind.
    pub(super) fn without_effect<'a>(
        &self,
        field: &str,
        why: &str,
        words: impl Iterator<Item = &'a str>,
    ) -> Result<(), Error> {
        let words: Vec<&str> = words.collect();
        if words.is_empty() {
            return Ok(());
        }
        Err(self.wrong(format!("`{field}` names what {why}: {}", words.join(", "))))
    }
}

/// The groups, each after those that it requires.
fn in_order(mut raw: BTreeMap<String, RawGroup>) -> Result<Vec<ListedGroup>, String> {
    if let Some(name) = raw.keys().find(|name| !is_group_name(name)) {
        return Err(format!("a group is named with a-z, 0-9 and -, and not {name:?}"));
    }
    let mut groups: Vec<ListedGroup> = Vec::new();
    while !raw.is_empty() {
        let is_next = |(name, group): &(&String, &RawGroup)| {
            let is_there = |name: &String| groups.iter().any(|group| group.name == *name);
            group.requires.iter().all(is_there) && (*name == CORE || is_there(&CORE.to_owned()))
        };
        let Some(name) = raw.iter().find(is_next).map(|(name, _)| name.clone()) else {
            let names: Vec<&str> = raw.keys().map(String::as_str).collect();
            return Err(format!(
                "there must be a group `{CORE}`, and a group can only require others, not itself; this leaves {}",
                names.join(", ")
            ));
        };
        let RawGroup { requires, on_demand, install, drop } = raw.remove(&name).unwrap_or_else(|| unreachable!());
        let mut all: BTreeSet<String> = requires.iter().filter(|name| *name != CORE).cloned().collect();
        for group in groups.iter().filter(|group| requires.contains(&group.name)) {
            all.extend(group.requires.iter().cloned());
        }
        groups.push(ListedGroup { name, requires: all, on_demand, install, drop });
    }
    Ok(groups)
}
