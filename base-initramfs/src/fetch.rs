//! Getting bytes from `http://`, `https://`, `file://` and plain paths, with a deadline for everything.
//!
//! HTTP is spoken here; TLS is not, because every byte is pinned by SHA-256: for `https://`, and through a proxy, the
//! host's own curl, wget or apt-helper is used. Names are resolved by `getent`, since a statically linked program must
//! not load the host's name service modules.

use std::fs::{DirBuilder, File};
use std::io::{self, Read, Seek, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

use crate::command::{self, APT_HELPER, Output, failure_of};
use crate::error::{Attempt, Error, Failure};
use crate::proxy::Proxies;
use crate::sha::{Hasher, Sha256};
use crate::time::Time;

/// How long a download may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// To resolve the name, and to connect.
    pub connect: Duration,
    /// Without a single byte.
    pub stall: Duration,
    /// For one file altogether.
    pub total: Duration,
    /// For one file, waiting before servers are asked again that were too busy to give it (429, 503) or broke off, when
    /// nobody else has it.
    pub busy: Duration,
    /// How long a server is left alone that broke off, or was busy and doesn't say how long (for that, at least 1 s);
    /// twice that the next time.
    pub pause: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { connect: seconds(15), stall: seconds(30), total: seconds(1800), busy: seconds(180), pause: seconds(2) }
    }
}

/// Fetches files, counts their bytes, and can be told to stop.
pub struct Fetcher {
    limits: Limits,
    proxies: OnceLock<Proxies>,
    agent: ureq::Agent,
    downloaded: AtomicU64,
    cancelled: AtomicBool,
}

/// How often a server may send us elsewhere.
const REDIRECTS: usize = 8;

/// How often an answer may break off at one address before the file counts as not to be had there.
const BREAKS: u32 = 4;

/// How soon a wait sees that it is called off.
const GLANCE: Duration = Duration::from_millis(100);

