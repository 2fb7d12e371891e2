//! Where packages are: at mirrors, and at the snapshot archive when no mirror has them any more.

use std::fs::File;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::apt_sources::without_credentials;
use crate::error::{Attempt, Error, Failure};
use crate::fetch::{Fetcher, Sink};
use crate::snapshot::SNAPSHOT_ID;
use crate::{Lock, Package, Time};

/// Where packages come from.
pub trait Packages: Sync {
    /// The package's bytes, verified against its size and hash. When `stop` becomes true the result is not wanted
    /// any more.
    fn get(&self, package: &Package, stop: &AtomicBool) -> Result<Vec<u8>, Error>;

    /// Writes the package, verified, to a file of its own: for one that is too large to hold.
    fn store(&self, package: &Package, into: &File) -> Result<(), Error>;

    /// Says more of an error of [`get`](Self::get), where more can be found out.
    fn explain(&self, error: Error, _lock: &Lock) -> Error {
        error
    }
}

/// The addresses of a distribution's archives, each in the order in which they are asked.
#[derive(Clone, Debug, Default)]
pub struct Mirrors {
    /// Of the main archive.
    pub main: Vec<String>,
    /// Of the archive of security updates.
    pub security: Vec<String>,
}

impl Mirrors {
    /// These mirrors, with the security updates beside the first one, where they are `known` to be, or beside the
    /// others.
    pub fn new(main: Vec<String>, known: Vec<String>) -> Self {
        let mut beside = main.iter().map(|mirror| security_beside(mirror));
        let first = beside.next().unwrap_or_default();
        let mut security = Vec::new();
        for place in first.into_iter().chain(known).chain(beside.flatten()) {
            if !security.contains(&place) {
                security.push(place);
            }
        }
        Self { main, security }
    }
}

/// Where the security updates may be on a mirror's server, the likeliest first: most have `debian` and
/// `debian-security` side by side, some theirs as `security` beside what they call the other, and kin of Debian have
/// one archive for all.
pub(crate) fn security_beside(mirror: &str) -> Vec<String> {
    let mirror = mirror.trim_end_matches('/');
    let mut places: Vec<String> = security_sibling(mirror).into_iter().collect();
    match mirror.get(path_of(mirror)..).and_then(|path| path.rsplit_once('/')) {
        Some((_, last)) => {
            let above = mirror.strip_suffix(last).unwrap_or_default();
            places.extend([format!("{mirror}-security"), format!("{above}security")]);
        }
        None => places.push(format!("{mirror}/debian-security")),
    }
    places.push(mirror.to_owned());
    // It can only be the second.
    places.dedup();
    places
}

/// The address with `debian-security` for `debian`, also with more after it, as snapshots have it.
fn security_sibling(url: &str) -> Option<String> {
    let is_part = |at: &usize| matches!(url.as_bytes().get(at + "/debian".len()), None | Some(b'/'));
    let start = path_of(url);
    let found = url.match_indices("/debian").map(|(at, _)| at).filter(|at| *at >= start);
    let at = found.filter(is_part).last()? + "/debian".len();
    Some(format!("{}-security{}", &url[..at], &url[at..]))
}

/// Where the path begins in an address.
fn path_of(url: &str) -> usize {
    let server = url.find("://").map_or(0, |at| at + 3);
    url[server..].find('/').map_or(url.len(), |at| server + at)
}

/// Packages from mirrors, and from the snapshot archive when no mirror has them any more.
pub struct Archive<'a> {
    fetcher: &'a Fetcher,
    mirrors: Mirrors,
    find_snapshot: Box<dyn Fn() -> Option<String> + Sync + 'a>,
    snapshot: OnceLock<Option<String>>,
    made: Time,
}

/// A package that no mirror has any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The address where a snapshot archive has it, or why none is known.
    pub still: Result<String, String>,
}

/// How long is spent on finding out which packages have left a mirror, once one has.
const LOOK: Duration = Duration::from_secs(15);

impl<'a> Archive<'a> {
    /// Packages from these mirrors for this lock.
    ///
    /// `snapshot` finds the address of a snapshot archive of the main archive, with [`SNAPSHOT_ID`] in it. It is called
    /// once, and only when a package is missing.
    pub fn new(
        fetcher: &'a Fetcher,
        lock: &Lock,
        mirrors: Mirrors,
        snapshot: impl Fn() -> Option<String> + Sync + 'a,
    ) -> Self {
        let find_snapshot = Box::new(snapshot);
        Self { fetcher, mirrors, find_snapshot, snapshot: OnceLock::new(), made: lock.made }
    }

    fn write(&self, package: &Package, stop: &AtomicBool, out: &mut dyn Sink) -> Result<(), Error> {
        let urls = self.at_mirrors(package);
        let mut attempts = Vec::new();
        let mut get = |url: &str| self.fetcher.pinned(url, (package.size, package.sha256), stop, out);
        if self.fetcher.try_each(&urls, stop, &mut attempts, &mut get) {
            return Ok(());
        }
        let called_off = || stop.load(Ordering::Relaxed) || self.fetcher.is_cancelled();
        let past = if called_off() { Vec::new() } else { self.at_snapshots(package) };
        if self.fetcher.try_each(&past, stop, &mut attempts, &mut get) {
            return Ok(());
        }
        // When nobody else has the package, the servers that were busy or broke off are asked again.
        if self.fetcher.try_again(stop, &mut attempts, &mut get) {
            return Ok(());
        }
        if is_gone(&attempts) && past.is_empty() && !called_off() {
            return Err(Error::Left { file: package.path.clone(), attempts, packages: Vec::new(), asked: 0 });
        }
        Err(self.fetcher.none_of(&package.path, attempts))
    }

