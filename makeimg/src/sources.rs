//! Where a Debian's packages come from: its suite, the suite's updates, and its security updates. The system is built
//! from all of them, and has them in /etc/apt/sources.list.d/debian.sources, whichever tool bootstraps it.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::command::{self, Context, Tool};
use crate::inside::Inside;
use crate::problem::{Doing, Problem};

/// Where apt keeps what fetches a file as it would fetch an index, by the proxies and with the passwords that it has.
const HELPER: &str = "/usr/lib/apt/apt-helper";
/// Suites that are no release, and so have no security archive: repairs come into them as all other packages do. They
/// are Debian's (wiki.debian.org/DebianUnstable), Devuan's and Kali's (kali.org/docs/general-use/kali-branches).
const ROLLING: [&str; 9] = [
    "sid",
    "unstable",
    "experimental",
    "rc-buggy",
    "ceres",
    "kali-rolling",
    "kali-last-snapshot",
    "kali-bleeding-edge",
    "kali-experimental",
];
/// Where the sources are, in the image.
pub const FILE: &str = "etc/apt/sources.list.d/debian.sources";
/// The older file for sources, one a line, which tools still write.
pub const OLD_FILE: &str = "etc/apt/sources.list";

/// What sources are wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// A release's name or class.
    pub suite: &'a str,
    /// Parts of the archive, such as `main`.
    pub components: &'a [String],
    /// The URL of the archive that has the security updates, or [`NONE`]; where it is not said, it is looked for.
    pub security: Option<&'a str>,
    /// A file with the keys that sign the archive, where it is not the one that belongs to the distribution.
    pub keyring: Option<&'a Path>,
    /// URL at which it may be, besides those that follow from the mirror's own URL.
    pub known: Option<&'a str>,
    /// A directory for what is asked for.
    pub work: &'a Path,
}

/// In place of a URL: the system is meant to have no security updates.
pub const NONE: &str = "none";

/// An archive, and which of its suites are used.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    uri: String,
    suites: Vec<String>,
}

/// The sources of one system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    list: Vec<Source>,
    components: String,
    /// As in the archive's release file, such as `Debian`.
    origin: Option<String>,
    /// The author's file with the keys that sign it.
    keyring: Option<PathBuf>,
}

/// Where the image has the author's keyring.
const KEYRINGS: &str = "etc/apt/keyrings";

impl Sources {
    /// Asks the mirror, and archives where the security updates may be, for what they have.
    ///
    /// # Errors
    /// The archive that was named for security updates has none that can be used.
    pub fn find(context: &Context, wanted: &Wanted<'_>, mirror: &str) -> Result<Self, Problem> {
        let Wanted { suite, security, .. } = *wanted;
        let ask = |uri: &str, suite: &str| {
            let release = fetch(context, wanted.work, &format!("{uri}/dists/{suite}/InRelease"));
            release.map(|release| release.and_then(fresh))
        };
        let mirror = mirror.trim_end_matches('/');
        let main = Source { uri: mirror.to_owned(), suites: vec![suite.to_owned()] };
        let mut release = Err(String::new());
        // Old mirrors have the signature beside it.
        for name in ["InRelease", "Release"] {
            if release.is_err() {
                release = fetch(context, wanted.work, &format!("{mirror}/dists/{suite}/{name}"))?;
            }
        }
        let release = release.map_err(|why| {
            let hint = "is the suite misspelt, or is the archive another, or out of reach?";
            Problem::build(format!("the archive {} has no {suite} that can be used: {why}", shown(mirror))).hint(hint)
        })?;
        let origin = field(&release, "Origin").map(str::to_owned);
        let mut sources = Self { list: vec![main], components: wanted.components.join(" "), origin, keyring: None };
        sources.keyring = wanted.keyring.map(Path::to_owned);
        sources.doubt(context);
        if ROLLING.contains(&suite) {
            return Ok(sources);
        }
        let updates = format!("{suite}-updates");
        match ask(mirror, &updates)? {
            Ok(_) => sources.add(mirror, updates),
            Err(why) => context.report.warn(format!("{} has no {updates} that can be used: {why}", shown(mirror))),
        }
        let name = format!("{suite}-security");
        let mut tried = Vec::new();
        let places = match security {
            Some(NONE) => return Ok(sources),
            Some(uri) => vec![uri.trim_end_matches('/').to_owned()],
            None => beside(mirror),
        };
        // The machine's own are asked for only if there is nothing beside the mirror.
        let own = || if security.is_some() { Vec::new() } else { own(context, wanted.known) };
        for place in places.into_iter().chain(std::iter::once_with(own).flatten()) {
            match ask(&place, &name)? {
                Ok(_) => {
                    sources.add(&place, name);
                    return Ok(sources);
                }
                Err(why) => tried.push(format!("{}: {why}", shown(&place))),
            }
        }
        let tried = tried.join("; ");
        if security.is_some() {
            let what = format!("the security archive that was named has no {name} that can be used: {tried}");
            return Err(Problem::build(what).hint(format!("name another, or `{NONE}`")));
        }
        context.report.warn(format!(
            "the system has NO SECURITY UPDATES and will not get any: there is no {name} beside {} or in the apt \
             sources that are known ({tried}); name the archive in the IMGBUILD (debian_security=URL), or say there \
             that it has none (debian_security={NONE})",
            shown(mirror)
        ));
        Ok(sources)
    }