impl Fetcher {
    /// A fetcher with these deadlines.
    pub fn new(limits: Limits) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // It would ask the environment's proxy for a tunnel, which few give to http.
            .proxy(None)
            // Followed here instead, since one may lead to https.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent("anemos")
            .timeout_resolve(Some(limits.connect))
            .timeout_connect(Some(limits.connect))
            .timeout_recv_response(Some(limits.stall))
            .timeout_per_read(Some(limits.stall))
            .timeout_global(Some(limits.total))
            .build();
        let agent = ureq::Agent::with_parts(config, DefaultConnector::default(), Getent);
        let (proxies, downloaded, cancelled) = (OnceLock::new(), AtomicU64::new(0), AtomicBool::new(false));
        Self { limits, proxies, agent, downloaded, cancelled }
    }

    /// Goes through these proxies from now on, unless it was told others before.
    pub fn go_through(&self, proxies: Proxies) {
        // Whoever was first counts.
        let _ = self.proxies.set(proxies);
    }

    /// What it goes through.
    pub fn proxies(&self) -> Option<&Proxies> {
        self.proxies.get()
    }

    /// Bytes that came over the network (not from files) so far, through this fetcher.
    pub fn downloaded(&self) -> u64 {
        self.downloaded.load(Ordering::Relaxed)
    }

    /// Makes every download in progress, and every later one, end with [`Failure::Cancelled`].
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether [`cancel`](Self::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Opens an address for reading, at most `limit` bytes. Errors while reading carry a [`Failure`].
    pub fn open(&self, url: &str, limit: u64) -> Result<Body<'_>, Failure> {
        self.ask(url, limit, false)
    }

    /// Whether an address has a file. Little more than the answer's head is fetched, unless apt-helper has to do it.
    pub fn look(&self, url: &str) -> Result<(), Failure> {
        let answer = match self.ask(url, u64::MAX, true) {
            // Not every server knows HEAD.
            Err(Failure::Status(405 | 501)) => self.open(url, u64::MAX),
            answer => answer,
        };
        // A tool that speaks TLS for us says that there is no such file only when its output is read.
        answer?.read(&mut [0]).map_err(failure_of).map(drop)
    }

    fn ask(&self, url: &str, limit: u64, only_head: bool) -> Result<Body<'_>, Failure> {
        let mut url = url.to_owned();
        for redirects in 0..=REDIRECTS {
            if self.is_cancelled() {
                return Err(Failure::Cancelled);
            }
            let (scheme, rest) = url.split_once("://").unwrap_or(("", &url));
            match scheme {
                // A server must not choose which file of this machine is opened: to open a device may do something.
                "" | "file" if redirects == 0 => return self.open_file(Path::new(rest), limit),
                "" | "file" => return Err(Failure::Connection(format!("redirected to {url}, which is no server's"))),
                "https" => return self.open_by_tool(&url, limit, only_head),
                "http" if self.proxies().is_some_and(|proxies| proxies.is_for(&url)) => {
                    return self.open_by_tool(&url, limit, only_head);
                }
                "http" => match self.open_http(&url, limit, only_head)? {
                    Answer::Body(body) => return Ok(body),
                    Answer::Elsewhere(location) => url = location,
                },
                other => return Err(Failure::Connection(format!("{other}:// is not supported"))),
            }
        }
        Err(Failure::Connection("redirected too often".to_owned()))
    }

    /// A whole small file.
    pub fn get(&self, url: &str, limit: u64) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        self.open(url, limit)?.read_to_end(&mut bytes).map_err(failure_of)?;
        Ok(bytes)
    }

    /// The pinned file from the first of `urls` that has the right bytes. `file` names it in the error, which has
    /// every address's reason.
    pub fn get_pinned(&self, file: &str, urls: &[String], size: u64, sha256: Sha256) -> Result<Vec<u8>, Error> {
        let stop = AtomicBool::new(false);
        let (mut bytes, mut attempts) = (Vec::new(), Vec::new());
        let mut get = |url: &str| self.pinned(url, (size, sha256), &stop, &mut bytes);
        let found =
            self.try_each(urls, &stop, &mut attempts, &mut get) || self.try_again(&stop, &mut attempts, &mut get);
        if found { Ok(bytes) } else { Err(self.none_of(file, attempts)) }
    }

    /// Has `get` try each of `urls` until one does, adding to the `attempts` that failed. Ends early when `stop`
    /// becomes true.
    pub(crate) fn try_each(
        &self,
        urls: &[String],
        stop: &AtomicBool,
        attempts: &mut Vec<Attempt>,
        get: &mut Get<'_>,
    ) -> bool {
        for url in urls {
            match get(url) {
                Ok(()) => return true,
                Err(failure) => attempts.push(Attempt { url: url.clone(), failure }),
            }
            if self.called_off(stop) {
                break;
            }
        }
        false
    }

    /// Has `get` try those `attempts` again that failed because the server was busy, each when it said it would not be
    /// any more, and those whose answer broke off, within the deadline `busy`. Otherwise the attempts say how it came
    /// out.
    pub(crate) fn try_again(&self, stop: &AtomicBool, attempts: &mut [Attempt], get: &mut Get<'_>) -> bool {
        let (mut left, mut pause, mut breaks) = (self.limits.busy, self.limits.pause, vec![1; attempts.len()]);
        loop {
            let waits =
                attempts.iter().zip(&breaks).filter_map(|(attempt, broke)| again(&attempt.failure, pause, *broke));
            let Some(wait) = waits.min().filter(|_| !self.called_off(stop)) else { return false };
            if left < wait {
                self.give_up_busy(attempts, pause);
                return false;
            }
            let until = Instant::now() + wait;
            while Instant::now() < until {
                std::thread::sleep(GLANCE.min(until.saturating_duration_since(Instant::now())));
                if self.called_off(stop) {
                    return false;
                }
            }
            left -= wait;
            for (Attempt { url, failure }, broke) in attempts.iter_mut().zip(&mut breaks) {
                match (again(failure, pause, *broke), &mut *failure) {
                    (None, _) => {}
                    (Some(its), Failure::Busy { after, .. }) if its > wait => {
                        *after = Some(its.saturating_sub(wait));
                    }
                    _ => match get(url) {
                        Ok(()) => return true,
                        Err(new) => {
                            *broke += u32::from(matches!(new, Failure::Broken(_)));
                            *failure = new;
                        }
                    },
                }
            }
            pause *= 2;
        }
    }

    /// Says of servers that are busy for longer than the deadline `busy` allows that this is so.
    fn give_up_busy(&self, attempts: &mut [Attempt], pause: Duration) {
        for Attempt { failure, .. } in attempts {
            let Some(its) = again(failure, pause, BREAKS) else { continue };
            let Failure::Busy { status, .. } = failure else { continue };
            *failure = Failure::Timeout(format!(
                "the server answered {status}, and is to be left alone for {} s more, which is longer than the \
                 deadline `busy` ({} s) allows",
                its.as_secs(),
                self.limits.busy.as_secs()
            ));
        }
    }

    fn called_off(&self, stop: &AtomicBool) -> bool {
        self.is_cancelled() || stop.load(Ordering::Relaxed)
    }

    pub(crate) fn none_of(&self, file: &str, attempts: Vec<Attempt>) -> Error {
        if self.is_cancelled() { Error::Cancelled } else { Error::Fetch { file: file.to_owned(), attempts } }
    }

    /// Writes the file of this size and hash from `url` to `out`. `stop` is looked at often.
    pub(crate) fn pinned(
        &self,
        url: &str,
        (size, sha256): (u64, Sha256),
        stop: &AtomicBool,
        out: &mut dyn Sink,
    ) -> Result<(), Failure> {
        let stored = |result: io::Result<()>| {
            result.map_err(|error| Failure::Connection(format!("what came could not be stored: {error}")))
        };
        let mut body = self.open(url, size)?;
        stored(out.restart())?;
        let mut hasher = Hasher::new();
        let mut chunk = vec![0; 64 << 10];
        loop {
            if stop.load(Ordering::Relaxed) {
                return Err(Failure::Cancelled);
            }
            match body.read(&mut chunk).map_err(failure_of) {
                Ok(0) => break,
                Ok(read) => {
                    hasher.update(&chunk[..read]);
                    stored(out.write_all(&chunk[..read]))?;
                }
                Err(failure) => return Err(failure),
            }
        }
        let received = hasher.length();
        if received < size {
            return Err(Failure::Truncated { received, expected: size });
        }
        let found = hasher.finish();
        if found == sha256 { Ok(()) } else { Err(Failure::Hash { expected: sha256, found }) }
    }

    fn open_file(&self, path: &Path, limit: u64) -> Result<Body<'_>, Failure> {
        let file = File::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Failure::NotFound,
            _ => Failure::Connection(error.to_string()),
        })?;
        Ok(Body { fetcher: self, inner: Box::new(file), remote: false, received: 0, limit, promised: None })
    }

    fn open_http(&self, url: &str, limit: u64, only_head: bool) -> Result<Answer<'_>, Failure> {
        let request = if only_head { self.agent.head(url) } else { self.agent.get(url) };
        let response = request.call().map_err(|error| self.http_failure(&error))?;
        let status = response.status();
        if status.is_redirection() {
            let location = response.headers().get("location").and_then(|value| value.to_str().ok());
            let location = location.ok_or_else(|| Failure::Status(status.as_u16()))?;
            return Ok(Answer::Elsewhere(joined(url, location)));
        }
        match status.as_u16() {
            200 => {}
            404 | 410 => return Err(Failure::NotFound),
            status @ (429 | 503) => {
                let header = |name| response.headers().get(name)?.to_str().ok();
                let after = header("retry-after").and_then(|text| wait(text, header("date")));
                return Err(Failure::Busy { status, after });
            }
            other => return Err(Failure::Status(other)),
        }
        if only_head {
            let inner = Box::new(io::empty());
            return Ok(Answer::Body(Body { fetcher: self, inner, remote: true, received: 0, limit, promised: None }));
        }
        let promised = response.body().content_length();
        if promised.is_some_and(|promised| promised > limit) {
            return Err(Failure::TooLong { expected: limit });
        }
        // One byte more than allowed is let through, for Body to see that there is one.
        let inner = response.into_body().into_with_config().limit(limit.saturating_add(2)).reader();
        Ok(Answer::Body(Body { fetcher: self, inner: Box::new(inner), remote: true, received: 0, limit, promised }))
    }

    fn open_by_tool(&self, url: &str, limit: u64, only_head: bool) -> Result<Body<'_>, Failure> {
        for mut tool in self.tools(url, only_head) {
            if on_path(tool.get_program().as_ref()) {
                if let Some(proxies) = self.proxies() {
                    proxies.tell(&mut tool);
                }
                return self.open_with(tool, limit);
            }
        }
        let what = if url.starts_with("https:") { "https://" } else { "a proxy" };
        Err(Failure::Connection(format!("{what} needs curl, wget or apt-helper, and none is installed")))
    }

    /// Commands that fetch `url`, each of another tool. Where only the head is wanted, curl gives nothing of the file;
    /// the others begin with the whole of it.
    fn tools(&self, url: &str, only_head: bool) -> [Command; 3] {
        let seconds = |duration: Duration| duration.as_secs().max(1).to_string();
        let (connect, stall, total) =
            (seconds(self.limits.connect), seconds(self.limits.stall), seconds(self.limits.total));
        let mut curl = Command::new("curl");
        curl.args(["--fail", "--silent", "--show-error", "--location", "--proto", "=http,https"])
            .args(["--connect-timeout", &connect, "--speed-limit", "1", "--speed-time", &stall, "--max-time", &total])
            .args(if only_head { &["--head", "--output", "/dev/null"][..] } else { &[] })
            .args(["--", url]);
        let mut wget = Command::new("wget");
        wget.args(["--no-verbose", "--output-document=-", "--tries=1"])
            .arg(format!("--timeout={stall}"))
            .args(["--", url]);
        let mut helper = Command::new(APT_HELPER);
        helper.args(["-qq", "-o", "APT::Sandbox::User=root", "-o", &format!("Acquire::https::Timeout={stall}")]);
        helper.args(["download-file", url]);
        [curl, wget, helper]
    }

    fn open_with(&self, tool: Command, limit: u64) -> Result<Body<'_>, Failure> {
        let total = self.limits.total;
        let inner: Box<dyn Read + Send> = if tool.get_program() == APT_HELPER {
            Box::new(ThroughFile::start(tool, Path::new("/run"), total)?)
        } else {
            Box::new(Output::start(tool, total)?)
        };
        Ok(Body { fetcher: self, inner, remote: true, received: 0, limit, promised: None })
    }

    fn http_failure(&self, error: &ureq::Error) -> Failure {
        match error {
            ureq::Error::Timeout(timeout) => Failure::Timeout(match timeout {
                ureq::Timeout::Resolve => format!("the name was not resolved in {} s", self.limits.connect.as_secs()),
                ureq::Timeout::Connect => format!("no connection in {} s", self.limits.connect.as_secs()),
                ureq::Timeout::Global => format!("not done in {} s", self.limits.total.as_secs()),
                _ => {
                    let stall = self.limits.stall.as_secs();
                    return Failure::Broken(format!("timeout: nothing came for {stall} s"));
                }
            }),
            ureq::Error::HostNotFound => Failure::Connection("the host name is not known".to_owned()),
            // Also a connection that was kept open since the last file, and that the server closes just now.
            ureq::Error::Io(error) if is_hang_up(error.kind()) => {
                Failure::Broken(format!("the server hung up before it answered ({error})"))
            }
            other => Failure::Connection(other.to_string()),
        }
    }
}

