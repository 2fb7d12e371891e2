//! Filling the archive with the ordinary package client, from the mirror that this machine's apt uses.

use super::{Filled, sources};
use crate::command::run;
use crate::machine::file_sha256;
use crate::{Context, Lab, Result, bail, checkout, tools};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(super) const SUITE: &str = "trixie";

/// Beside the archive: for what it was filled.
const STAMP: &str = "archive/stamp";

/// What a minimal Debian consists of. apt adds what these depend on.
const MINIMAL: &[&str] = &["?essential", "?priority(required)", "?priority(important)"];

/// What payloads install beyond that. `grub-pc` and `grub-efi-amd64` exclude each other, so they are resolved apart.
const PACKAGES: &[&str] = &[
    "apt",
    "ca-certificates",
    "cryptsetup-initramfs",
    "curl",
    "debian-archive-keyring",
    "dhcpcd-base",
    "dosfstools",
    "e2fsprogs",
    "gdisk",
    "grub-efi-amd64-signed",
    "ifupdown",
    "initramfs-tools",
    "iproute2",
    "iputils-ping",
    "isc-dhcp-client",
    "kmod",
    "linux-image-cloud-amd64",
    // debootstrap takes the first of several alternatives.
    "lsb-base",
    "mmdebstrap",
    "netbase",
    "openssh-server",
    "procps",
    "shim-signed",
    "systemd-resolved",
    "systemd-sysv",
    "udev",
    "zstd",
];
const LOADERS: &[&[&str]] = &[&["grub-pc", "grub-pc-bin"], &["grub-efi-amd64", "grub-efi-amd64-bin", "efibootmgr"]];

/// One package file, as apt describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Deb {
    /// Where it is among the archives, without percent escapes.
    path: String,
    /// What apt calls it when it stores it.
    file: String,
    size: u64,
    sha256: String,
}

impl Deb {
    /// `NAME=VERSION`, as apt takes it.
    fn exactly(&self) -> Result<String> {
        let mut parts = self.file.split('_');
        match (parts.next(), parts.next()) {
            (Some(name), Some(version)) => Ok(format!("{name}={}", unescape(version))),
            _ => bail!("not a package's file name: {}", self.file),
        }
    }
}

/// Whether the suite and base.lock's packages have been fetched for what is wanted.
pub(super) fn is_filled(lab: &Lab, wanted: &str) -> bool {
    fs::read_to_string(lab.path(STAMP)).is_ok_and(|text| text == wanted)
}

/// Fetches the suite and base.lock's packages. What is there already is not fetched again.
pub(super) fn fill(lab: &Lab) -> Result<Filled> {
    let wanted = identity()?;
    let root = lab.path("archive");
    let main = [Source::debian(SUITE)?];
    let apt = Apt::new(lab, SUITE, &main, Indexes::AsSent)?;
    apt.update()?;
    apt.publish_indexes(&root, &main[0])?;
    let apt = Apt::new(lab, SUITE, &main, Indexes::Plain)?;
    apt.update()?;
    let mut debs = apt.describe_all(&[])?;
    let locked: Vec<String> =
        locked_packages()?.iter().map(|package| format!("{}={}", package.name, package.version)).collect();
    if !locked.is_empty() {
        let names: Vec<&str> = locked.iter().map(String::as_str).collect();
        for deb in apt.describe("download", &names).context("a package of base.lock is not at the mirror any more")? {
            debs.insert(deb.path.clone(), deb);
        }
    }
    let filled = apt.fetch_missing(&debs, &root)?;
    fs::write(lab.path(STAMP), wanted).context("cannot write the archive's stamp")?;
    Ok(filled)
}

/// Fetches packages of a suite, unpacks them in `into`, and runs nothing of theirs.
pub fn unpack(lab: &Lab, suite: &str, names: &[&str], into: &Path) -> Result<()> {
    let _lock = lab.lock("archive")?;
    let apt = Apt::new(lab, suite, &[Source { place: "tree", ..Source::debian(suite)? }], Indexes::Plain)?;
    apt.update()?;
    let debs = apt.describe("download", names)?;
    let root = lab.path(format!("archive-apt/{suite}-plain"));
    let missing: Vec<&Deb> = debs.iter().filter(|deb| !present(&root, deb)).collect();
    apt.fetch(&missing, &root)?;
    for deb in &debs {
        run(Command::new("dpkg-deb").arg("-x").arg(root.join(&deb.path)).arg(into))?;
    }
    Ok(())
}

