//! apt-get and apt-cache with all of their state in a temporary directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::groups::{self, Relations};
use super::{BaseList, Resolve, Sources};
use crate::{Error, Package, Sha256, Time, command, lock};

/// Private apt directories, removed when dropped.
pub(super) struct Apt {
    directory: PathBuf,
    /// The addresses of the archives, as [`plain`] has them, and whether each is the one of security updates.
    archives: Vec<(String, bool)>,
}

/// How long any of apt's commands may take.
const DEADLINE: Duration = Duration::from_secs(900);

impl Apt {
    pub(super) fn new(list: &BaseList, how: &Resolve) -> Result<Self, Error> {
        let io = |error| Error::io("preparing directories for apt", error);
        let directory = private_directory().map_err(io)?;
        let Sources { mirror, updates, security } = &how.sources;
        let mut archives = vec![(plain(mirror), false)];
        // One archive for all is the main one.
        if let Some(security) = security.as_deref().map(plain).filter(|security| *security != archives[0].0) {
            archives.push((security, true));
        }
        let apt = Self { directory, archives };
        for name in
            ["state/lists/partial", "cache/archives/partial", "etc/apt.conf.d", "etc/preferences.d", "etc/trusted"]
        {
            std::fs::create_dir_all(apt.directory.join(name)).map_err(io)?;
        }
        let (suite, keyring) = (&list.suite, how.keyring.display());
        let source = |url: &str, end: &str| format!("deb [signed-by={keyring}] {url} {suite}{end} main\n");
        let mut sources = source(mirror, "");
        sources.extend(updates.then(|| source(mirror, "-updates")));
        sources.extend(security.iter().map(|security| source(security, "-security")));
        let at = apt.directory.display();
        let arch = &list.arch;
        let configuration = format!(
            "Dir::State \"{at}/state\";\nDir::State::status \"{at}/status\";\nDir::Cache \"{at}/cache\";\n\
             Dir::Etc \"{at}/etc\";\nDir::Etc::sourceparts \"-\";\nAPT::Architecture \"{arch}\";\n\
             APT::Architectures {{ \"{arch}\"; }};\nAcquire::Languages \"none\";\n\
             APT::Install-Recommends \"false\";\nAPT::Sandbox::User \"root\";\n"
        );
        std::fs::write(apt.directory.join("etc/sources.list"), sources).map_err(io)?;
        std::fs::write(apt.directory.join("apt.conf"), configuration).map_err(io)?;
        std::fs::write(apt.directory.join("status"), "").map_err(io)?;
        Ok(apt)
    }

    /// Fetches the indexes and checks their signatures.
    pub(super) fn update(&self) -> Result<(), Error> {
        self.run("apt-get", &["-qq", "--error-on=any", "update"], &[]).map(drop)
    }

    /// Names of the packages that an empty system would get.
    pub(super) fn closure(&self, names: &[String]) -> Result<Vec<String>, Error> {
        let said = self.run("apt-get", &["-qq", "--simulate", "--no-install-recommends", "install"], names)?;
        let mut closure: Vec<String> = said
            .lines()
            .filter_map(|line| line.strip_prefix("Inst "))
            .filter_map(|rest| rest.split_whitespace().next())
            .map(|name| name.split(':').next().unwrap_or(name).to_owned())
            .collect();
        closure.sort();
        closure.dedup();
        Ok(closure)
    }

    /// What the packages that an empty system would get say of others.
    pub(super) fn relations(&self, names: &[String]) -> Result<BTreeMap<String, Relations>, Error> {
        let closure = self.closure(names)?;
        let mut all = groups::relations(&self.run("apt-cache", &["--no-all-versions", "show"], &closure)?);
        all.retain(|name, _| closure.contains(name));
        Ok(all)
    }

    /// Where the packages are, and their hashes.
    pub(super) fn show(&self, names: &[String]) -> Result<Vec<Package>, Error> {
        let words = ["-qq", "--print-uris", "-o", "Acquire::ForceHash=SHA256", "--no-install-recommends", "install"];
        let said = self.run("apt-get", &words, names)?;
        let mut packages: Vec<Package> = said.lines().filter_map(|line| self.package(line)).collect();
        // They come with what they depend on.
        packages.retain(|package| names.contains(&package.name));
        match names.iter().find(|name| !packages.iter().any(|package| package.name == **name)) {
            Some(missing) => Err(error(format!("the index doesn't say where {missing} is, or its hash"))),
            None => Ok(packages),
        }
    }