/// Gets a file from an address.
pub(crate) type Get<'a> = dyn FnMut(&str) -> Result<(), Failure> + 'a;

/// Where a download goes, which may have to begin again from another address.
pub(crate) trait Sink: Write {
    /// Forgets what was written.
    fn restart(&mut self) -> io::Result<()>;
}

impl Sink for Vec<u8> {
    fn restart(&mut self) -> io::Result<()> {
        self.clear();
        Ok(())
    }
}

impl Sink for &File {
    fn restart(&mut self) -> io::Result<()> {
        self.set_len(0)?;
        self.rewind()
    }
}

/// The output of a command that writes to a file named by its last argument, as apt-helper does. The file is in a
/// directory of its own, which dropping this removes.
struct ThroughFile {
    /// The command, until it has succeeded. Fields are dropped in their order: it is killed before its directory goes.
    helper: Option<Output>,
    file: Option<File>,
    dir: PathBuf,
}

impl ThroughFile {
    fn start(mut helper: Command, parent: &Path, deadline: Duration) -> Result<Self, Failure> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = parent.join(format!("anemos-fetch-{}-{number}", std::process::id()));
        let made = DirBuilder::new().mode(0o700).create(&dir);
        made.map_err(|error| Failure::Connection(format!("making {}: {error}", dir.display())))?;
        helper.arg(dir.join("file"));
        let mut through = Self { helper: None, file: None, dir };
        through.helper = Some(Output::start(helper, deadline)?);
        Ok(through)
    }
}