/// What the archive is made for: another base.lock or list of packages asks for another archive.
pub(super) fn identity() -> Result<String> {
    let lock = base_lock();
    let hash = if lock.exists() { file_sha256(&lock)? } else { "no base.lock".to_owned() };
    Ok(format!("1 {SUITE} {} {hash}\n", PACKAGES.join(" ")))
}

fn base_lock() -> PathBuf {
    checkout().join("base-initramfs/base.lock")
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
}

fn locked_packages() -> Result<Vec<Locked>> {
    #[derive(Deserialize)]
    struct Packages {
        #[serde(default)]
        packages: Vec<Locked>,
    }
    #[derive(Deserialize)]
    struct Lock {
        groups: Vec<Packages>,
        kernel: Option<Packages>,
    }
    let path = base_lock();
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(&path).context(format!("cannot read {}", path.display()))?;
    let lock: Lock = toml::from_str(&text).context(format!("cannot understand {}", path.display()))?;
    Ok(lock.groups.into_iter().chain(lock.kernel).flat_map(|part| part.packages).collect())
}

fn present(root: &Path, deb: &Deb) -> bool {
    fs::metadata(root.join(&deb.path)).is_ok_and(|found| found.len() == deb.size)
}

/// A suite of an archive, and the directory that the archive has here.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) uri: String,
    pub(super) suite: String,
    pub(super) place: &'static str,
}

impl Source {
    pub(super) fn debian(suite: &str) -> Result<Self> {
        Ok(Self { uri: sources::debian_mirror()?, suite: suite.to_owned(), place: "debian" })
    }
}

/// How apt keeps package indexes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Indexes {
    /// Byte for byte, so that they are what the signed release file describes.
    AsSent,
    /// Uncompressed: looking a hundred packages up in a compressed one takes apt a minute.
    Plain,
}

/// An apt with sources, lists and caches of its own, and with the machine's other settings (proxies).
pub(super) struct Apt {
    dir: PathBuf,
    indexes: Indexes,
    sources: Vec<Source>,
}

impl Apt {
    /// `name` is that of its directory.
    pub(super) fn new(lab: &Lab, name: &str, sources: &[Source], indexes: Indexes) -> Result<Self> {
        let kept = match indexes {
            Indexes::AsSent => "as-sent",
            Indexes::Plain => "plain",
        };
        let dir = lab.path(format!("archive-apt/{name}-{kept}"));
        for part in ["lists/partial", "cache/archives/partial", "fetched"] {
            let part = dir.join(part);
            fs::create_dir_all(&part).context(format!("cannot make {}", part.display()))?;
        }
        // An empty system: whatever is installed here must not be taken for granted.
        fs::write(dir.join("status"), "").context("cannot write apt's status")?;
        let line = |source: &Source| {
            let Source { uri, suite, .. } = source;
            format!("deb [signed-by={}] {uri} {suite} main\n", tools::KEYRING)
        };
        let list: String = sources.iter().map(line).collect();
        fs::write(dir.join("sources.list"), list).context("cannot write apt's sources")?;
        Ok(Self { dir, indexes, sources: sources.to_vec() })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let at = |part: &str| self.dir.join(part).display().to_string();
        for option in [
            format!("Dir::Etc::sourcelist={}", at("sources.list")),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            "Dir::Etc::preferences=/dev/null".to_owned(),
            "Dir::Etc::preferencesparts=/dev/null".to_owned(),
            format!("Dir::State::lists={}", at("lists")),
            format!("Dir::State::status={}", at("status")),
            format!("Dir::Cache={}", at("cache")),
            "APT::Architecture=amd64".to_owned(),
            "APT::Architectures=amd64".to_owned(),
            "APT::Install-Recommends=false".to_owned(),
            // The lab's directory need not be readable for apt's own user.
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::ForceHash=sha256".to_owned(),
            format!("Acquire::GzipIndexes={}", self.indexes == Indexes::AsSent),
            "Acquire::IndexTargets::deb::Packages::KeepCompressedAs=xz".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false".to_owned(),
        ] {
            command.arg("-o").arg(option);
        }
        command
    }

