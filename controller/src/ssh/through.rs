//! A program as the way to a host: its input and output lead there.

use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::{Mutex, oneshot, watch};
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};

use super::sys;
use crate::leader::Leader;
use crate::text::{keep_last, sanitise_str};

/// At most so many bytes of what it says on its standard error are kept, the last ones.
const SAID: usize = 4096;

/// Programs are started so far apart. Each is a client of a jump host, which drops some of those that come together
/// (`MaxStartups`).
const APART: Duration = Duration::from_millis(200);

/// What was sent last may take so long to leave a program whose input has ended.
const FLUSH: Duration = Duration::from_secs(5);

/// A program that is told to end may take so long before it is killed.
const GRACE: Duration = Duration::from_secs(2);

/// What it says may come so long after its output has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The program. When this is dropped, it ends, and all of its group.
#[derive(Debug)]
pub(super) struct Through {
    /// `None` once nothing more is to be sent.
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    /// What was read ahead.
    head: Vec<u8>,
    /// Something has come from it.
    spoke: bool,
    /// The program may take nothing for so long.
    stalled: Duration,
    /// Runs while the program takes nothing.
    waiting: Option<Pin<Box<Sleep>>>,
    life: Life,
    /// Where it is told that nobody needs the program any more, and whether what was sent last matters.
    unneeded: Option<oneshot::Sender<bool>>,
}

/// What becomes of a program.
#[derive(Debug, Clone)]
pub(super) struct Life(watch::Receiver<Told>);

#[derive(Debug, Default)]
struct Told {
    /// The end of what it has said.
    said: Vec<u8>,
    /// Nothing more comes.
    over: bool,
}

impl Life {
    /// Waits for the end of the program, but not for longer than that.
    pub(super) async fn end(&self, patience: Duration) {
        let mut life = self.0.clone();
        // An error means that it is over.
        let _ = timeout(patience, life.wait_for(|told| told.over)).await;
    }

    /// What it says on its standard error, once its output has ended: lines for people.
    pub(super) async fn last_words(&self) -> String {
        self.end(LAST_WORDS).await;
        self.said()
    }

    /// What it has said so far.
    pub(super) fn said(&self) -> String {
        let told = self.0.borrow();
        let text = String::from_utf8_lossy(&told.said);
        let lines = text.lines().map(|line| sanitise_str(line).trim().to_owned()).filter(|line| !line.is_empty());
        lines.collect::<Vec<_>>().join("\n")
    }
}

impl Through {
    /// Starts the program, which is the first of the words. It has no terminal.
    pub(super) async fn start(words: &[String]) -> io::Result<Self> {
        let Some((program, arguments)) = words.split_first() else { return Err(io::ErrorKind::InvalidInput.into()) };
        turn().await;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // It would ask in a window, once for each host and attempt.
        command.env("SSH_ASKPASS_REQUIRE", "never");
        sys::in_own_session(&mut command);
        let mut leader = Leader(command.spawn()?);
        let child = &mut leader.0;
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let (told, life) = watch::channel(Told::default());
        let (unneeded, is_unneeded) = oneshot::channel();
        tokio::spawn(attend(leader, stderr, told, is_unneeded));
        Ok(Self {
            stdin: Some(stdin),
            stdout,
            head: Vec::with_capacity(1024),
            spoke: false,
            stalled: Duration::MAX,
            waiting: None,
            life: Life(life),
            unneeded: Some(unneeded),
        })
    }

    /// The first bytes that come; they are not taken. None, once its output has ended. Safe to drop and call again.
    pub(super) async fn peek(&mut self) -> io::Result<&[u8]> {
        if self.head.is_empty() {
            self.spoke |= self.stdout.read_buf(&mut self.head).await? > 0;
        }
        Ok(&self.head)
    }

    /// What becomes of the program.
    pub(super) fn life(&self) -> Life {
        self.life.clone()
    }

    /// From now on the link is dead after the program has taken nothing for so long.
    pub(super) fn give_up_after(&mut self, stalled: Duration) {
        self.stalled = stalled;
    }
}

impl AsyncRead for Through {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.head.is_empty() {
            return Pin::new(&mut self.stdout).poll_read(cx, buf);
        }
        let count = self.head.len().min(buf.remaining());
        buf.put_slice(&self.head[..count]);
        self.head.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Through {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let Some(stdin) = &mut this.stdin else { return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) };
        if let Poll::Ready(done) = Pin::new(stdin).poll_write(cx, buf) {
            this.waiting = None;
            return Poll::Ready(done);
        }
        let waiting = this.waiting.get_or_insert_with(|| Box::pin(sleep(this.stalled)));
        waiting.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stdin.as_mut().map_or(Poll::Ready(Ok(())), |stdin| Pin::new(stdin).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The program is told so by the end of its input.
        self.stdin = None;
        Poll::Ready(Ok(()))
    }
}

impl Drop for Through {
    fn drop(&mut self) {
        if let Some(unneeded) = self.unneeded.take() {
            // Nothing was said to a host that has not spoken.
            let _ = unneeded.send(self.spoke);
        }
    }
}

/// Waits until the next program may be started.
async fn turn() {
    static NEXT: Mutex<Option<Instant>> = Mutex::const_new(None);
    let mut next = NEXT.lock().await;
    if let Some(at) = *next {
        sleep_until(at).await;
    }
    *next = Some(Instant::now() + APART);
}

async fn end(mut leader: Leader, sent_matters: bool) {
    if sent_matters && timeout(FLUSH, leader.0.wait()).await.is_ok() {
        return;
    }
    leader.signal(Signal::TERM);
    if timeout(GRACE, leader.0.wait()).await.is_err() {
        leader.signal(Signal::KILL);
        let _ = leader.0.wait().await;
    }
}

/// Listens to the program until it has ended, and ends it when nobody needs it.
async fn attend(
    mut leader: Leader,
    mut stderr: ChildStderr,
    told: watch::Sender<Told>,
    unneeded: oneshot::Receiver<bool>,
) {
    let mut bytes = vec![0; SAID];
    let listen = async {
        while let Ok(count @ 1..) = stderr.read(&mut bytes).await {
            told.send_modify(|told| keep_last(&mut told.said, &bytes[..count], SAID));
        }
    };
    tokio::select! {
        _ = async { tokio::join!(leader.0.wait(), listen) } => {}
        matters = unneeded => end(leader, matters.unwrap_or(false)).await,
    }
    told.send_modify(|told| told.over = true);
}
