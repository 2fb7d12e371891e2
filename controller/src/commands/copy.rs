//! `anemos cp`: a file into or out of a host's RAM system.
//!
//! The destination is written under another name beside it, and gets its own once all has come. Where a file from a
//! host goes is what the user said: the host is asked for a mode and bytes, and names nothing. A copy lets nobody at it
//! who could not get at what it is a copy of, or at what was there before.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch as signal;
use tokio::time::{Instant, sleep_until};

use super::ram::{one, reach, unreached};
use super::{CommandError, Status, Stopping};
use crate::cli;
use crate::engine::Stop;
use crate::paths::directory_of;
use crate::patience::within;
use crate::screen::text::{bytes, sanitise_str};
use crate::screen::transfer::Transfer;
use crate::select::Pattern;
use crate::ssh::{Exec, Exit, Output, Session};
use crate::text::{keep_last, quoted};

/// Whoever takes or says nothing for so long is given up.
const STALL: Duration = Duration::from_secs(60);

/// Bytes sent at once.
const PIECE: usize = 32 * 1024;

/// Bytes kept of what a host says went wrong.
const SAID: usize = 2048;

/// Where a file is, or goes.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Here(PathBuf),
    There(String, String),
}

impl Place {
    /// `HOST:PATH` is there, as with scp: whatever has a colon before its first slash.
    fn of(text: &str) -> Self {
        match text.split_once(':') {
            Some((host, path)) if !host.is_empty() && !host.contains('/') => {
                // A word that begins so would be an option.
                let path = if path.starts_with('-') { format!("./{path}") } else { path.to_owned() };
                Self::There(host.to_owned(), if path.is_empty() { ".".into() } else { path })
            }
            _ => Self::Here(text.into()),
        }
    }
}

