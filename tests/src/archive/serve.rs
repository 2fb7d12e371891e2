//! The archive's server. Each scenario starts its own, with its own faults and its own log, over the same files.

use super::fault::Fault;
use super::fill::unescape;
use super::http::{Head, read_head, write_head};
use crate::{Context, Lab, Result, archive};
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// One answered request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The path, without percent escapes.
    pub path: String,
    /// The status sent.
    pub status: u16,
    /// Bytes of the body that were sent.
    pub bytes: u64,
}

/// A running server; it stops when it is dropped.
pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
}

struct Shared {
    tree: PathBuf,
    closed: AtomicBool,
    state: Mutex<State>,
}

/// Where files are found that [`Fault::Redirect`] leads to. No other fault is about them.
const MOVED: &str = "/moved/";

#[derive(Default)]
struct State {
    rules: Vec<(String, Fault)>,
    log: Vec<Request>,
    given: Vec<Fault>,
    open: Vec<(u64, TcpStream)>,
    accepted: u64,
}

impl Server {
    /// Serves the lab's archive, filled first if it is not, on a free loopback port.
    ///
    /// - `/debian/…` is the archive, `/debian-security/…` that of its security updates.
    /// - `/snapshot/TIME/…` is the same archive, as it was at any time.
    /// - `/base/…` are base images, see [`crate::base`].
    /// - `/arch/…` are a repository for pacman, see [`crate::arch`].
    pub fn start(lab: &Lab) -> Result<Self> {
        archive::fill_if_missing(lab)?;
        Self::over(&lab.path("archive/debian"))
    }

    /// Serves a directory as the archive.
    pub fn over(tree: &Path) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("cannot get a loopback port")?;
        let address = listener.local_addr().context("cannot read the server's address")?;
        let shared =
            Arc::new(Shared { tree: tree.to_owned(), closed: AtomicBool::new(false), state: Mutex::default() });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, &accepting));
        Ok(Self { shared, address })
    }

    /// Its loopback port: what [`crate::Spec::archive`] takes.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The archive's address for programs on this machine.
    pub fn url(&self) -> String {
        format!("http://{}/debian", self.address)
    }

    /// From now on, paths that contain `part` fail so. The newest rule that fits holds.
    pub fn fault(&self, part: impl Into<String>, fault: Fault) {
        self.shared.lock().rules.push((part.into(), fault));
    }

    /// Lifts all faults.
    pub fn mend(&self) {
        self.shared.lock().rules.clear();
    }

    /// How many answers so far were this fault, or have begun to be: no later change of the rules alters them.
    pub fn given(&self, fault: &Fault) -> usize {
        self.shared.lock().given.iter().filter(|given| *given == fault).count()
    }

    /// Every request answered so far. One whose answer is on its way is not among them yet.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.lock().log.clone()
    }

    /// Closes all connections.
    pub fn hang_up(&self) {
        for (_, stream) in &self.shared.lock().open {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Forgets the requests.
    pub fn forget_requests(&self) {
        self.shared.lock().log.clear();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        for (_, stream) in self.shared.lock().open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Wakes the accepting thread, which then sees that it is over.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a connection, so that it ends with the server.
    fn remember(&self, stream: &TcpStream) -> io::Result<u64> {
        let copy = stream.try_clone()?;
        let mut state = self.lock();
        state.accepted += 1;
        let number = state.accepted;
        state.open.push((number, copy));
        Ok(number)
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.closed.load(Ordering::Relaxed) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            let Ok(number) = shared.remember(&stream) else { return };
            // A client that goes away in the middle is no matter of the server's.
            let _ = converse(&stream, &shared);
            let _ = stream.shutdown(Shutdown::Both);
            shared.lock().open.retain(|(open, _)| *open != number);
        });
    }
}

fn converse(stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(head) = read_head(&mut reader)? {
        if !answer(stream, shared, &head)? || !head.keep_alive {
            return Ok(());
        }
    }
    Ok(())
}

/// A body and its length.
type Body = (Box<dyn Read>, u64);