impl Read for ThroughFile {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if let Some(helper) = &mut self.helper {
            io::copy(helper, &mut io::sink())?;
            self.helper = None;
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(File::open(self.dir.join("file"))?),
        };
        file.read(buf)
    }
}

impl Drop for ThroughFile {
    fn drop(&mut self) {
        self.helper = None;
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

enum Answer<'a> {
    Body(Body<'a>),
    Elsewhere(String),
}

/// Bytes on their way. An error while reading carries a [`Failure`].
pub struct Body<'a> {
    fetcher: &'a Fetcher,
    inner: Box<dyn Read + Send>,
    remote: bool,
    received: u64,
    limit: u64,
    promised: Option<u64>,
}

impl Read for Body<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.fetcher.is_cancelled() {
            return Err(io::Error::other(Failure::Cancelled));
        }
        let read = match self.inner.read(buf) {
            Ok(read) => read,
            Err(error) => return Err(io::Error::other(self.failure(error))),
        };
        self.received += read as u64;
        if self.remote {
            self.fetcher.downloaded.fetch_add(read as u64, Ordering::Relaxed);
        }
        if self.received > self.limit {
            return Err(io::Error::other(Failure::TooLong { expected: self.limit }));
        }
        if read == 0 && !buf.is_empty() && self.promised.is_some_and(|promised| promised > self.received) {
            return Err(io::Error::other(self.truncated()));
        }
        Ok(read)
    }
}

