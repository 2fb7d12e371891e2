//! `base.lock`: which packages make the base, in groups, and what the image of each group is.
//!
//! It is TOML, one package a line, written and read here only. It names no mirror, and a snapshot archive only if its
//! maker has it so. Formats 1 and 2 have no groups: all that they name is the one that every payload gets.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::ops::Range;

use serde::{Deserialize, Deserializer, de};
use toml::Spanned;

use crate::snapshot::{SNAPSHOT_ID, is_template};
use crate::{Error, Exclude, Hasher, Sha256, Time};

/// The newest format that this library reads; it reads all before it, and writes the first that has room for the lock.
pub const FORMAT: u32 = 3;

/// The group that every payload gets. It has the skeleton.
pub const CORE: &str = "core";

/// What `base.lock` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// Debian's name of the architecture, `amd64`.
    pub arch: String,
    /// The distribution's code name, `trixie`.
    pub suite: String,
    /// When the newest of the archives was made, of those that the packages were resolved in: the time of every file in
    /// the image, and where to look in a snapshot archive.
    pub made: Time,
    /// Where past versions of the packages are, with [`SNAPSHOT_ID`](crate::SNAPSHOT_ID) in it, if its maker says so.
    pub snapshot: Option<String>,
    /// Hash of the files and rules that this library adds to the packages, see [`skeleton_hash`](crate::skeleton_hash).
    pub skeleton: Sha256,
    /// What is left out of the images.
    pub exclude: Vec<Exclude>,
    /// What there is to choose from: [`CORE`] first, the others sorted by name.
    pub groups: Vec<Group>,
    /// The kernel for hosts that ask for it, or have none that can be read.
    pub kernel: Option<Kernel>,
}

/// Packages that make an image of their own: a cpio archive, which is unpacked over those of other groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// The groups that it can't do without, besides [`CORE`], sorted by name.
    pub requires: Vec<String>,
    /// Whether it is for payloads only that name it. Those that name nothing get all other groups.
    pub on_demand: bool,
    /// SHA-256 of the uncompressed image.
    pub image: Sha256,
    /// Size of the uncompressed image.
    pub image_size: u64,
    /// The packages, sorted by name. Each is in one group only.
    pub packages: Vec<Package>,
}

/// One Debian package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version, for people; the hash is what counts.
    pub version: String,
    /// Where it is in a Debian archive: `pool/…/NAME_VERSION_ARCH.deb`.
    pub path: String,
    /// Whether that is the archive of security updates, and not the main one.
    pub security: bool,
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256.
    pub sha256: Sha256,
}

/// A kernel, and the packages that hold its image and modules. They are not part of the base image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// As `uname -r` says it.
    pub release: String,
    /// The packages.
    pub packages: Vec<Package>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLock {
    format: Spanned<u32>,
    arch: Word,
    suite: Word,
    made: Time,
    snapshot: Option<Template>,
    image: Option<Sha256>,
    image_size: Option<u64>,
    skeleton: Sha256,
    #[serde(default)]
    exclude: Vec<Exclude>,
    packages: Option<Vec<RawPackage>>,
    groups: Option<Vec<RawGroup>>,
    kernel: Option<RawKernel>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGroup {
    name: Spanned<Name>,
    #[serde(default)]
    requires: Vec<Name>,
    #[serde(default)]
    on_demand: bool,
    image: Sha256,
    image_size: u64,
    packages: Vec<RawPackage>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPackage {
    name: Spanned<Word>,
    version: Word,
    path: ArchivePath,
    #[serde(default)]
    security: bool,
    size: u64,
    sha256: Sha256,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKernel {
    release: Word,
    packages: Vec<RawPackage>,
}

/// Letters, digits and the few signs that names, versions and releases are made of.
struct Word(String);

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if is_word(&text) {
            return Ok(Self(text));
        }
        Err(de::Error::custom(format_args!("expected letters, digits and any of + - . ~ : _ and found {text:?}")))
    }
}

/// Whether a lock may have this as a package's name or version, or as a kernel's release.
pub(crate) fn is_word(text: &str) -> bool {
    let fits = |c: u8| c.is_ascii_alphanumeric() || b"+-.~:_".contains(&c);
    !text.is_empty() && !text.starts_with('.') && text.bytes().all(fits)
}

/// A group's name, which people write and shells see.
struct Name(String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if is_group_name(&text) {
            return Ok(Self(text));
        }
        Err(de::Error::custom(format_args!("expected a group's name, of a-z, 0-9 and -, and found {text:?}")))
    }
}