/// Answers one request; `false` ends the connection.
fn answer(mut stream: &TcpStream, shared: &Shared, head: &Head) -> io::Result<bool> {
    let path = unescape(head.target.split('?').next().unwrap_or_default());
    let (moved, asked) = moves(&path);
    let fault = {
        let mut state = shared.lock();
        let fits = |(part, fault): &&(String, Fault)| {
            asked.contains(part.as_str()) && (moved == 0 || matches!(fault, Fault::Redirect(_)))
        };
        let fault = state.rules.iter().rev().find(fits).map(|(_, fault)| fault.clone());
        state.given.extend(fault.clone());
        fault
    };
    let elsewhere = match &fault {
        Some(Fault::Redirect(statuses)) => {
            statuses.get(moved).map(|status| (*status, format!("{MOVED}{}", head.target.trim_start_matches('/'))))
        }
        Some(Fault::Circle) => Some((302, head.target.clone())),
        Some(Fault::Lead(place)) => Some((302, (*place).to_owned())),
        _ => None,
    };
    if let Some((status, place)) = elsewhere {
        record(shared, path, status, 0);
        write_head(&mut stream, status, &[("Content-Length", "0".to_owned()), ("Location", place)])?;
        return Ok(true);
    }
    let only_head = head.method == "HEAD";
    let refusal = match &fault {
        _ if !only_head && head.method != "GET" => Some(405),
        Some(Fault::NotFound) => Some(404),
        Some(Fault::Status(status)) => Some(*status),
        _ => None,
    };
    let body =
        if refusal.is_some() { None } else { find(shared, &path, fault.as_ref(), head.range.map(|(first, _)| first))? };
    let Some(((mut body, length), total, first)) = body else {
        let status = refusal.unwrap_or(404);
        record(shared, path, status, 0);
        write_head(&mut stream, status, &[("Content-Length", "0".to_owned())])?;
        return Ok(true);
    };
    if first > total {
        record(shared, path, 416, 0);
        write_head(
            &mut stream,
            416,
            &[("Content-Length", "0".to_owned()), ("Content-Range", format!("bytes */{total}"))],
        )?;
        return Ok(true);
    }
    let length = match head.range {
        Some((first, Some(last))) => length.min(last.saturating_sub(first) + 1),
        _ => length,
    };
    let mut headers = vec![("Content-Length", length.to_string()), ("Accept-Ranges", "bytes".to_owned())];
    let status = if head.range.is_some() { 206 } else { 200 };
    if status == 206 {
        headers.push(("Content-Range", format!("bytes {first}-{}/{total}", (first + length).saturating_sub(1))));
    }
    write_head(&mut stream, status, &headers)?;
    if only_head {
        record(shared, path, status, 0);
        return Ok(true);
    }
    let (sent, whole) = send(stream, &mut body, first, length, fault.as_ref(), shared);
    record(shared, path, status, sent);
    Ok(whole)
}

fn record(shared: &Shared, path: String, status: u16, bytes: u64) {
    shared.lock().log.push(Request { path, status, bytes });
}

/// The file at a path from a byte on, the whole file's length, and that byte.
fn find(
    shared: &Shared,
    path: &str,
    fault: Option<&Fault>,
    first: Option<u64>,
) -> io::Result<Option<(Body, u64, u64)>> {
    let first = first.unwrap_or(0);
    let from_memory = |bytes: Vec<u8>| -> (Body, u64, u64) {
        let total = bytes.len() as u64;
        let mut cursor = Cursor::new(bytes);
        cursor.set_position(first);
        ((Box::new(cursor), total.saturating_sub(first)), total, first)
    };
    if let Some(Fault::Replace(bytes)) = fault {
        return Ok(Some(from_memory(bytes.clone())));
    }
    let Some(file_path) = place(&shared.tree, path) else { return Ok(None) };
    let Ok(mut file) = File::open(&file_path) else { return Ok(None) };
    let details = file.metadata()?;
    if !details.is_file() {
        return Ok(None);
    }
    file.seek(SeekFrom::Start(first))?;
    Ok(Some(((Box::new(file), details.len().saturating_sub(first)), details.len(), first)))
}