pub(super) async fn copy(args: cli::Copy, stopping: Stopping) -> Result<Status, CommandError> {
    let host = |name: &str| name.parse::<Pattern>().map_err(CommandError::bad_input);
    let what = "a file goes to or comes from";
    let mut stop = stopping().map_err(CommandError::internal)?;
    let left = |stop: &mut signal::Receiver<Stop>| {
        let mut stop = stop.clone();
        async move {
            // An error means that nobody can stop it any more.
            if stop.wait_for(|stop| stop.asked()).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    match (Place::of(&args.from), Place::of(&args.to)) {
        (Place::Here(file), Place::There(name, path)) => {
            let source = Source::open(&file).map_err(CommandError::bad_input)?;
            let (run, entry) = one(&host(&name)?, args.run, what)?;
            let session = reach(&run, &entry).await?;
            let done = tokio::select! {
                done = send(&session, source, &path) => done,
                () = left(&mut stop) => return Ok(Status::Interrupted),
            };
            session.close().await;
            done.map_err(|why| unreached_file(&entry.name, &path, &why))?;
        }
        (Place::There(name, path), Place::Here(file)) => {
            let to = destination(&file, &path).map_err(CommandError::bad_input)?;
            let (run, entry) = one(&host(&name)?, args.run, what)?;
            let session = reach(&run, &entry).await?;
            let done = tokio::select! {
                done = fetch(&session, &path, &to, args.max_size) => done,
                () = left(&mut stop) => return Ok(Status::Interrupted),
            };
            session.close().await;
            done.map_err(|why| unreached_file(&entry.name, &path, &why))?;
        }
        _ => {
            let why = "one of the two is HOST:PATH, and the other a file here (write ./NAME if it has a colon)";
            return Err(CommandError::bad_input(why));
        }
    }
    Ok(Status::Done)
}

fn unreached_file(host: &str, path: &str, why: &Failure) -> CommandError {
    match why {
        Failure::Link(why) => unreached(host, why),
        Failure::Here(why) => CommandError::bad_input(why),
        Failure::There(why) => {
            CommandError { status: Status::NotAll, message: format!("{host}:{}: {why}", sanitise_str(path)) }
        }
    }
}

/// Why a file was not copied. The destination is as it was.
#[derive(Debug)]
enum Failure {
    Link(String),
    Here(String),
    There(String),
}

/// A file to be sent.
struct Source {
    file: File,
    name: String,
    size: u64,
    mode: u32,
}

impl Source {
    fn open(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let fault = |error: std::io::Error| format!("{shown}: {error}");
        let looked_at = fs::metadata(path).map_err(fault)?;
        if looked_at.is_dir() {
            return Err(format!(
                "{shown} is a directory; `tar c {shown} | anemos shell HOST -- tar x -C DIR` copies one"
            ));
        }
        let strange = || format!("{shown} is no regular file");
        if !looked_at.is_file() {
            return Err(strange());
        }
        // A pipe that has come in its place would have nobody at its other end for ever.
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let file = opened.map_err(fault)?;
        let metadata = file.metadata().map_err(fault)?;
        if !metadata.is_file() {
            return Err(strange());
        }
        let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| format!("{shown} has no name"))?;
        Ok(Self { file, name: name.to_owned(), size: metadata.len(), mode: metadata.permissions().mode() & 0o777 })
    }
}

/// What takes `size` bytes from its input and makes a file of them, all of it or none. That lets nobody at it whom a
/// file that is there already does not.
fn taking(path: &str, name: &str, size: u64, mode: u32) -> String {
    format!(
        "p={}; n={}; if [ -d \"$p\" ]; then p=$p/$n; fi; \
         if [ -e \"$p\" ] && [ ! -f \"$p\" ]; then echo \"it is no regular file\" >&2; exit 1; fi; \
         d=$(dirname \"$p\") && t=$(mktemp \"$d/.anemos.XXXXXX\") || exit 1; trap 'rm -f \"$t\"' EXIT; \
         trap 'exit 1' HUP INT TERM; cat > \"$t\" || exit 1; \
         if [ \"$(wc -c < \"$t\")\" -ne {size} ]; then echo \"not all of it came\" >&2; exit 1; fi; \
         m={mode:o}; if [ -e \"$p\" ]; then m=$(stat -Lc %a \"$p\") && m=$(printf %o $((0{mode:o} & 0$m))) || exit 1; \
         fi; chmod \"$m\" \"$t\" && mv -f \"$t\" \"$p\"",
        quoted(path),
        quoted(name),
    )
}

/// What says the mode of a file, in octal, and its size, and then its bytes.
fn giving(path: &str) -> String {
    format!(
        "p={}; if [ -d \"$p\" ]; then echo \"it is a directory\" >&2; exit 1; fi; \
         if [ -e \"$p\" ] && [ ! -f \"$p\" ]; then echo \"it is no regular file\" >&2; exit 1; fi; \
         s=$(stat -Lc '%a %s' \"$p\") && echo \"$s\" && exec cat \"$p\"",
        quoted(path)
    )
}

async fn started(session: &Session, command: &str) -> Result<Exec, Failure> {
    session.exec(command).await.map_err(|error| Failure::Link(error.to_string()))
}

/// Whether it ended well over there; `said` is what it said went wrong.
fn ended(exec: &Exec, said: &[u8]) -> Result<(), Failure> {
    let said = String::from_utf8_lossy(said);
    let said = sanitise_str(said.trim());
    match exec.exit() {
        Exit::Status(0) => Ok(()),
        Exit::Unknown => Err(Failure::Link("the link was lost".into())),
        _ if said.is_empty() => Err(Failure::There("it could not be copied, and the host does not say why".into())),
        _ => Err(Failure::There(said)),
    }
}

async fn send(session: &Session, source: Source, path: &str) -> Result<(), Failure> {
    let Source { mut file, name, size, mode } = source;
    let mut exec = started(session, &taking(path, &name, size, mode)).await?;
    let writer = exec.writer().clone();
    let mut shown = Transfer::new(&name, Some(size));
    let sending = async {
        let mut rest = size;
        while rest > 0 {
            let mut piece = vec![0; PIECE.min(usize::try_from(rest).unwrap_or(PIECE))];
            let read = tokio::task::block_in_place(|| file.read_exact(&mut piece));
            if let Err(error) = read {
                // Too few bytes make no file.
                let _ = writer.close().await;
                return Err(Failure::Here(format!("{name}: {error}")));
            }
            rest -= piece.len() as u64;
            match within(STALL, writer.send(piece)).await {
                Ok(Ok(())) => shown.at(size - rest),
                // Why it ended over there is said there.
                Ok(Err(_)) => return Ok(()),
                Err(_) => return Err(Failure::Link("it took nothing for a minute".into())),
            }
        }
        let _ = writer.end().await;
        Ok(())
    };
    let mut sending = std::pin::pin!(sending);
    let (mut said, mut until) = (Vec::new(), None);
    loop {
        tokio::select! {
            sent = &mut sending, if until.is_none() => {
                sent?;
                until = Some(Instant::now() + STALL);
            }
            output = exec.next() => match output {
                Some(Output::Stdout(bytes) | Output::Stderr(bytes)) => keep_last(&mut said, &bytes, SAID),
                None => return ended(&exec, &said),
            },
            () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                return Err(Failure::Link("it has got all, and did not say for a minute whether it is there".into()));
            }
        }
    }
}