/// Whether a group may be called so.
pub(crate) fn is_group_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
}

/// The address of a snapshot archive.
struct Template(String);

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if is_template(&text) {
            return Ok(Self(text));
        }
        Err(de::Error::custom(format_args!(
            "expected an address of http or https without a password, with {SNAPSHOT_ID} where the time goes"
        )))
    }
}

/// A path below a mirror's address that stays below it.
struct ArchivePath(String);

impl<'de> Deserialize<'de> for ArchivePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if is_archive_path(&text) {
            return Ok(Self(text));
        }
        Err(de::Error::custom(format_args!("expected a path like pool/main/…/NAME.deb and found {text:?}")))
    }
}

/// Whether a lock may have this as the place of a package in an archive.
pub(crate) fn is_archive_path(text: &str) -> bool {
    let fits = |c: u8| c.is_ascii_alphanumeric() || b"+-.~:_%/".contains(&c);
    let part = |part: &str| !part.is_empty() && part != "." && part != "..";
    text.starts_with("pool/")
        && text.rsplit('.').next() == Some("deb")
        && text.bytes().all(fits)
        && text.split('/').all(part)
}

impl Lock {
    /// Reads a lock. `file` is the name that errors give, together with the line.
    pub fn parse(file: &str, text: &str) -> Result<Self, Error> {
        let wrong = |reason: String| Error::Parse { file: file.to_owned(), reason };
        let raw: RawLock = toml::from_str(text).map_err(|error| wrong(error.to_string().trim_end().to_owned()))?;
        let found = *raw.format.get_ref();
        if !(1..=FORMAT).contains(&found) {
            let line = line_of(text, raw.format.span());
            return Err(wrong(format!("line {line}: format is {found}, but this anemos reads formats 1 to {FORMAT}")));
        }
        let lacking = |field: &str| wrong(format!("format {found} has `{field}`, and there is none"));
        let groups = if found < 3 {
            if raw.groups.is_some() {
                return Err(wrong(format!("format {found} has no `groups`")));
            }
            vec![RawGroup {
                name: Spanned::new(0..0, Name(CORE.to_owned())),
                requires: Vec::new(),
                on_demand: false,
                image: raw.image.ok_or_else(|| lacking("image"))?,
                image_size: raw.image_size.ok_or_else(|| lacking("image_size"))?,
                packages: raw.packages.ok_or_else(|| lacking("packages"))?,
            }]
        } else {
            if raw.image.is_some() || raw.image_size.is_some() || raw.packages.is_some() {
                return Err(wrong(format!("format {found} has `image`, `image_size` and `packages` in its groups")));
            }
            raw.groups.ok_or_else(|| lacking("groups"))?
        };
        let twice = |at: Range<usize>, what: &str| wrong(format!("line {}: {what} is named twice", line_of(text, at)));
        let sorted = |raw: Vec<RawPackage>, known: &mut BTreeSet<String>| {
            let mut packages = Vec::new();
            for package in raw {
                let (at, package) = package.build();
                if !known.insert(package.name.clone()) {
                    return Err(twice(at, &format!("package `{}`", package.name)));
                }
                packages.push(package);
            }
            packages.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(packages)
        };
        let (mut all, mut known) = (Vec::<Group>::new(), BTreeSet::new());
        for raw in groups {
            let at = raw.name.span();
            let name = raw.name.into_inner().0;
            if all.iter().any(|group| group.name == name) {
                return Err(twice(at, &format!("group `{name}`")));
            }
            let requires: BTreeSet<String> = raw.requires.into_iter().map(|name| name.0).collect();
            all.push(Group {
                name,
                requires: requires.into_iter().collect(),
                on_demand: raw.on_demand,
                image: raw.image,
                image_size: raw.image_size,
                packages: sorted(raw.packages, &mut known)?,
            });
        }
        all.sort_by(Group::by_place);
        if all.first().is_none_or(|group| group.name != CORE) {
            return Err(wrong(format!("there is no group `{CORE}`")));
        }
        for group in &all {
            if let Some(other) = group.requires.iter().find(|name| all.iter().all(|group| group.name != **name)) {
                return Err(wrong(format!("group `{}` requires `{other}`, which is none", group.name)));
            }
        }
        let kernel = match raw.kernel {
            Some(kernel) => {
                Some(Kernel { release: kernel.release.0, packages: sorted(kernel.packages, &mut BTreeSet::new())? })
            }
            None => None,
        };
        Ok(Self {
            arch: raw.arch.0,
            suite: raw.suite.0,
            made: raw.made,
            snapshot: raw.snapshot.map(|template| template.0),
            skeleton: raw.skeleton,
            exclude: raw.exclude,
            groups: all,
            kernel,
        })
    }