/// How often a path was moved, and the path from which.
fn moves(path: &str) -> (usize, &str) {
    let mut asked = path;
    let mut times = 0;
    while asked.starts_with(MOVED) {
        // The last character of the prefix is the first of what follows it.
        asked = &asked[MOVED.len() - 1..];
        times += 1;
    }
    (times, asked)
}

/// Where a request's file is, if it is in the archive at all.
fn place(tree: &Path, path: &str) -> Option<PathBuf> {
    let path = moves(path).1.strip_prefix('/')?;
    let (tree, inside) = match path.split_once('/')? {
        ("debian", inside) => (tree.to_owned(), inside),
        ("debian-security", inside) => (tree.with_file_name("debian-security"), inside),
        ("snapshot", inside) => (tree.to_owned(), inside.split_once('/')?.1),
        ("base", inside) => (tree.with_file_name("base"), inside),
        ("arch", inside) => (tree.with_file_name("arch"), inside),
        _ => return None,
    };
    let strange = |part: &str| part.is_empty() || part == "." || part == "..";
    if inside.split('/').any(strange) { None } else { Some(tree.join(inside)) }
}

/// Sends a body as the fault has it; how much was sent, and whether the connection is still good.
fn send(
    mut stream: &TcpStream,
    body: &mut dyn Read,
    first: u64,
    length: u64,
    fault: Option<&Fault>,
    shared: &Shared,
) -> (u64, bool) {
    let end = match fault {
        Some(Fault::Truncate(at) | Fault::Stall(at)) => at.saturating_sub(first).min(length),
        _ => length,
    };
    let piece = match fault {
        Some(Fault::Throttle(rate)) => usize::try_from(rate / 20).unwrap_or(usize::MAX).clamp(1, 64 * 1024),
        _ => 64 * 1024,
    };
    let mut buffer = vec![0; piece];
    let mut sent = 0;
    while sent < end {
        let want = usize::try_from(end - sent).unwrap_or(usize::MAX).min(piece);
        let read = match body.read(&mut buffer[..want]) {
            Ok(0) | Err(_) => return (sent, false),
            Ok(read) => read,
        };
        let at = first + sent;
        if let Some(Fault::FlipByte(position)) = fault
            && (at..at + read as u64).contains(position)
        {
            buffer[usize::try_from(position - at).unwrap_or_default()] ^= 0x01;
        }
        if stream.write_all(&buffer[..read]).is_err() {
            return (sent, false);
        }
        sent += read as u64;
        if let Some(Fault::Throttle(rate)) = fault {
            thread::sleep(Duration::from_secs_f64(read as f64 / (*rate).max(1) as f64));
        }
    }
    if matches!(fault, Some(Fault::Stall(_))) && end < length {
        // Until the client gives up or the server is dropped: both end the peek.
        while !shared.closed.load(Ordering::Relaxed) && !matches!(stream.peek(&mut [0]), Ok(0) | Err(_)) {
            thread::sleep(Duration::from_millis(50));
        }
    }
    (sent, end == length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn get(server: &Server, path: &str, extra: &str) -> (String, Vec<u8>) {
        let mut stream = TcpStream::connect(server.address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n{extra}\r\n").unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let split = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let head = String::from_utf8_lossy(&bytes[..split]).into_owned();
        (head.lines().next().unwrap().to_owned(), bytes[split + 4..].to_vec())
    }

    fn server() -> (tempfile::TempDir, Server) {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("debian");
        for folder in ["debian/pool/a", "debian-security/pool", "base"] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        fs::write(tree.join("pool/a/a+b_1.deb"), b"0123456789").unwrap();
        fs::write(dir.path().join("base/image"), b"cpio").unwrap();
        fs::write(dir.path().join("debian-security/pool/a_2.deb"), b"newer").unwrap();
        let server = Server::over(&tree).unwrap();
        (dir, server)
    }

    #[test]
    fn files_ranges_and_what_is_not_there() {
        let (_dir, server) = server();
        assert_eq!(
            get(&server, "/debian/pool/a/a%2bb_1.deb", ""),
            ("HTTP/1.1 200 OK".to_owned(), b"0123456789".to_vec())
        );
        assert_eq!(get(&server, "/debian/pool/a/a+b_1.deb", "Range: bytes=4-\r\n").1, b"456789");
        assert_eq!(get(&server, "/debian/pool/a/a+b_1.deb", "Range: bytes=2-3\r\n").1, b"23");
        assert_eq!(get(&server, "/snapshot/20260101T000000Z/pool/a/a+b_1.deb", "").1, b"0123456789");
        assert_eq!(get(&server, "/base/image", "").1, b"cpio");
        assert_eq!(get(&server, "/debian-security/pool/a_2.deb", "").1, b"newer");
        for missing in [
            "/debian/pool/a/c.deb",
            "/debian/pool",
            "/debian/../secret",
            "/base/../debian/pool/a/a+b_1.deb",
            "/etc/passwd",
        ] {
            assert_eq!(get(&server, missing, "").0, "HTTP/1.1 404 Not Found", "{missing}");
        }
        let log = server.requests();
        assert_eq!(log[1], Request { path: "/debian/pool/a/a+b_1.deb".to_owned(), status: 206, bytes: 6 });
    }

    #[test]
    fn each_fault_does_what_it_says() {
        let (_dir, server) = server();
        let path = "/debian/pool/a/a+b_1.deb";
        server.fault("/debian/pool", Fault::FlipByte(3));
        assert_eq!(get(&server, path, "").1, b"0122456789");
        assert_eq!(get(&server, path, "Range: bytes=3-\r\n").1, b"2456789");
        server.fault("a+b", Fault::Truncate(4));
        assert_eq!(get(&server, path, "").1, b"0123");
        assert_eq!(server.requests().last().unwrap().bytes, 4);
        assert_eq!((server.given(&Fault::Truncate(4)), server.given(&Fault::Truncate(5))), (1, 0));
        server.fault("a+b", Fault::NotFound);
        assert_eq!(get(&server, path, "").0, "HTTP/1.1 404 Not Found");
        server.fault("a+b", Fault::Status(503));
        assert!(get(&server, path, "").0.starts_with("HTTP/1.1 503"));
        server.fault("a+b", Fault::Redirect(vec![301, 308]));
        assert_eq!(get(&server, path, "").0, "HTTP/1.1 301 As Asked");
        assert_eq!(get(&server, &format!("/moved{path}"), "").0, "HTTP/1.1 308 As Asked");
        assert_eq!(get(&server, &format!("/moved/moved{path}"), "").1, b"0123456789");
        server.fault("a+b", Fault::Circle);
        assert_eq!(get(&server, path, "").0, "HTTP/1.1 302 As Asked");
        assert_eq!(get(&server, &format!("/moved{path}"), "").0, "HTTP/1.1 308 As Asked", "another fault's");
        server.fault("a+b", Fault::Lead("https://127.0.0.1/"));
        assert_eq!(get(&server, path, "").0, "HTTP/1.1 302 As Asked");
        server.fault("a+b", Fault::Replace(b"other".to_vec()));
        assert_eq!(get(&server, path, "").1, b"other");
        server.fault("a+b", Fault::Throttle(50));
        let begin = std::time::Instant::now();
        assert_eq!(get(&server, path, "").1, b"0123456789");
        assert!(begin.elapsed() >= Duration::from_millis(150));
        server.mend();
        assert_eq!(get(&server, path, "").1, b"0123456789");
    }

    #[test]
    fn a_stalled_answer_ends_with_the_server() {
        let (_dir, server) = server();
        server.fault("a+b", Fault::Stall(4));
        let mut stream = TcpStream::connect(server.address).unwrap();
        write!(stream, "GET /debian/pool/a/a+b_1.deb HTTP/1.1\r\n\r\n").unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let mut bytes = Vec::new();
        let stalled = stream.read_to_end(&mut bytes).unwrap_err();
        assert_eq!(stalled.kind(), io::ErrorKind::WouldBlock);
        assert!(bytes.ends_with(b"\r\n\r\n0123"));
        assert_eq!((server.given(&Fault::Stall(4)), server.requests()), (1, Vec::new()), "it has not ended");
        drop(server);
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
}
