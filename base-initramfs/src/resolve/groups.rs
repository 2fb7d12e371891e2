//! Which packages are in which group, and that groups can be unpacked over one another in any order.

use std::collections::{BTreeMap, BTreeSet};

use super::{BaseList, ListedGroup};
use crate::tree::{Kind, Node};
use crate::{CORE, Error, Sha256, Tree};

/// What a package of an archive says of others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Relations {
    /// Names that it has besides its own.
    provides: Vec<String>,
    /// What it depends on: one of each list.
    depends: Vec<Vec<String>>,
}

/// Reads what `apt-cache show` prints: paragraphs with the fields of deb-control(5).
pub(crate) fn relations(text: &str) -> BTreeMap<String, Relations> {
    let plain = |word: &str| word.split([' ', '(', ':', '[']).next().unwrap_or_default().to_owned();
    let list = |value: &str| -> Vec<Vec<String>> {
        let one = |word: &str| word.split('|').map(|word| plain(word.trim())).filter(|name| !name.is_empty()).collect();
        value.split(',').map(one).filter(|names: &Vec<String>| !names.is_empty()).collect()
    };
    let mut all = BTreeMap::new();
    for paragraph in text.split("\n\n") {
        let (mut name, mut found) = (None, Relations::default());
        for (field, value) in paragraph.lines().filter_map(|line| line.split_once(':')) {
            match field {
                "Package" => name = Some(value.trim().to_owned()),
                "Provides" => found.provides = list(value).concat(),
                "Depends" | "Pre-Depends" => found.depends.extend(list(value)),
                _ => {}
            }
        }
        if let Some(name) = name {
            all.entry(name).or_insert(found);
        }
    }
    all
}

/// What of `all` these names lead to, without going through what is dropped.
fn reached(installed: &[String], all: &BTreeMap<String, Relations>, is_dropped: impl Fn(&str) -> bool) -> Vec<String> {
    let provider =
        |name: &String| all.iter().find(|(_, package)| package.provides.contains(name)).map(|(name, _)| name);
    let find = |name: &String| all.get_key_value(name).map(|(name, _)| name).or_else(|| provider(name));
    let mut todo: Vec<&String> = installed.iter().filter_map(find).collect();
    let mut taken = BTreeSet::new();
    while let Some(name) = todo.pop() {
        if !is_dropped(name) && taken.insert(name) {
            todo.extend(all[name].depends.iter().filter_map(|names| names.iter().find_map(find)));
        }
    }
    taken.into_iter().cloned().collect()
}

/// The packages of each group of the list, in the list's order. `closure` gives what an empty system gets that is to
/// have packages.
pub(super) fn assign(
    list: &BaseList,
    closure: impl Fn(&[String]) -> Result<BTreeMap<String, Relations>, Error>,
) -> Result<Vec<Vec<String>>, Error> {
    let mut unused: BTreeSet<&String> = list.drop.iter().collect();
    let mut groups: Vec<Vec<String>> = Vec::new();
    for group in &list.groups {
        let is_required = |other: &ListedGroup| {
            other.name != group.name && (other.name == CORE || group.requires.contains(&other.name))
        };
        let with_it: Vec<&ListedGroup> =
            list.groups.iter().filter(|other| is_required(other) || other.name == group.name).collect();
        let installed: BTreeSet<&String> = with_it.iter().flat_map(|group| &group.install).collect();
        let installed: Vec<String> = installed.into_iter().cloned().collect();
        let all = closure(&installed)?;
        let idle = group.drop.iter().filter(|name| !all.contains_key(*name)).map(String::as_str);
        list.without_effect(&format!("groups.{}.drop", group.name), "nothing there depends on", idle)?;
        unused.retain(|name| !all.contains_key(*name));
        let is_dropped = |name: &str| {
            let has = |names: &[String]| names.iter().any(|other| other == name);
            !has(&group.install) && (has(&list.drop) || with_it.iter().any(|group| has(&group.drop)))
        };
        let required = list.groups.iter().zip(&groups).filter(|(other, _)| is_required(other));
        let there: BTreeSet<&String> = required.flat_map(|(_, packages)| packages).collect();
        let mut packages = reached(&installed, &all, is_dropped);
        packages.retain(|name| !there.contains(name));
        groups.push(packages);
    }
    list.without_effect("drop", "nothing depends on", unused.into_iter().map(String::as_str))?;
    let mut owners: BTreeMap<&String, Vec<&str>> = BTreeMap::new();
    for (group, packages) in list.groups.iter().zip(&groups) {
        for package in packages {
            owners.entry(package).or_default().push(&group.name);
        }
    }
    let shared: Vec<String> = owners
        .iter()
        .filter(|(_, groups)| groups.len() > 1)
        .map(|(package, groups)| format!("{package} ({})", groups.join(", ")))
        .collect();
    if shared.is_empty() {
        return Ok(groups);
    }
    Err(list.wrong(format!(
        "a package is in one group only, and these would be in several: {}; let one of the groups require the other, \
         or install the package in one that all of them require",
        shared.join("; ")
    )))
}

/// What has been seen of several groups' trees, each of which is unpacked over the others.
#[derive(Default)]
pub(super) struct Overlap {
    /// By path: the first group that has it, and what it is there.
    seen: BTreeMap<String, (String, What)>,
    differences: Vec<String>,
}

#[derive(PartialEq, Eq)]
struct What {
    kind: Option<Kind>,
    contents: Option<Sha256>,
    owner: (u32, u32, u32),
}

