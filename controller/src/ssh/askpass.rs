//! What OpenSSH's client asks a person, on its way to this process, which has the terminal.
//!
//! `ssh` starts a program for each question (`SSH_ASKPASS`). That is this executable by another name, in a directory
//! that nobody but the user can enter; beside it is a socket, over which it hands the question to the process that
//! started `ssh`, and gets the answer.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use super::Passphrases;
use crate::patience::within;

/// What the executable is called when it is to hand on a question.
const NAME: &str = "anemos-askpass";

/// Where it finds who answers.
const SOCKET: &str = "questions";

/// Nobody is waited for longer: SSH servers don't wait longer either (`LoginGraceTime`).
const TYPING: Duration = Duration::from_secs(120);

/// Bytes of a question at most.
const QUESTION: usize = 8 * 1024;

/// Ends a question, which may have several lines.
const END: u8 = 0;

/// Comes before an answer, which may be empty. Without it there is none.
const ANSWER: u8 = b'=';

/// If this process was started to hand on a question: the answer.
pub fn handed_on(mut arguments: impl Iterator<Item = OsString>) -> Option<io::Result<Vec<u8>>> {
    let name = PathBuf::from(arguments.next()?);
    let is_it = name.file_name().is_some_and(|name| name == NAME);
    is_it.then(|| hand_on(&name.with_file_name(SOCKET), &arguments.next().unwrap_or_default()))
}

fn hand_on(socket: &Path, question: &OsString) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(question.as_encoded_bytes())?;
    stream.write_all(&[END])?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    match answer.split_first() {
        Some((&ANSWER, line)) => Ok([line, b"\n"].concat()),
        _ => Err(io::Error::other("nobody answers")),
    }
}

/// A directory with a name for this executable, in which questions are waited for.
#[derive(Debug)]
pub(super) struct Askpass {
    dir: PathBuf,
    listener: UnixListener,
    asks: Arc<dyn Passphrases>,
    /// What stands before each question.
    whose: String,
    asked: AtomicBool,
}

impl Askpass {
    /// Makes the directory, in which `executable` gets its name. What is asked is handed to `asks`, as `whose`.
    pub(super) fn new(executable: &Path, asks: &Arc<dyn Passphrases>, whose: String) -> io::Result<Self> {
        let random = super::new_seed().map_err(io::Error::other)?;
        let random = random.expose().iter().take(8).fold(String::new(), |name, byte| format!("{name}{byte:02x}"));
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_absolute());
        let name = format!("anemos-{random}");
        let make = |place: &Path| {
            let dir = place.join(&name);
            std::fs::DirBuilder::new().mode(0o700).create(&dir).map(|()| dir)
        };
        // Not wherever TMPDIR says: the name of a socket has to be short.
        let dir = runtime.and_then(|place| make(&place).ok()).map_or_else(|| make(Path::new("/tmp")), Ok)?;
        std::os::unix::fs::symlink(executable, dir.join(NAME))?;
        let listener = UnixListener::bind(dir.join(SOCKET))?;
        Ok(Self { dir, listener, asks: Arc::clone(asks), whose, asked: AtomicBool::new(false) })
    }

    /// The directory. Whoever is told of it removes it.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// What `ssh` is to start for a question.
    pub(super) fn program(&self) -> PathBuf {
        self.dir.join(NAME)
    }

    /// Whether anything was asked.
    pub(super) fn was_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Answers, one after the other, for as long as this is waited for.
    pub(super) async fn answer(&self) -> io::Error {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => self.answer_one(stream).await,
                Err(error) => return error,
            }
        }
    }

    /// Whoever is not answered finds the connection closed.
    async fn answer_one(&self, mut stream: tokio::net::UnixStream) {
        // The directory keeps others out; root gets in everywhere.
        let ours = stream.peer_cred().is_ok_and(|peer| peer.uid() == rustix::process::geteuid().as_raw());
        let mut question = Vec::new();
        while ours && question.len() < QUESTION && question.last() != Some(&END) {
            if !matches!(stream.read_buf(&mut question).await, Ok(1..)) {
                return;
            }
        }
        if question.pop() != Some(END) {
            return;
        }
        let question = String::from_utf8_lossy(&question).into_owned();
        // A host key is nothing to be waved through in between.
        if question.contains("(yes/no") {
            return;
        }
        self.asked.store(true, Ordering::Relaxed);
        let asked = self.asks.ask(format!("{}: {question}", self.whose));
        let mut nothing = [0];
        let answer = tokio::select! {
            answer = within(TYPING, asked) => answer.unwrap_or_else(|_| Err("nobody typed it in time".into())),
            // It says no more: it is gone, and so is the question, as when a security key was touched.
            _ = stream.read(&mut nothing) => return,
        };
        if let Ok(answer) = answer {
            let _ = stream.write_all(&[&[ANSWER], answer.expose()].concat()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ssh::tests::Answers;

    async fn hand(askpass: &Askpass, question: &str) -> io::Result<Vec<u8>> {
        let (program, question) = (askpass.program().into_os_string(), OsString::from(question));
        let handed = tokio::task::spawn_blocking(|| handed_on([program, question].into_iter()).unwrap());
        tokio::select! {
            answer = handed => answer.unwrap(),
            error = askpass.answer() => panic!("{error}"),
        }
    }

    #[tokio::test]
    async fn a_question_is_handed_on_and_answered() {
        use std::os::unix::fs::PermissionsExt;
        let answers = Arc::new(Answers::default());
        answers.typed.lock().unwrap().extend(["", "12 34"]);
        let asks: Arc<dyn Passphrases> = Arc::clone(&answers) as _;
        let askpass = Askpass::new(Path::new("/bin/true"), &asks, "The way".into()).unwrap();
        assert_eq!(std::fs::metadata(askpass.dir()).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(!askpass.was_asked());
        // A host key is judged by nobody here.
        let yes_no = "The authenticity of host 'b' can't be established.\nAre you sure (yes/no/[fingerprint])? ";
        assert!(hand(&askpass, yes_no).await.is_err() && !askpass.was_asked());
        assert_eq!(hand(&askpass, "(me@b) Verification code: ").await.unwrap(), b"12 34\n");
        assert_eq!(hand(&askpass, "two\nlines: ").await.unwrap(), b"\n");
        assert!(hand(&askpass, "once more: ").await.is_err(), "nobody types");
        assert!(hand(&askpass, &"x".repeat(QUESTION + 1)).await.is_err());
        let asked = answers.asked.lock().unwrap().join("|");
        assert_eq!(asked, "The way: (me@b) Verification code: |The way: two\nlines: |The way: once more: ");
        std::fs::remove_dir_all(askpass.dir()).unwrap();
        assert!(handed_on(["/usr/bin/anemos".into(), "up".into()].into_iter()).is_none());
    }
}