impl Body<'_> {
    fn truncated(&self) -> Failure {
        let expected = self.promised.unwrap_or(self.limit);
        Failure::Broken(format!("truncated: {} of {expected} bytes", self.received))
    }

    fn failure(&self, error: io::Error) -> Failure {
        let kind = error.kind();
        let failure = match error.downcast::<ureq::Error>() {
            Ok(ureq::Error::Io(_)) | Err(_) if is_hang_up(kind) => self.truncated(),
            Ok(error) => self.fetcher.http_failure(&error),
            Err(error) => match failure_of(error) {
                // curl and wget tell a 404 only in their messages, not by their exit status alone.
                Failure::Connection(said) if said.contains(" 404") => Failure::NotFound,
                Failure::Connection(said) if said.contains(" 429") => Failure::Busy { status: 429, after: None },
                Failure::Connection(said) if said.contains(" 503") => Failure::Busy { status: 503, after: None },
                failure => failure,
            },
        };
        match failure {
            // The server has the file, since it has sent a part of it.
            Failure::Connection(said) if self.remote && self.received > 0 => Failure::Broken(said),
            failure => failure,
        }
    }
}

/// Whether this is how a server that goes away, in the middle of a file or before it, shows itself.
fn is_hang_up(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(kind, UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe)
}