    /// The lock as text. Equal locks give equal text.
    pub fn to_text(&self) -> String {
        let mut text = String::from(
            "# The base system that a host runs from memory while it builds its new one.\n\
             # Written by `anemos base lock`; every byte of it is pinned here.\n",
        );
        let _ = writeln!(text, "format = {}", self.format());
        let _ = writeln!(text, "arch = {}", quoted(&self.arch));
        let _ = writeln!(text, "suite = {}", quoted(&self.suite));
        let _ = writeln!(text, "made = \"{}\"", self.made);
        if let Some(snapshot) = &self.snapshot {
            let _ =
                writeln!(text, "\n# Where versions are that have left the mirrors.\nsnapshot = {}", quoted(snapshot));
        }
        let whole = self.whole();
        if let Some(whole) = whole {
            let _ = writeln!(text, "\n# The uncompressed image, and what is added to the packages.");
            let _ = writeln!(text, "image = \"{}\"\nimage_size = {}", whole.image, whole.image_size);
        } else {
            text.push_str("\n# What is added to the packages.\n");
        }
        let _ = writeln!(text, "skeleton = \"{}\"", self.skeleton);
        let _ = writeln!(text, "\nexclude = [");
        for exclude in &self.exclude {
            let _ = writeln!(text, "  {},", quoted(exclude.as_str()));
        }
        text.push_str("]\n");
        if let Some(whole) = whole {
            text.push('\n');
            write_packages(&mut text, &whole.packages);
        } else {
            let mut groups: Vec<&Group> = self.groups.iter().collect();
            groups.sort_by(|a, b| a.by_place(b));
            for group in groups {
                group.write(&mut text);
            }
        }
        if let Some(kernel) = &self.kernel {
            text.push_str("\n# For hosts that ask for it, or whose own can't be read. Not part of the image.\n");
            let _ = writeln!(text, "[kernel]\nrelease = {}", quoted(&kernel.release));
            write_packages(&mut text, &kernel.packages);
        }
        text
    }

    /// The first format that has room for it: an older anemos reads what it can.
    fn format(&self) -> u32 {
        if self.whole().is_none() {
            3
        } else if self.snapshot.is_some() || self.all_packages().any(|package| package.security) {
            2
        } else {
            1
        }
    }

    /// The only group, of a lock that has no others to choose from.
    fn whole(&self) -> Option<&Group> {
        match &self.groups[..] {
            [group] if group.name == CORE && group.requires.is_empty() && !group.on_demand => Some(group),
            _ => None,
        }
    }

    /// The lock with what a payload gets: the groups that it `needs`, those that these require, and [`CORE`]; or all
    /// that are not [on demand](Group::on_demand), if it doesn't say what it needs. A lock without groups stays as
    /// it is.
    ///
    /// Fails if there is no such group.
    pub fn narrowed(&self, needs: Option<&[String]>) -> Result<Self, Error> {
        if self.whole().is_some() {
            return Ok(self.clone());
        }
        let usual = || self.groups.iter().filter(|group| !group.on_demand).map(|group| &group.name);
        let mut todo: Vec<&String> = needs.map_or_else(|| usual().collect(), |needs| needs.iter().collect());
        let core = CORE.to_owned();
        todo.push(&core);
        let mut taken = BTreeSet::new();
        while let Some(name) = todo.pop() {
            let Some(group) = self.groups.iter().find(|group| group.name == *name) else {
                let known = self.groups.iter().map(|group| group.name.clone()).collect();
                return Err(Error::NoGroup { name: name.clone(), known });
            };
            if taken.insert(&group.name) {
                todo.extend(&group.requires);
            }
        }
        let groups = self.groups.iter().filter(|group| taken.contains(&group.name)).cloned().collect();
        Ok(Self { groups, ..self.clone() })
    }

