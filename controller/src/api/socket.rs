//! The daemon's socket: in a directory that only its user can enter, or a group too if that is wanted. The kernel says
//! who is at the other end.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use tokio::net::{UnixListener, UnixStream};

use crate::run::inbox;

/// Its name in the directory.
const NAME: &str = "socket";

/// What a daemon listens on, and what keeps another one from doing so too.
#[derive(Debug)]
pub struct Socket {
    /// Takes conversations.
    pub listener: UnixListener,
    /// The file that is to be removed, unless it is systemd's.
    file: Option<PathBuf>,
    _lock: File,
}

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Their number.
    pub uid: u32,
    /// Their name.
    pub user: String,
    /// Their name and their process, for people.
    pub author: String,
}

/// Where the socket of this user's daemon is: `$XDG_RUNTIME_DIR/anemos`, or `$XDG_STATE_HOME/anemos/serve` where there
/// is no such directory.
pub fn default_dir() -> Result<PathBuf, String> {
    let named = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = || named("XDG_STATE_HOME").or_else(|| named("HOME").map(|home| home.join(".local/state")));
    named("XDG_RUNTIME_DIR")
        .map(|dir| dir.join("anemos"))
        .or_else(|| state().map(|dir| dir.join("anemos/serve")))
        .ok_or_else(|| "none of XDG_RUNTIME_DIR, XDG_STATE_HOME and HOME is set".into())
}

impl Socket {
    /// Listens in this directory, which is made if need be. Only its owner may be able to enter it, or the group of the
    /// directory too if it is `shared`.
    pub fn bind(dir: &Path, shared: bool) -> io::Result<Self> {
        let (mode, others) = if shared { (0o750, 0o027) } else { (0o700, 0o077) };
        DirBuilder::new().recursive(true).mode(mode).create(dir)?;
        let metadata = fs::metadata(dir)?;
        if metadata.uid() != rustix::process::geteuid().as_raw() || metadata.mode() & others != 0 {
            let why = format!(
                "it is another user's, or others may enter it (mode {:o}; at most {mode:o} is taken)",
                metadata.mode() & 0o7777
            );
            return Err(io::Error::new(ErrorKind::PermissionDenied, why));
        }
        let mut options = OpenOptions::new();
        let lock = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(dir.join("lock"))?;
        if let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            let busy = error == rustix::io::Errno::WOULDBLOCK;
            let why = io::Error::new(ErrorKind::AddrInUse, "another daemon listens there");
            return Err(if busy { why } else { error.into() });
        }
        if let Some(listener) = given()? {
            return Ok(Self { listener, file: None, _lock: lock });
        }
        match fs::remove_file(dir.join(NAME)) {
            // The one before has died.
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let (_open, name) = inbox::short(dir, NAME)?;
        let listener = UnixListener::bind(&name)?;
        // The directory keeps everybody else away, whatever the mode was in between.
        fs::set_permissions(&name, Permissions::from_mode(if shared { 0o660 } else { 0o600 }))?;
        Ok(Self { listener, file: Some(dir.join(NAME)), _lock: lock })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            // A socket that nobody listens on does no harm.
            let _ = fs::remove_file(file);
        }
    }
}

/// The first descriptor that systemd hands on: sd_listen_fds(3).
const FIRST: i32 = 3;

/// The socket that systemd listens on for this process, if it does: sd_listen_fds(3).
fn given() -> io::Result<Option<UnixListener>> {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u32>().ok());
    if number("LISTEN_PID") != Some(std::process::id()) || number("LISTEN_FDS").is_none_or(|count| count == 0) {
        return Ok(None);
    }
    // A copy has an owner, as the descriptor itself has not; systemd keeps the socket open anyway.
    let ourselves = pidfd_open(getpid(), PidfdFlags::empty())?;
    let copy = pidfd_getfd(ourselves, FIRST, PidfdGetfdFlags::empty())?;
    let listener = std::os::unix::net::UnixListener::from(copy);
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener).map(Some)
}

/// Reaches the daemon that listens in this directory.
pub async fn connect(dir: &Path) -> io::Result<UnixStream> {
    let (_open, name) = inbox::short(dir, NAME)?;
    UnixStream::connect(name).await
}

/// Who is at the other end.
pub fn peer(stream: &UnixStream) -> Result<Peer, String> {
    let uid = stream.peer_cred().map_err(|error| format!("the kernel does not say who you are: {error}"))?.uid();
    Ok(Peer { uid, user: inbox::person(uid, None), author: inbox::author(stream) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_daemon_in_a_directory_of_ones_own() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("x".repeat(120)).join("anemos");
        let socket = Socket::bind(&place, false).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!((mode(&place), mode(&place.join(NAME))), (0o700, 0o600));
        assert_eq!(Socket::bind(&place, false).unwrap_err().kind(), ErrorKind::AddrInUse);
        let stream = connect(&place).await.unwrap();
        let (other, _) = socket.listener.accept().await.unwrap();
        assert_eq!(peer(&other).unwrap().uid, rustix::process::geteuid().as_raw());
        assert!(peer(&stream).unwrap().author.contains(&format!("process {}", std::process::id())));
        drop(socket);
        assert_eq!(connect(&place).await.unwrap_err().kind(), ErrorKind::NotFound);
        // What a daemon that was killed has left.
        std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        for (allowed, shared, is_taken) in [
            (0o750, false, false),
            (0o710, false, false),
            (0o700, false, true),
            (0o750, true, true),
            (0o755, true, false),
            (0o770, true, false),
            (0o751, true, false),
        ] {
            fs::set_permissions(dir.path(), Permissions::from_mode(allowed)).unwrap();
            let bound = Socket::bind(dir.path(), shared);
            assert_eq!(bound.as_ref().err().map(io::Error::kind), (!is_taken).then_some(ErrorKind::PermissionDenied));
            if bound.is_ok() {
                assert_eq!(mode(&dir.path().join(NAME)), if shared { 0o660 } else { 0o600 });
            }
        }
    }
}