/// How long a server wants to be left alone (RFC 9110 10.2.3): for so many seconds, or until a date. The clock of that
/// date is the server's, which the `date` of its answer tells.
fn wait(retry_after: &str, date: Option<&str>) -> Option<Duration> {
    let seconds = retry_after.trim().parse().ok().or_else(|| {
        let now = date.and_then(Time::of_date).unwrap_or_else(Time::now);
        Some(u64::from(Time::of_date(retry_after)?.unix().saturating_sub(now.unix())))
    });
    seconds.map(Duration::from_secs)
}

/// How long to wait before a server is asked again: one that was busy until when it says, one whose answers `broke` off
/// so often, and one that is busy and doesn't say until when, for `pause`.
fn again(failure: &Failure, pause: Duration, broke: u32) -> Option<Duration> {
    match failure {
        Failure::Busy { after, .. } => Some(after.unwrap_or(pause).max(Duration::from_secs(1))),
        Failure::Broken(_) if broke < BREAKS => Some(pause),
        _ => None,
    }
}

/// Where a `Location` leads from `base`.
pub(crate) fn joined(base: &str, location: &str) -> String {
    if location.contains("://") {
        return location.to_owned();
    }
    let host_end = base.find("://").map_or(0, |at| at + 3);
    let path_start = base[host_end..].find('/').map_or(base.len(), |at| host_end + at);
    if let Some(rest) = location.strip_prefix("//") {
        return format!("{}//{rest}", &base[..host_end - 2]);
    }
    if location.starts_with('/') {
        return format!("{}{location}", &base[..path_start]);
    }
    let directory = base.rfind('/').filter(|at| *at >= path_start).map_or(base.len(), |at| at + 1);
    format!("{}{location}", &base[..directory])
}