    /// What a tool chose for itself, as it has written it into the image.
    pub fn of_tool(image: &Inside, suite: &str, components: &[String]) -> Option<Self> {
        let text = image.read(Path::new(OLD_FILE)).unwrap_or_default();
        let mut sources = Self { list: Vec::new(), components: components.join(" "), origin: None, keyring: None };
        for (uri, suite) in String::from_utf8_lossy(&text).lines().filter_map(one_line) {
            sources.add(uri, suite.to_owned());
        }
        let is_main = |source: &Source| source.suites.iter().any(|known| known == suite);
        sources.list.iter().any(is_main).then_some(sources)
    }

    fn add(&mut self, uri: &str, suite: String) {
        let uri = uri.trim_end_matches('/');
        match self.list.iter_mut().find(|source| source.uri == uri) {
            Some(source) => source.suites.push(suite),
            None => self.list.push(Source { uri: uri.to_owned(), suites: vec![suite] }),
        }
    }

    /// The archive that has the suite itself.
    pub fn mirror(&self, suite: &str) -> Option<&str> {
        let found = self.list.iter().find(|source| source.suites.iter().any(|known| known == suite));
        found.map(|source| &*source.uri)
    }

    /// Whether there is nothing more to be found for a suite.
    pub fn is_whole(&self, suite: &str) -> bool {
        let has = |end: &str| self.mirror(&format!("{suite}{end}")).is_some();
        ROLLING.contains(&suite) || has("-updates") && has("-security")
    }

    /// Whether an archive is reached by TLS, which takes certificates in the image.
    pub fn by_tls(&self) -> bool {
        self.list.iter().any(|source| source.uri.starts_with("https:"))
    }

    /// Says what is missing if nothing here can tell whether the archive is what it says. What this machine's own apt
    /// trusts besides may do.
    fn doubt(&self, context: &Context) {
        let Some(origin) = self.origin.as_deref().filter(|_| self.keyring.is_none()) else { return };
        let Some(path) = keyring(origin).filter(|path| !Path::new("/").join(path).exists()) else { return };
        let package = path.rsplit('/').next().unwrap_or_default().trim_end_matches(".gpg");
        context.report.warn(format!(
            "this machine has no /{path}, so it may be unable to verify the archive of {origin}: install its package \
             ({package}, for Ubuntu ubuntu-keyring), or name a file with its keys in the IMGBUILD (debian_keyring)"
        ));
    }