    pub(super) fn update(&self) -> Result<()> {
        run(self.command("apt-get").args(["-q", "--error-on=any", "update"]))?;
        Ok(())
    }

    /// Puts the release file and the index where a mirror has them, under both of the index's names.
    pub(super) fn publish_indexes(&self, root: &Path, source: &Source) -> Result<()> {
        let Source { suite, place, .. } = source;
        let lists = self.dir.join("lists");
        let find = |end: &str| -> Result<PathBuf> {
            let entries = fs::read_dir(&lists).context("cannot read apt's lists")?;
            for entry in entries {
                let path = entry.context("cannot read apt's lists")?.path();
                if path.to_string_lossy().ends_with(end) {
                    return Ok(path);
                }
            }
            bail!("apt fetched no {end}")
        };
        let dists = root.join(place).join("dists").join(suite);
        let binary = dists.join("main/binary-amd64");
        let by_hash = binary.join("by-hash/SHA256");
        fs::create_dir_all(&by_hash).context(format!("cannot make {}", by_hash.display()))?;
        let release = find(&format!("_dists_{suite}_InRelease"))?;
        let index = find(&format!("_dists_{suite}_main_binary-amd64_Packages.xz"))?;
        let hash = file_sha256(&index)?;
        let text = fs::read_to_string(&release).context("cannot read the release file")?;
        if !text.contains(&hash) {
            bail!("the package index is not the one that the release file describes");
        }
        for (from, to) in
            [(&index, binary.join("Packages.xz")), (&index, by_hash.join(&hash)), (&release, dists.join("InRelease"))]
        {
            fs::copy(from, &to).context(format!("cannot write {}", to.display()))?;
        }
        fs::write(dists.join("Release"), unsigned(&text)).context("cannot write Release")
    }

    /// What apt would fetch for `install` or `download` of these.
    fn describe(&self, verb: &str, names: &[&str]) -> Result<Vec<Deb>> {
        let output = run(self.command("apt-get").args(["-qq", "-y", "--print-uris", verb]).args(names))?;
        let text = String::from_utf8_lossy(&output);
        text.lines().filter(|line| line.starts_with('\'')).map(|line| parse_uri_line(line, &self.sources)).collect()
    }

    /// Names of packages that begin so.
    pub(super) fn names(&self, begin: &str) -> Result<Vec<String>> {
        let output = run(self.command("apt-cache").args(["pkgnames", begin]))?;
        Ok(String::from_utf8_lossy(&output).lines().map(str::to_owned).collect())
    }

    /// What apt would fetch for everything that payloads install, and for `more`.
    pub(super) fn describe_all(&self, more: &[&str]) -> Result<BTreeMap<String, Deb>> {
        let mut debs = BTreeMap::new();
        for loader in LOADERS {
            let mut names: Vec<&str> = MINIMAL.to_vec();
            names.extend(PACKAGES);
            names.extend(*loader);
            names.extend(more);
            for deb in self.describe("install", &names)? {
                debs.insert(deb.path.clone(), deb);
            }
        }
        Ok(debs)
    }

    pub(super) fn fetch_missing(&self, debs: &BTreeMap<String, Deb>, root: &Path) -> Result<Filled> {
        let missing: Vec<&Deb> = debs.values().filter(|deb| !present(root, deb)).collect();
        self.fetch(&missing, root)?;
        Ok(Filled { packages: debs.len(), bytes: debs.values().map(|deb| deb.size).sum(), fetched: missing.len() })
    }