    /// The package of a line that apt prints for one that it would fetch.
    fn package(&self, line: &str) -> Option<Package> {
        let Offer { url, name, version, size, sha256 } = offer(line)?;
        let (path, security) = self.archives.iter().find_map(|(archive, security)| {
            let path = url.strip_prefix(archive)?.strip_prefix('/').filter(|path| lock::is_archive_path(path))?;
            Some((path.to_owned(), *security))
        })?;
        Some(Package { name, version, path, security, size, sha256 })
    }

    /// When the newest of the archives was made, as its signed Release file says.
    pub(super) fn made(&self) -> Result<Time, Error> {
        let io = |error| Error::io("reading the release files that apt has fetched", error);
        let mut newest = None;
        for entry in std::fs::read_dir(self.directory.join("state/lists")).map_err(io)? {
            let path = entry.map_err(io)?.path();
            if path.file_name().is_some_and(|name| name.as_encoded_bytes().ends_with(b"Release")) {
                let text = String::from_utf8_lossy(&std::fs::read(&path).map_err(io)?).into_owned();
                let date = text.lines().find_map(|line| line.strip_prefix("Date:"));
                newest = newest.max(date.and_then(Time::of_date));
            }
        }
        newest.ok_or_else(|| error("no release file says when it was made".to_owned()))
    }

    fn run(&self, program: &str, arguments: &[&str], names: &[String]) -> Result<String, Error> {
        let mut command = Command::new(program);
        command.args(arguments).args(names).env("APT_CONFIG", self.directory.join("apt.conf"));
        let output = command::run(command, DEADLINE, 64 << 20).map_err(|failure| Error::Command {
            command: format!("{program} {}", arguments.join(" ")),
            reason: failure.to_string(),
        })?;
        Ok(String::from_utf8_lossy(&output).into_owned())
    }
}

impl Drop for Apt {
    fn drop(&mut self) {
        // Nothing can be done about what can't be removed, and it is in a temporary directory.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A file that apt would fetch, whose name and version a lock may have.
pub(crate) struct Offer {
    url: String,
    pub(crate) name: String,
    pub(crate) version: String,
    size: u64,
    sha256: Sha256,
}

/// Reads a line such as `'URL' NAME_VERSION_ARCH.deb SIZE SHA256:HASH`; apt-get(8), `--print-uris`.
pub(crate) fn offer(line: &str) -> Option<Offer> {
    let (url, rest) = line.strip_prefix('\'')?.split_once("' ")?;
    let mut words = rest.split(' ');
    let (file, size, hash) = (words.next()?, words.next()?, words.next()?);
    let (name, rest) = file.split_once('_')?;
    let (version, _) = rest.split_once('_')?;
    let (name, version) = (name.to_owned(), unescaped(version));
    // What a lock would not be read with must not be written into one.
    if !lock::is_word(&name) || !lock::is_word(&version) {
        return None;
    }
    Some(Offer {
        url: plain(url),
        name,
        version,
        size: size.parse().ok()?,
        sha256: hash.strip_prefix("SHA256:")?.parse().ok()?,
    })
}

/// An address as it is compared: apt escapes some signs, and writes those of files in its own way.
fn plain(url: &str) -> String {
    let url = unescaped(url.trim_end_matches('/'));
    match url.strip_prefix("file:") {
        Some(path) => format!("file:/{}", path.trim_start_matches('/')),
        None => url,
    }
}

/// Text without its percent escapes.
fn unescaped(text: &str) -> String {
    let mut plain = Vec::new();
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        let digits = after.get(..2).filter(|digits| *byte == b'%' && digits.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        plain.push(escaped.unwrap_or(*byte));
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// What apt's answers lack.
pub(super) fn error(reason: String) -> Error {
    Error::Command { command: "apt".to_owned(), reason }
}

/// A new directory that only we may write to.
fn private_directory() -> std::io::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let base: &Path = &std::env::temp_dir();
    let mut last = std::io::Error::other("no free name");
    for attempt in 0..100 {
        let path = base.join(format!("anemos-apt-{}-{attempt}", std::process::id()));
        match std::fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}