fn on_path(program: &Path) -> bool {
    if program.is_absolute() {
        return program.exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// Resolves names with `getent ahosts`, in a process of its own.
#[derive(Debug)]
struct Getent;

impl Resolver for Getent {
    fn resolve(
        &self,
        uri: &Uri,
        _config: &ureq::config::Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().ok_or(ureq::Error::HostNotFound)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16().unwrap_or(80);
        let mut found = self.empty();
        let addresses = match host.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => getent(host, *timeout.after).map_err(|failure| match failure {
                Failure::Timeout(_) => ureq::Error::Timeout(timeout.reason),
                Failure::NotFound => ureq::Error::HostNotFound,
                other => ureq::Error::Io(io::Error::other(other.to_string())),
            })?,
        };
        for address in addresses.into_iter().take(16) {
            found.push(SocketAddr::new(address, port));
        }
        if found.is_empty() { Err(ureq::Error::HostNotFound) } else { Ok(found) }
    }
}

fn getent(host: &str, timeout: Duration) -> Result<Vec<IpAddr>, Failure> {
    let mut command = Command::new("getent");
    command.args(["ahosts", host]);
    let output = command::run(command, timeout, 64 << 10).map_err(|failure| match failure {
        // getent says nothing on stderr when a name is not known, and exits with 2.
        Failure::Connection(said) if said.contains("exit status: 2") => Failure::NotFound,
        other => other,
    })?;
    let mut addresses: Vec<IpAddr> = Vec::new();
    for line in String::from_utf8_lossy(&output).lines() {
        let Some(Ok(address)) = line.split_whitespace().next().map(str::parse::<IpAddr>) else { continue };
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_writes_a_file_leaves_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let start = |script: &str, deadline| {
            let mut shell = Command::new("/bin/sh");
            // The file's name is what the script finds in $0.
            shell.args(["-c", script]);
            ThroughFile::start(shell, parent.path(), deadline).unwrap()
        };
        let long = Duration::from_secs(60);
        let mut text = String::new();
        start("printf hello >\"$0\"", long).read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        for (script, deadline, why) in [
            ("printf hello >\"$0\"; echo E: no route >&2; exit 100", long, "no route"),
            ("printf hello >\"$0\"; exec sleep 1000", Duration::from_millis(200), "took more than"),
        ] {
            let error = failure_of(start(script, deadline).read_to_end(&mut Vec::new()).unwrap_err()).to_string();
            assert!(error.contains(why), "{error}");
        }
        drop(start("printf hello >\"$0\"; exec sleep 1000", long));
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    /// The words of the real tools, spoken to over plain HTTP, which they speak alike.
    #[test]
    fn what_tools_say_of_a_status_and_of_half_a_file() {
        // proc(5): the directory of a process belongs to its effective user.
        if std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) != 0 {
            let _ = writeln!(io::stderr(), "skipped: what tools say: only root has a directory in /run");
            return;
        }
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut request = [0; 1024];
                let read = stream.read(&mut request).unwrap_or(0);
                let asked = String::from_utf8_lossy(&request[..read]).into_owned();
                let status = asked.split([' ', '/']).nth(2).unwrap_or_default().to_owned();
                // A file of ten bytes, of which half comes.
                let (length, body) = if status == "200" { (10, "hello") } else { (0, "") };
                let _ = write!(
                    stream,
                    "HTTP/1.1 {status} Because\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
                );
            }
        });
        let fetcher = Fetcher::new(Limits::default());
        for (status, expected) in [
            (404, Failure::NotFound),
            (429, Failure::Busy { status: 429, after: None }),
            (503, Failure::Busy { status: 503, after: None }),
        ] {
            let url = format!("http://{address}/{status}");
            for tool in fetcher.tools(&url, false).into_iter().chain(fetcher.tools(&url, true)) {
                let name = tool.get_program().to_owned();
                if on_path(name.as_ref()) {
                    let read = fetcher.open_with(tool, 10).and_then(|mut body| body.read(&mut [0]).map_err(failure_of));
                    assert_eq!(read, Err(expected.clone()), "{}", name.display());
                }
            }
        }
        // apt tries again by itself.
        for tool in fetcher.tools(&format!("http://{address}/200"), false).into_iter().take(2) {
            let name = tool.get_program().to_owned();
            if on_path(name.as_ref()) {
                let mut body = fetcher.open_with(tool, 10).unwrap();
                let failure = failure_of(io::copy(&mut body, &mut io::sink()).unwrap_err());
                assert!(matches!(failure, Failure::Broken(_)), "{}: {failure:?}", name.display());
            }
        }
    }

    #[test]
    fn servers_say_in_two_ways_how_long_they_are_busy() {
        let until = "Sun, 06 Nov 1994 08:49:37 GMT";
        for (text, date, seconds) in [
            ("120", None, Some(120)),
            (" 0 ", Some(until), Some(0)),
            (until, Some("Sun, 06 Nov 1994 08:49:30 GMT"), Some(7)),
            // Until a time that has passed: by its own clock, or by ours, which is all there is.
            (until, Some("Sun, 06 Nov 1994 08:50:00 GMT"), Some(0)),
            (until, None, Some(0)),
            ("soon", Some(until), None),
        ] {
            assert_eq!(wait(text, date), seconds.map(Duration::from_secs), "{text} {date:?}");
        }
    }

    #[test]
    fn redirects_join() {
        for (base, location, expected) in [
            ("http://a/b/c", "http://d/e", "http://d/e"),
            ("http://a/b/c", "/e", "http://a/e"),
            ("http://a/b/c", "e", "http://a/b/e"),
            ("http://a:1", "/e", "http://a:1/e"),
            ("http://a/b", "//d/e", "http://d/e"),
        ] {
            assert_eq!(joined(base, location), expected);
        }
    }
}