    /// Whether no mirror has the package any more.
    fn has_left(&self, package: &Package) -> bool {
        let gone = |url: &String| self.fetcher.look(url) == Err(Failure::NotFound);
        self.at_mirrors(package).iter().all(gone)
    }

    fn at_mirrors(&self, package: &Package) -> Vec<String> {
        let mirrors = if package.security { &self.mirrors.security } else { &self.mirrors.main };
        mirrors.iter().map(|mirror| below(mirror, &package.path)).collect()
    }

    /// Where the snapshot archive may have it; nowhere if none is known.
    fn at_snapshots(&self, package: &Package) -> Vec<String> {
        let Some(snapshot) = self.snapshot.get_or_init(&self.find_snapshot) else { return Vec::new() };
        let sibling = if package.security { security_sibling(snapshot) } else { None };
        let snapshot = sibling.as_ref().unwrap_or(snapshot);
        // It takes what is in an archive some time after that was made. What was in it then stays for more than a day.
        let times = [self.made.after(24 * 3600), self.made];
        times.map(|time| below(&snapshot.replace(SNAPSHOT_ID, &time.snapshot_id()), &package.path)).into()
    }

    /// What is known of a package that no mirror has any more; `None` if one has it. Nothing is downloaded.
    ///
    /// Fails if a mirror can't tell: then it may have the package.
    pub(crate) fn left(&self, package: &Package, stop: &AtomicBool) -> Result<Option<Left>, Error> {
        let asked = |urls: &[String]| {
            let (mut attempts, mut found) = (Vec::new(), String::new());
            let mut look = |url: &str| self.fetcher.look(url).map(|()| url.clone_into(&mut found));
            let is_there = self.fetcher.try_each(urls, stop, &mut attempts, &mut look)
                || self.fetcher.try_again(stop, &mut attempts, &mut look);
            if is_there { Ok(found) } else { Err(attempts) }
        };
        match asked(&self.at_mirrors(package)) {
            Ok(_) => return Ok(None),
            Err(attempts) if is_gone(&attempts) => {}
            Err(attempts) => return Err(self.fetcher.none_of(&package.path, attempts)),
        }
        let past = self.at_snapshots(package);
        let still = match asked(&past) {
            Ok(url) => Ok(without_credentials(&url)),
            Err(_) if past.is_empty() => Err("no archive of past versions is known".to_owned()),
            Err(attempts) => Err(self.fetcher.none_of("the archive of past versions", attempts).to_string()),
        };
        Ok(Some(Left { name: package.name.clone(), version: package.version.clone(), still }))
    }
}

/// Whether whoever was asked doesn't have it.
fn is_gone(attempts: &[Attempt]) -> bool {
    !attempts.is_empty() && attempts.iter().all(|attempt| attempt.failure == Failure::NotFound)
}

fn below(base: &str, path: &str) -> String {
    format!("{}/{path}", base.trim_end_matches('/'))
}

impl Packages for Archive<'_> {
    fn get(&self, package: &Package, stop: &AtomicBool) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        self.write(package, stop, &mut bytes).map(|()| bytes)
    }

    fn store(&self, package: &Package, mut into: &File) -> Result<(), Error> {
        self.write(package, &AtomicBool::new(false), &mut into)
    }

    fn explain(&self, mut error: Error, lock: &Lock) -> Error {
        if let Error::Left { packages, asked, .. } = &mut error {
            let until = Instant::now() + LOOK;
            let in_time = || Instant::now() < until && !self.fetcher.is_cancelled();
            for package in lock.packages().take_while(|_| in_time()) {
                *asked += 1;
                if self.has_left(package) {
                    packages.push(package.name.clone());
                }
            }
        }
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn security_updates_are_beside() {
        for (mirror, places) in [
            (
                "http://m.test/debian/",
                &["http://m.test/debian-security", "http://m.test/security", "http://m.test/debian"][..],
            ),
            (
                "http://m.test/debian/packages",
                &[
                    "http://m.test/debian-security/packages",
                    "http://m.test/debian/packages-security",
                    "http://m.test/debian/security",
                    "http://m.test/debian/packages",
                ],
            ),
            ("http://debian", &["http://debian/debian-security", "http://debian"]),
            ("file:///x", &["file:///x-security", "file:///security", "file:///x"]),
            ("/srv/debian", &["/srv/debian-security", "/srv/security", "/srv/debian"]),
        ] {
            assert_eq!(security_beside(mirror), places, "{mirror}");
        }
        let known = vec!["http://k.test/debian-security".to_owned()];
        let mirrors = Mirrors::new(vec!["http://a".into(), "http://b".into()], known);
        let places = ["http://a/debian-security", "http://a", "http://k.test/debian-security"];
        assert_eq!(mirrors.security[..3], places);
        assert_eq!(mirrors.security[3..], ["http://b/debian-security", "http://b"]);
    }

    #[test]
    fn snapshots_of_security_updates_are_beside() {
        for (template, sibling) in [
            ("https://p.test/archive/debian/@SNAPSHOTID@/", "https://p.test/archive/debian-security/@SNAPSHOTID@/"),
            ("http://debian/debian/x/debian/@SNAPSHOTID@", "http://debian/debian/x/debian-security/@SNAPSHOTID@"),
        ] {
            assert_eq!(security_sibling(template).as_deref(), Some(sibling));
        }
        for template in ["http://p.test/@SNAPSHOTID@/", "http://debian/@SNAPSHOTID@", "http://p.test/debian-x/y"] {
            assert_eq!(security_sibling(template), None);
        }
    }
}