    /// The packages of all groups, in their order.
    pub fn packages(&self) -> impl Iterator<Item = &Package> {
        self.groups.iter().flat_map(|group| &group.packages)
    }

    /// The packages of all groups, and then those of the kernel.
    pub fn all_packages(&self) -> impl Iterator<Item = &Package> {
        self.packages().chain(self.kernel.iter().flat_map(|kernel| &kernel.packages))
    }

    /// What the images are, in one value: the SHA-256 of their SHA-256s, one after another in the order of their bytes.
    pub fn digest(&self) -> Sha256 {
        let mut images: Vec<Sha256> = self.groups.iter().map(|group| group.image).collect();
        images.sort_unstable();
        let mut hasher = Hasher::new();
        for image in &images {
            hasher.update(image.as_bytes());
        }
        hasher.finish()
    }

    /// Bytes of all images together, uncompressed.
    pub fn image_size(&self) -> u64 {
        self.groups.iter().fold(0, |sum, group| sum.saturating_add(group.image_size))
    }

    /// Bytes of all packages that the images are made from.
    pub fn download_size(&self) -> u64 {
        self.packages().fold(0, |sum, package| sum.saturating_add(package.size))
    }
}

impl Group {
    /// [`CORE`] is the first, and the others are sorted by name.
    pub(crate) fn by_place(&self, other: &Self) -> Ordering {
        (self.name != CORE, &self.name).cmp(&(other.name != CORE, &other.name))
    }

    /// Bytes of all packages that the image is made from.
    pub fn download_size(&self) -> u64 {
        self.packages.iter().fold(0, |sum, package| sum.saturating_add(package.size))
    }

    /// The name of the file in which the image is kept, as zstd.
    pub fn file_name(&self) -> String {
        format!("base-{}.cpio.zst", self.image)
    }

    fn write(&self, text: &mut String) {
        let _ = writeln!(text, "\n[[groups]]\nname = {}", quoted(&self.name));
        if !self.requires.is_empty() {
            let requires: Vec<String> = self.requires.iter().map(|name| quoted(name)).collect();
            let _ = writeln!(text, "requires = [{}]", requires.join(", "));
        }
        if self.on_demand {
            text.push_str("on_demand = true\n");
        }
        let _ = writeln!(text, "image = \"{}\"\nimage_size = {}", self.image, self.image_size);
        write_packages(text, &self.packages);
    }
}

impl RawPackage {
    fn build(self) -> (Range<usize>, Package) {
        let span = self.name.span();
        let package = Package {
            name: self.name.into_inner().0,
            version: self.version.0,
            path: self.path.0,
            security: self.security,
            size: self.size,
            sha256: self.sha256,
        };
        (span, package)
    }
}

fn write_packages(text: &mut String, packages: &[Package]) {
    let mut packages: Vec<&Package> = packages.iter().collect();
    packages.sort_by(|a, b| a.name.cmp(&b.name));
    text.push_str("packages = [\n");
    for Package { name, version, path, security, size, sha256 } in packages {
        let (name, version, path) = (quoted(name), quoted(version), quoted(path));
        let security = if *security { "security = true, " } else { "" };
        let _ = writeln!(
            text,
            "  {{ name = {name}, version = {version}, path = {path}, {security}size = {size}, sha256 = \"{sha256}\" }},"
        );
    }
    text.push_str("]\n");
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn line_of(text: &str, span: Range<usize>) -> usize {
    text.get(..span.start).unwrap_or(text).split('\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_no_archive_has() {
        let sha256 = "0".repeat(64);
        let package = |name: char| {
            let (file, size) = (format!("pool/{name}.deb"), i64::MAX);
            format!("{{ name = \"{name}\", version = \"1\", path = \"{file}\", size = {size}, sha256 = \"{sha256}\" }}")
        };
        let packages = ['a', 'b', 'c'].map(package).join(",\n");
        let text = format!(
            "format = 1\narch = \"amd64\"\nsuite = \"trixie\"\nmade = \"2026-01-02T03:04:05Z\"\n\
             image = \"{sha256}\"\nimage_size = 1\nskeleton = \"{sha256}\"\npackages = [{packages}]\n"
        );
        assert_eq!(Lock::parse("base.lock", &text).unwrap().download_size(), u64::MAX);
    }
}