    /// As words for mmdebstrap(1): each is a line of sources.list(5).
    pub fn lines(&self) -> Vec<String> {
        let theirs = || self.origin.as_deref().and_then(keyring).map(|path| Path::new("/").join(path));
        let keyring = self.keyring.clone().or_else(|| theirs().filter(|path| path.exists()));
        let keyring = keyring.map(|path| format!(" [signed-by={}]", path.display())).unwrap_or_default();
        let of = |source: &Source| {
            let line = |suite: &String| format!("deb{keyring} {} {suite} {}", source.uri, self.components);
            source.suites.iter().map(line).collect::<Vec<_>>()
        };
        self.list.iter().flat_map(of).collect()
    }

    /// Writes them into the image, in place of what a tool has written.
    ///
    /// # Errors
    /// They can't be written.
    pub fn write(&self, image: &Inside) -> Result<(), Problem> {
        let release = image.read(Path::new("etc/os-release")).unwrap_or_default();
        let release = String::from_utf8_lossy(&release);
        let id = release.lines().find_map(|line| line.strip_prefix("ID="));
        let mut keyring = id.and_then(keyring).filter(|path| image.exists(path));
        if let Some((own, name)) = self.keyring.as_ref().and_then(|own| Some((own, own.file_name()?))) {
            let path = Path::new(KEYRINGS).join(name);
            let put = std::fs::read(own).and_then(|keys| image.write(&path, &keys[..], 0o644));
            put.doing(|| format!("copying {} into the image", own.display()))?;
            keyring = Some(path.display().to_string());
        }
        let keyring = keyring.map(|path| format!("Signed-By: /{path}\n")).unwrap_or_default();
        let stanza = |Source { uri, suites }: &Source| {
            let (suites, components) = (suites.join(" "), &self.components);
            format!("Types: deb\nURIs: {uri}\nSuites: {suites}\nComponents: {components}\n{keyring}")
        };
        let text = self.list.iter().map(stanza).collect::<Vec<_>>().join("\n");
        // Whoever looks there, or edits it by a script, finds it.
        let note = format!("# See /{FILE}\n");
        let written = image.write(Path::new(OLD_FILE), note.as_bytes(), 0o644);
        written.and_then(|()| image.write(Path::new(FILE), text.as_bytes(), 0o644)).doing(|| format!("writing /{FILE}"))
    }
}

/// URLs of where the security archive of a mirror is on the same server, the likeliest first: most mirrors have
/// `debian` and `debian-security` side by side, snapshots have the time below these, hosting companies have theirs as
/// `security` beside what they call the other, and kin of Debian have one archive for all.
fn beside(mirror: &str) -> Vec<String> {
    let at = mirror.find("://").map_or_else(|| mirror.find(':').map_or(0, |at| at + 1), |at| at + 3);
    let path = at + mirror[at..].find('/').unwrap_or(mirror.len() - at);
    let (server, path) = mirror.split_at(path);
    let parts: Vec<&str> = path.split('/').collect();
    let mut places = Vec::new();
    if let Some(debian) = parts.iter().rposition(|part| *part == "debian") {
        let mut parts = parts.clone();
        parts[debian] = "debian-security";
        places.push(format!("{server}{}", parts.join("/")));
    }
    match parts.split_last() {
        Some((last, above)) if !above.is_empty() => {
            let above = above.join("/");
            places.extend([format!("{server}{above}/{last}-security"), format!("{server}{above}/security")]);
        }
        _ => places.push(format!("{server}/debian-security")),
    }
    places.push(mirror.to_owned());
    let mut seen = Vec::new();
    places.retain(|place| {
        !seen.contains(place) && {
            seen.push(place.clone());
            true
        }
    });
    places
}

/// URLs of the security archives that are known otherwise: what the caller knows, and what this machine's own apt has.
fn own(context: &Context, known: Option<&str>) -> Vec<String> {
    let mut places: Vec<String> = known.map(|place| place.trim_end_matches('/').to_owned()).into_iter().collect();
    if command::find("apt-get").is_some()
        && let Ok(Ok(said)) = Tool::new("apt-get").args(["update", "--print-uris"]).try_output(context)
    {
        places.extend(String::from_utf8_lossy(&said).lines().filter_map(security_of));
    }
    places.dedup();
    places
}