    fn fetch(&self, debs: &[&Deb], root: &Path) -> Result<()> {
        let place = self.dir.join("fetched");
        // Few enough for one command line, many enough to use the connection well.
        for batch in debs.chunks(100) {
            let mut command = self.command("apt-get");
            command.current_dir(&place).args(["-q", "-o", "Acquire::Retries=3", "download"]);
            for deb in batch {
                command.arg(deb.exactly()?);
            }
            run(&mut command)?;
            for deb in batch {
                let from = place.join(&deb.file);
                if file_sha256(&from)? != deb.sha256 {
                    bail!("{} is not what the index describes", deb.file);
                }
                let to = root.join(&deb.path);
                let parent = to.parent().expect("a file in a tree has a parent");
                fs::create_dir_all(parent).context(format!("cannot make {}", parent.display()))?;
                fs::rename(&from, &to).context(format!("cannot move {}", from.display()))?;
            }
        }
        Ok(())
    }
}

/// `'URI' FILE SIZE SHA256:HASH`
fn parse_uri_line(line: &str, sources: &[Source]) -> Result<Deb> {
    let fields: Vec<&str> = line.split(' ').collect();
    let [uri, file, size, hash] = fields[..] else { bail!("apt said something else than a URI: {line}") };
    let uri = uri.trim_matches('\'');
    let below = |source: &Source| Some((source.place, uri.strip_prefix(&source.uri)?.strip_prefix('/')?));
    let Some((place, path)) = sources.iter().find_map(below) else {
        bail!("apt would fetch a package from elsewhere than its sources: {uri}");
    };
    let Some(sha256) = hash.strip_prefix("SHA256:") else { bail!("apt gave no SHA-256 for {file}") };
    let size = size.parse().context(format!("the size of {file}"))?;
    Ok(Deb { path: format!("{place}/{}", unescape(path)), file: file.to_owned(), size, sha256: sha256.to_owned() })
}

/// Undoes percent escapes.
pub(super) fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok()))
            .flatten();
        plain.push(code.unwrap_or(bytes[at]));
        at += if code.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// The text inside a clear signature.
fn unsigned(signed: &str) -> String {
    let inside = signed.split_once("\n\n").map_or(signed, |(_, rest)| rest);
    let text = inside.split("-----BEGIN PGP SIGNATURE-----").next().unwrap_or_default();
    text.lines().map(|line| line.strip_prefix("- ").unwrap_or(line).to_owned() + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_apt_would_fetch() {
        let line = "'http://mirror.test/debian/pool/main/g/glibc/libc6_2.41-12%2bdeb13u4_amd64.deb' \
                    libc6_2.41-12+deb13u4_amd64.deb 2846580 SHA256:ab";
        let source = |uri: &str, place| Source { uri: uri.to_owned(), suite: SUITE.to_owned(), place };
        let sources = [
            source("http://mirror.test/debian", "debian"),
            source("http://mirror.test/debian-security", "debian-security"),
        ];
        let deb = parse_uri_line(line, &sources).unwrap();
        assert_eq!(deb.path, "debian/pool/main/g/glibc/libc6_2.41-12+deb13u4_amd64.deb");
        let line = "'http://mirror.test/debian-security/pool/updates/a_1_all.deb' a_1_all.deb 1 SHA256:ab";
        assert_eq!(parse_uri_line(line, &sources).unwrap().path, "debian-security/pool/updates/a_1_all.deb");
        assert_eq!((deb.size, deb.sha256.as_str()), (2_846_580, "ab"));
        assert_eq!(deb.exactly().unwrap(), "libc6=2.41-12+deb13u4");
        assert!(parse_uri_line(&line.replace("mirror.test", "other.test"), &sources).is_err());
    }

    #[test]
    fn an_epoch_in_a_file_name_is_an_epoch_in_the_version() {
        let deb = Deb {
            path: String::new(),
            file: "openssh-server_1%3a10.0p1-7_amd64.deb".to_owned(),
            size: 0,
            sha256: String::new(),
        };
        assert_eq!(deb.exactly().unwrap(), "openssh-server=1:10.0p1-7");
    }

    #[test]
    fn escapes_are_undone_and_broken_ones_kept() {
        assert_eq!(unescape("a%2bb%zz%2"), "a+b%zz%2");
    }

    #[test]
    fn a_release_file_without_its_signature() {
        let signed = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nOrigin: Debian\n- -dash\n\
                      -----BEGIN PGP SIGNATURE-----\nxyz\n-----END PGP SIGNATURE-----\n";
        assert_eq!(unsigned(signed), "Origin: Debian\n-dash\n");
    }
}