/// The file that `to` means for what is at `path` over there.
fn destination(to: &Path, path: &str) -> Result<PathBuf, String> {
    let to = if to.is_dir() {
        let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        if matches!(name, "" | "." | "..") {
            return Err(format!("`{path}` has no name that a file in {} could have", to.display()));
        }
        to.join(name)
    } else {
        to.to_owned()
    };
    match fs::metadata(&to) {
        Ok(metadata) if !metadata.is_file() => Err(format!("{} is no regular file", to.display())),
        // What a link leads to is written, and the link stays.
        Ok(_) => fs::canonicalize(&to).map_err(|error| format!("{}: {error}", to.display())),
        Err(_) => Ok(to),
    }
}

/// The mode and the size that [`giving`] says.
fn said_first(line: &[u8]) -> Option<(u32, u64)> {
    let (mode, size) = std::str::from_utf8(line).ok()?.trim().split_once(' ')?;
    Some((u32::from_str_radix(mode, 8).ok()?, size.parse().ok()?))
}

/// A new file beside `to`, for a copy of what has that mode. The umask takes its part, and nobody gets at it whom what
/// is at `to` does not let.
fn beside(to: &Path, mode: u32) -> std::io::Result<tempfile::NamedTempFile> {
    let dir = directory_of(to);
    let before = match fs::metadata(to) {
        Ok(metadata) => metadata.permissions().mode(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0o777,
        Err(error) => return Err(error),
    };
    let permissions = Permissions::from_mode(mode & before & 0o777);
    tempfile::Builder::new().prefix(".anemos-cp").permissions(permissions).tempfile_in(dir)
}

async fn fetch(session: &Session, path: &str, to: &Path, most: u64) -> Result<(), Failure> {
    let here = |error: std::io::Error| Failure::Here(format!("{}: {error}", to.display()));
    let mut exec = started(session, &giving(path)).await?;
    // Nothing is to be waited for. If the host has gone already, that shows below.
    let _ = exec.writer().end().await;
    let too_large = || Failure::There(format!("it is larger than {}; --max-size allows for more", bytes(most)));
    let sizeless = || Failure::There("it does not say its size".into());
    let (mut head, mut coming, mut said, mut got) = (Vec::new(), None, Vec::new(), 0_u64);
    loop {
        let next = within(STALL, exec.next()).await;
        let mut piece = match next.map_err(|_| Failure::Link("it said nothing for a minute".into()))? {
            Some(Output::Stdout(bytes)) => bytes,
            Some(Output::Stderr(bytes)) => {
                keep_last(&mut said, &bytes, SAID);
                continue;
            }
            None => break,
        };
        if coming.is_none() {
            head.extend_from_slice(&piece);
            let Some(end) = head.iter().position(|&byte| byte == b'\n') else {
                if head.len() > 32 {
                    return Err(sizeless());
                }
                continue;
            };
            piece = head.split_off(end + 1);
            let (mode, size) = said_first(&head[..end]).ok_or_else(sizeless)?;
            if size > most {
                return Err(too_large());
            }
            let name = to.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // What the kernel makes as it is read has no size.
            let shown = Transfer::new(&name, Some(size).filter(|&size| size > 0));
            coming = Some((beside(to, mode).map_err(here)?, shown));
        }
        let Some((file, shown)) = &mut coming else { continue };
        got += piece.len() as u64;
        if got > most {
            return Err(too_large());
        }
        tokio::task::block_in_place(|| file.write_all(&piece)).map_err(here)?;
        shown.at(got);
    }
    ended(&exec, &said)?;
    let (file, _) = coming.ok_or_else(sizeless)?;
    file.persist(to).map_err(|error| here(error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn a_colon_before_any_slash_is_a_host() {
        let there = |host: &str, path: &str| Place::There(host.into(), path.into());
        for (text, place) in [
            ("web1:/etc/fstab", there("web1", "/etc/fstab")),
            ("web1:", there("web1", ".")),
            ("web1:-rf", there("web1", "./-rf")),
            ("web1:a:b", there("web1", "a:b")),
            ("./a:b", Place::Here("./a:b".into())),
            (":a", Place::Here(":a".into())),
            ("a/b:c", Place::Here("a/b:c".into())),
            ("fstab", Place::Here("fstab".into())),
        ] {
            assert_eq!(Place::of(text), place, "{text}");
        }
    }

    #[test]
    fn a_file_from_a_host_goes_where_the_user_says() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().canonicalize().unwrap();
        assert_eq!(destination(&at, "/etc/fstab"), Ok(at.join("fstab")));
        assert_eq!(destination(&at.join("new"), "/etc/fstab"), Ok(at.join("new")));
        for path in ["/", "..", "a/..", "."] {
            destination(&at, path).unwrap_err();
        }
        fs::write(at.join("real"), "").unwrap();
        std::os::unix::fs::symlink("real", at.join("link")).unwrap();
        assert_eq!(destination(&at.join("link"), "x"), Ok(at.join("real")));
        let error = destination(Path::new("/dev/null"), "x").unwrap_err();
        assert_eq!(error, "/dev/null is no regular file");
        fs::create_dir(at.join("fstab")).unwrap();
        destination(&at, "/etc/fstab").unwrap_err();
    }

    #[test]
    fn a_copy_lets_nobody_read_who_could_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let to = dir.path().join("key");
        for (there, before, expected) in [
            (0o600, None, 0o600),
            (0o400, None, 0o400),
            (0o4755, Some(0o600), 0o600),
            (0o644, Some(0o640), 0o640),
            (0o600, Some(0o644), 0o600),
        ] {
            if let Some(before) = before {
                fs::write(&to, "").unwrap();
                fs::set_permissions(&to, Permissions::from_mode(before)).unwrap();
            }
            let file = beside(&to, there).unwrap();
            // The umask may take more away.
            let got = mode(file.path());
            assert!(got & !expected == 0 && got & 0o700 == expected & 0o700, "{there:o} {before:?}: {got:o}");
            let _ = fs::remove_file(&to);
        }
        assert_eq!(said_first(b"4755 12"), Some((0o4755, 12)));
        for wrong in [&b"12"[..], b"", b"9 1", b"644 x", b"644 1 2", b"\xff 1"] {
            assert_eq!(said_first(wrong), None, "{wrong:?}");
        }
    }

    /// Whoever opens a pipe waits for somebody at its other end.
    #[test]
    fn a_pipe_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || sender.send(Source::open(&pipe).map(|_| ())));
        let said = receiver.recv_timeout(Duration::from_secs(30)).expect("it waits for nobody");
        assert!(said.unwrap_err().ends_with("/pipe is no regular file"));
    }
}