/// The archive of a line such as `'http://m.test/debian-security/dists/trixie-security/InRelease' m.test_… 0`.
pub(crate) fn security_of(line: &str) -> Option<String> {
    let (archive, suite) = line.strip_prefix('\'')?.split_once("/InRelease'")?.0.rsplit_once("/dists/")?;
    // Until Debian 10 they were called `buster/updates`. Files and lists of mirrors of this machine's mean nothing
    // elsewhere.
    let is_security = suite.ends_with("-security") || suite.ends_with("/updates");
    (is_security && archive.starts_with("http")).then(|| archive.to_owned())
}

/// A URL without the name and password that may be in it.
pub(crate) fn shown(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (server, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    format!("{scheme}://{}{path}", server.rsplit_once('@').map_or(server, |(_, server)| server))
}

/// Where the keys of a distribution's archive are, on a machine that has the package with them.
fn keyring(distribution: &str) -> Option<String> {
    let is_word = !distribution.is_empty() && distribution.bytes().all(|c| c.is_ascii_alphanumeric());
    is_word.then(|| format!("usr/share/keyrings/{}-archive-keyring.gpg", distribution.to_ascii_lowercase()))
}

/// URL and suite of a line of sources.list(5).
pub(crate) fn one_line(line: &str) -> Option<(&str, &str)> {
    let rest = line.strip_prefix("deb ")?.trim_start();
    let rest = rest.strip_prefix('[').map_or(Some(rest), |rest| Some(rest.split_once(']')?.1))?;
    let mut words = rest.split_whitespace();
    Some((words.next()?, words.next()?))
}

/// A release file, or why it can't be had. Its signature is not looked at: the bootstrap does that.
fn fetch(context: &Context, work: &Path, url: &str) -> Result<Result<String, String>, Problem> {
    let file = work.join("release");
    let tool = if Path::new(HELPER).exists() {
        let options = [
            "APT::Sandbox::User=root",
            "Acquire::Retries=2",
            "Acquire::http::Timeout=20",
            "Acquire::https::Timeout=20",
        ];
        let tool = options.iter().fold(Tool::new(HELPER), |tool, option| tool.args(["-o", option]));
        tool.args(["download-file", url]).arg(&file)
    } else {
        // debootstrap has it.
        Tool::new("wget").args(["-nv", "--tries=2", "--timeout=20", "-O"]).arg(&file).arg(url)
    };
    let asked = tool.env("LC_ALL", "C.UTF-8").try_output(context)?;
    let read = |_| std::fs::read(&file).map_err(|e| e.to_string());
    let release = asked.map_err(|ended| reason(&ended.last, url)).and_then(read);
    let _ = std::fs::remove_file(&file);
    Ok(release.map(|release| String::from_utf8_lossy(&release).into_owned()))
}

/// A release file that apt takes.
fn fresh(release: String) -> Result<String, String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    match field(&release, "Valid-Until") {
        Some(until) if time(until).is_some_and(|until| until < now) => Err(format!("it has expired ({until})")),
        _ => Ok(release),
    }
}

/// The part of a program's message that says why it could not get a file.
pub(crate) fn reason(said: &[String], url: &str) -> String {
    let line = said.iter().find(|line| line.contains("Failed to fetch") || line.contains("ERROR")).or(said.last());
    let line = line.map_or("nobody says why", |line| line.as_str());
    let line = line.rsplit_once(url).map_or(line, |(_, rest)| rest).split("[IP:").next().unwrap_or(line);
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A field of a release file.
pub(crate) fn field<'a>(release: &'a str, name: &str) -> Option<&'a str> {
    let value = |line: &'a str| line.strip_prefix(name)?.strip_prefix(':').map(str::trim);
    release.lines().find_map(value)
}