impl Overlap {
    /// Adds a group's tree.
    pub(super) fn add(&mut self, group: &str, tree: &Tree) -> Result<(), Error> {
        for (path, Node { kind, mode, uid, gid, .. }) in tree.nodes() {
            let contents = tree.read(path)?.map(|bytes| Sha256::of(&bytes));
            // Numbers of contents are a tree's own.
            let kind = if contents.is_some() { None } else { Some(kind.clone()) };
            let what = What { kind, contents, owner: (*mode, *uid, *gid) };
            if let Some((other, known)) = self.seen.get(path) {
                if *known != what {
                    self.differences.push(format!("{path} ({other}, {group})"));
                }
            } else {
                self.seen.insert(path.to_owned(), (group.to_owned(), what));
            }
        }
        Ok(())
    }

    /// Why the groups can't be unpacked over one another, if they can't.
    pub(super) fn problem(&self) -> Option<String> {
        let differences = (!self.differences.is_empty()).then(|| self.differences.join("; "))?;
        Some(format!("what several groups have must be the same in all of them, and differs: {differences}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an empty system gets: `NAME: DEPENDS…` a line.
    const ARCHIVE: &str = "a: libc\nb: libc libx\nc: libx liby\nd: b libz\nlibc:\nlibx:\nliby: libz\nlibz:\n";

    #[expect(clippy::unnecessary_wraps, reason = "apt may fail")]
    fn closure(names: &[String]) -> Result<BTreeMap<String, Relations>, Error> {
        let mut all = BTreeMap::new();
        let mut todo = names.to_vec();
        while let Some(name) = todo.pop() {
            let line = ARCHIVE.lines().find_map(|line| line.strip_prefix(&format!("{name}:"))).unwrap();
            let depends: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let relations =
                Relations { provides: Vec::new(), depends: depends.iter().map(|n| vec![n.clone()]).collect() };
            if all.insert(name, relations).is_none() {
                todo.extend(depends);
            }
        }
        Ok(all)
    }

    #[test]
    fn what_apt_says_of_packages() {
        let text = "Package: mawk\nVersion: 1\nProvides: awk, a (= 1)\n\
                    Pre-Depends: libc6 (>= 2.38), x:any | y [amd64]\nDescription: Depends on\n Depends: z\n\n\
                    Package: b\nDepends: awk\n\nPackage: mawk\nDepends: old\n";
        let all = relations(text);
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(all["mawk"].provides, names(&["awk", "a"]));
        assert_eq!(all["mawk"].depends, [names(&["libc6"]), names(&["x", "y"])]);
        assert_eq!(reached(&names(&["b"]), &all, |_| false), ["b", "mawk"]);
        assert_eq!(reached(&names(&["b"]), &all, |name| name == "mawk"), ["b"]);
    }

    fn assigned(groups: &str) -> Result<String, String> {
        let list = BaseList::parse("my.toml", &format!("suite = \"s\"\narch = \"a\"\n{groups}"));
        let list = list.map_err(|error| error.to_string())?;
        let groups = assign(&list, closure).map_err(|error| error.to_string())?;
        let text = |(group, names): (&ListedGroup, &Vec<String>)| format!("{}: {}", group.name, names.join(" "));
        Ok(list.groups.iter().zip(&groups).map(text).collect::<Vec<_>>().join("; "))
    }

    #[test]
    fn each_package_is_in_one_group() {
        for (groups, expected) in [
            ("install = [\"a\", \"b\"]", "core: a b libc libx"),
            ("groups.core.install = [\"a\"]\ngroups.b.install = [\"b\"]", "core: a libc; b: b libx"),
            (
                "groups.c = { install = [\"c\"], requires = [\"b\"] }\ngroups.core.install = [\"a\"]\n\
                 groups.b.install = [\"b\"]",
                "core: a libc; b: b libx; c: c liby libz",
            ),
            // What a group does without, those that require it do without, unless they want it.
            (
                "groups.core = { install = [\"a\"], drop = [\"libc\"] }\ngroups.b.install = [\"b\"]\n\
                 groups.libc.install = [\"libc\"]",
                "core: a; b: b libx; libc: libc",
            ),
            ("drop = [\"liby\"]\ninstall = [\"c\"]", "core: c libx"),
            ("drop = [\"libx\"]\ngroups.core.install = [\"a\"]\ngroups.b.install = [\"b\"]", "core: a libc; b: b"),
        ] {
            assert_eq!(assigned(groups).unwrap(), expected, "{groups}");
        }
    }

    #[test]
    fn lists_that_can_not_be() {
        for (groups, expected) in [
            (
                "groups.core.install = [\"a\"]\ngroups.b.install = [\"b\"]\ngroups.c.install = [\"c\"]",
                "these would be in several: libx (b, c); let one",
            ),
            ("groups.b.install = [\"b\"]", "there must be a group `core`"),
            ("groups.core = { install = [\"a\"], requires = [\"core\"] }", "not itself; this leaves core"),
            ("groups.core.install = [\"a\"]\ngroups.b = { install = [\"b\"], requires = [\"x\"] }", "this leaves b"),
            ("groups.core.install = [\"a\"]\ngroups.B.install = [\"b\"]", "not \"B\""),
            ("install = [\"a\"]\ngroups.core.install = [\"a\"]", "are in the groups"),
            ("groups.core = { install = [\"a\"], drop = [\"b\"] }", "`groups.core.drop` names what nothing there"),
            ("drop = [\"b\"]\ngroups.core.install = [\"a\"]", "`drop` names what nothing depends on: b"),
            ("groups.core.install = [\"-a\"]", "\"-a\" is not a name"),
        ] {
            let error = assigned(groups).unwrap_err();
            assert!(error.starts_with("my.toml: ") && error.contains(expected), "{groups}: {error}");
        }
    }
}
