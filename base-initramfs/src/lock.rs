//! `base.lock`: which packages make the base image, and what the image is.
//!
//! It is TOML, one package a line, written and read here only. It names no mirror, and a snapshot archive only if its
//! maker has it so.

use std::fmt::Write as _;
use std::ops::Range;

use serde::{Deserialize, Deserializer, de};
use toml::Spanned;

use crate::snapshot::{SNAPSHOT_ID, is_template};
use crate::{Error, Exclude, Sha256, Time};

/// The newest format that this library reads; it reads all before it, and writes the first that has room for the lock.
pub const FORMAT: u32 = 2;

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
    /// SHA-256 of the uncompressed image.
    pub image: Sha256,
    /// Size of the uncompressed image.
    pub image_size: u64,
    /// Hash of the files and rules that this library adds to the packages, see [`skeleton_hash`](crate::skeleton_hash).
    pub skeleton: Sha256,
    /// What is left out of the image.
    pub exclude: Vec<Exclude>,
    /// The packages, sorted by name.
    pub packages: Vec<Package>,
    /// The kernel for hosts that ask for it, or have none that can be read.
    pub kernel: Option<Kernel>,
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
    image: Sha256,
    image_size: u64,
    skeleton: Sha256,
    #[serde(default)]
    exclude: Vec<Exclude>,
    packages: Vec<RawPackage>,
    kernel: Option<RawKernel>,
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
        let fits = |c: u8| c.is_ascii_alphanumeric() || b"+-.~:_".contains(&c);
        if text.is_empty() || text.starts_with('.') || !text.bytes().all(fits) {
            return Err(de::Error::custom(format_args!(
                "expected letters, digits and any of + - . ~ : _ and found {text:?}"
            )));
        }
        Ok(Self(text))
    }
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
        let fits = |c: u8| c.is_ascii_alphanumeric() || b"+-.~:_%/".contains(&c);
        let part = |part: &str| !part.is_empty() && part != "." && part != "..";
        if !text.starts_with("pool/")
            || text.rsplit('.').next() != Some("deb")
            || !text.bytes().all(fits)
            || !text.split('/').all(part)
        {
            return Err(de::Error::custom(format_args!(
                "expected a path like pool/main/…/NAME.deb and found {text:?}"
            )));
        }
        Ok(Self(text))
    }
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
        let packages = |raw: Vec<RawPackage>| {
            let mut packages: Vec<(Range<usize>, Package)> = raw.into_iter().map(RawPackage::build).collect();
            packages.sort_by(|a, b| a.1.name.cmp(&b.1.name));
            if let Some(twice) = packages.windows(2).find(|pair| pair[0].1.name == pair[1].1.name) {
                let line = line_of(text, twice[1].0.clone());
                return Err(wrong(format!("line {line}: package `{}` is named twice", twice[1].1.name)));
            }
            Ok(packages.into_iter().map(|(_, package)| package).collect::<Vec<_>>())
        };
        let kernel = match raw.kernel {
            Some(kernel) => Some(Kernel { release: kernel.release.0, packages: packages(kernel.packages)? }),
            None => None,
        };
        Ok(Self {
            arch: raw.arch.0,
            suite: raw.suite.0,
            made: raw.made,
            snapshot: raw.snapshot.map(|template| template.0),
            image: raw.image,
            image_size: raw.image_size,
            skeleton: raw.skeleton,
            exclude: raw.exclude,
            packages: packages(raw.packages)?,
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
        let _ = writeln!(text, "\n# The uncompressed image, and what is added to the packages.");
        let _ = writeln!(text, "image = \"{}\"", self.image);
        let _ = writeln!(text, "image_size = {}", self.image_size);
        let _ = writeln!(text, "skeleton = \"{}\"", self.skeleton);
        let _ = writeln!(text, "\nexclude = [");
        for exclude in &self.exclude {
            let _ = writeln!(text, "  {},", quoted(exclude.as_str()));
        }
        text.push_str("]\n\n");
        write_packages(&mut text, &self.packages);
        if let Some(kernel) = &self.kernel {
            text.push_str("\n# For hosts that ask for it, or whose own can't be read. Not part of the image.\n");
            let _ = writeln!(text, "[kernel]\nrelease = {}", quoted(&kernel.release));
            write_packages(&mut text, &kernel.packages);
        }
        text
    }

    /// The first format that has room for it: an older anemos reads what it can.
    fn format(&self) -> u32 {
        if self.snapshot.is_some() || self.all_packages().any(|package| package.security) { 2 } else { 1 }
    }

    /// The packages of the image, and then those of the kernel.
    pub fn all_packages(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().chain(self.kernel.iter().flat_map(|kernel| &kernel.packages))
    }

    /// Bytes to download for the image.
    pub fn download_size(&self) -> u64 {
        self.packages.iter().fold(0, |sum, package| sum.saturating_add(package.size))
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
            "format = {FORMAT}\narch = \"amd64\"\nsuite = \"trixie\"\nmade = \"2026-01-02T03:04:05Z\"\n\
             image = \"{sha256}\"\nimage_size = 1\nskeleton = \"{sha256}\"\npackages = [{packages}]\n"
        );
        assert_eq!(Lock::parse("base.lock", &text).unwrap().download_size(), u64::MAX);
    }
}