/// Seconds since 1970 of a date as in `Thu, 03 Dec 2026 21:03:36 UTC`.
pub(crate) fn time(date: &str) -> Option<u64> {
    let words: Vec<&str> = date.split_whitespace().collect();
    let [_, day, month, year, clock, "UTC" | "GMT" | "+0000"] = words[..] else { return None };
    let month = "JanFebMarAprMayJunJulAugSepOctNovDec".find(month)? as u64 / 3;
    let (day, year): (u64, u64) = (day.parse().ok()?, year.parse().ok()?);
    // A mirror may write any number.
    if !(1..=31).contains(&day) || year > 9999 {
        return None;
    }
    // If years begin in March, the leap day is their last.
    let (month, year) = if month < 2 { (month + 10, year.checked_sub(1)?) } else { (month - 2, year) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    let mut clock = clock.split(':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    Some(days.checked_sub(719_468)? * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_mirror_has_its_security_archive() {
        for (mirror, first) in [
            ("http://m.test/debian", "http://m.test/debian-security"),
            ("https://m.test:3142/debian.test/pub/debian", "https://m.test:3142/debian.test/pub/debian-security"),
            ("http://s.test/archive/debian/20260101T000000Z", "http://s.test/archive/debian-security/20260101T000000Z"),
            ("file:///srv/debian", "file:///srv/debian-security"),
            ("http://debian", "http://debian/debian-security"),
        ] {
            assert_eq!(beside(mirror)[0], first);
        }
        let places = beside("https://m.test/debian/packages");
        assert_eq!(places[2], "https://m.test/debian/security");
        assert_eq!(beside("http://m.test/ubuntu").last().unwrap(), "http://m.test/ubuntu");
        assert_eq!(
            beside("http://m.test/debian"),
            ["http://m.test/debian-security", "http://m.test/security", "http://m.test/debian"]
        );
    }

    #[test]
    fn what_apt_itself_has() {
        let line = |url: &str| security_of(&format!("'{url}' m.test_x 0 "));
        let security = Some("http://m.test/debian-security".to_owned());
        assert_eq!(line("http://m.test/debian-security/dists/bookworm-security/InRelease"), security);
        assert_eq!(line("http://m.test/debian-security/dists/buster/updates/InRelease"), security);
        assert_eq!(line("http://m.test/debian/dists/bookworm-updates/InRelease"), None);
        assert_eq!(line("mirror+file:/etc/apt/x.list/dists/bookworm-security/InRelease"), None);
    }

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(shown("https://me:p@ss@m.test:1/debian"), "https://m.test:1/debian");
        assert_eq!(shown("http://m.test/a@b"), "http://m.test/a@b");
    }

    #[test]
    fn dates() {
        assert_eq!(time("Thu, 01 Jan 1970 00:00:00 UTC"), Some(0));
        assert_eq!(time("Thu, 03 Dec 2026 21:03:36 UTC"), Some(1_796_331_816));
        assert_eq!(time("Tue, 29 Feb 2028 12:00:00 UTC"), Some(1_835_438_400));
        for other in [
            "yesterday",
            "Thu, 00 Dec 2026 21:03:36 UTC",
            "Thu, 03 Dec 18446744073709551615 21:03:36 UTC",
            "Thu, 03 Dec 2026 18446744073709551615:03:36 UTC",
            "Thu, 03 Dec 2026 21:03:18446744073709551615 UTC",
        ] {
            assert_eq!(time(other), None, "{other}");
        }
        let release = "-----BEGIN PGP SIGNED MESSAGE-----\n\nOrigin: Debian\nSuite: stable-security\nOriginal: x\n";
        assert_eq!((field(release, "Origin"), field(release, "Valid-Until")), (Some("Debian"), None));
    }

    #[test]
    fn what_a_program_said() {
        let url = "http://m.test/x";
        let said = |line: &str| reason(&["first".into(), line.into(), "E: Download Failed".into()], url);
        assert_eq!(said("E: Failed to fetch http://m.test/x  404  Not Found [IP: 192.0.2.1 80]"), "404 Not Found");
        assert_eq!(said("2026-11-28 21:00:00 ERROR 404: Not Found."), "2026-11-28 21:00:00 ERROR 404: Not Found.");
        assert_eq!(reason(&[], url), "nobody says why");
    }
}
