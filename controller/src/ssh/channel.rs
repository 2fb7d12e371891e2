//! Channels: a command's or subsystem's streams.
//!
//! russh delivers all channels of a connection from one loop, which stands still while one channel's queue is full. So
//! each channel gets a task that takes what comes at once and puts it into a queue, up to [`WAITING`] bytes. A host
//! that says more than is taken waits then, with all of its connection: nothing else bounds what it makes us hold.

use std::sync::Arc;
use std::time::Duration;

use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Pty};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;

use super::{Session, plain};
use crate::patience::{until, within};

/// The end of a remote command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// It returned this status.
    Status(u32),
    /// A signal ended it.
    Signal(String),
    /// The connection or channel ended, and nobody said how the command did.
    Unknown,
}

/// What comes from the other side.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Standard output.
    Stdout(Vec<u8>),
    /// Standard error.
    Stderr(Vec<u8>),
}

/// Why a channel could not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExecError {
    /// No channel, or not for this.
    #[error("the host refused {what}: {why}")]
    Refused {
        /// What was asked for.
        what: String,
        /// Why not.
        why: String,
    },
    /// The channel or the connection is gone.
    #[error("the connection is gone")]
    Closed,
    /// Too slow.
    #[error("the host did not answer in time to {what}")]
    Timeout {
        /// What was asked for.
        what: String,
    },
}

/// Bytes of output that wait to be taken, at most.
const WAITING: u32 = 1 << 20;

impl Output {
    /// What it takes of [`WAITING`]. An empty piece takes room too.
    fn size(&self) -> u32 {
        let (Self::Stdout(bytes) | Self::Stderr(bytes)) = self;
        u32::try_from(bytes.len() + 64).unwrap_or(WAITING).min(WAITING)
    }
}

/// A running command or subsystem.
pub struct Exec {
    output: mpsc::UnboundedReceiver<Output>,
    /// As many permits as there are bytes that may still come to wait.
    room: Arc<Semaphore>,
    exit: watch::Receiver<Option<Exit>>,
    writer: Writer,
}

/// The input of a running command. It may be cloned.
#[derive(Clone)]
pub struct Writer {
    half: Arc<ChannelWriteHalf<Msg>>,
    exit: watch::Receiver<Option<Exit>>,
}

impl Writer {
    /// Sends bytes, as fast as the other side takes them.
    pub async fn send(&self, bytes: Vec<u8>) -> Result<(), ExecError> {
        self.unless_ended(self.half.data_bytes(bytes)).await
    }

    /// Says that no more input comes.
    pub async fn end(&self) -> Result<(), ExecError> {
        self.unless_ended(self.half.eof()).await
    }

    /// Ends the channel: a PTY hangs up.
    pub async fn close(&self) -> Result<(), ExecError> {
        self.unless_ended(self.half.close()).await
    }

    /// Tells a PTY how large its window is.
    pub(super) async fn window(&self, columns: u32, rows: u32) -> Result<(), ExecError> {
        self.unless_ended(self.half.window_change(columns, rows, 0, 0)).await
    }

    /// russh goes on waiting for window space when the connection has ended, so this watches both.
    async fn unless_ended<E>(&self, action: impl Future<Output = Result<(), E>>) -> Result<(), ExecError> {
        let mut exit = self.exit.clone();
        tokio::select! {
            done = action => done.map_err(|_| ExecError::Closed),
            // An error means that the draining task is gone, and the channel with it.
            _ = exit.wait_for(Option::is_some) => Err(ExecError::Closed),
        }
    }
}

/// What a terminal does to what goes through it, for people who type.
const AS_IT_IS: [Pty; 14] = [
    Pty::ECHO,
    Pty::ECHOE,
    Pty::ECHOK,
    Pty::ECHONL,
    Pty::ICANON,
    Pty::ISIG,
    Pty::IEXTEN,
    Pty::IXON,
    Pty::IXOFF,
    Pty::ICRNL,
    Pty::INLCR,
    Pty::IGNCR,
    Pty::ISTRIP,
    Pty::OPOST,
];

/// How long a host may take to open a channel and start something in it.
const OPEN: Duration = Duration::from_secs(30);

impl Session {
    /// Starts a command.
    pub async fn exec(&self, command: &str) -> Result<Exec, ExecError> {
        let what = "to run a command";
        let (read, write) = self.open(what).await?;
        write.exec(true, command).await.map_err(|_| ExecError::Closed)?;
        Exec::start(read, write, what).await
    }

    /// Starts a subsystem.
    pub async fn subsystem(&self, name: &str) -> Result<Exec, ExecError> {
        let what = format!("to start the subsystem `{name}`");
        let (read, write) = self.open(&what).await?;
        write.request_subsystem(true, name).await.map_err(|_| ExecError::Closed)?;
        Exec::start(read, write, &what).await
    }

    /// Starts a command (or, without one, a login shell) on a PTY.
    pub(super) async fn pty(
        &self,
        term: &str,
        (columns, rows): (u32, u32),
        command: Option<&str>,
    ) -> Result<Exec, ExecError> {
        self.on_pty(term, (columns, rows), &[], command).await
    }

    /// Starts a command on a PTY that passes on each byte as it is, and shows nothing of what it is sent.
    pub async fn terminal(&self, command: &str) -> Result<Exec, ExecError> {
        self.on_pty("dumb", (80, 24), &AS_IT_IS.map(|mode| (mode, 0)), Some(command)).await
    }

    async fn on_pty(
        &self,
        term: &str,
        (columns, rows): (u32, u32),
        modes: &[(Pty, u32)],
        command: Option<&str>,
    ) -> Result<Exec, ExecError> {
        let what = "to open a terminal";
        let (mut read, write) = self.open(what).await?;
        write.request_pty(true, term, columns, rows, 0, 0, modes).await.map_err(|_| ExecError::Closed)?;
        granted(&mut read, what).await?;
        match command {
            Some(command) => write.exec(true, command).await,
            None => write.request_shell(true).await,
        }
        .map_err(|_| ExecError::Closed)?;
        Exec::start(read, write, what).await
    }

    async fn open(&self, what: &str) -> Result<(ChannelReadHalf, ChannelWriteHalf<Msg>), ExecError> {
        let opened = within(OPEN, self.handle.channel_open_session()).await;
        match opened {
            Ok(Ok(channel)) => Ok(Channel::split(channel)),
            Ok(Err(russh::Error::ChannelOpenFailure(why))) => {
                Err(ExecError::Refused { what: what.into(), why: why.description().to_owned() })
            }
            Ok(Err(russh::Error::SendError | russh::Error::Disconnect | russh::Error::RecvError)) => {
                Err(ExecError::Closed)
            }
            Ok(Err(error)) => Err(ExecError::Refused { what: what.into(), why: plain(&error) }),
            Err(_) => Err(ExecError::Timeout { what: what.into() }),
        }
    }

    /// Runs a command to its end and returns what it wrote to standard output, at most `limit` bytes of it.
    pub async fn output(
        &self,
        command: &str,
        limit: usize,
        mut deadline: Instant,
    ) -> Result<(Vec<u8>, Vec<u8>, Exit), ExecError> {
        let run = async {
            let mut exec = self.exec(command).await?;
            exec.writer().end().await?;
            let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
            while let Some(output) = exec.next().await {
                let (to, bytes) = match output {
                    Output::Stdout(bytes) => (&mut stdout, bytes),
                    Output::Stderr(bytes) => (&mut stderr, bytes),
                };
                let room = limit.saturating_sub(to.len());
                to.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            Ok((stdout, stderr, exec.exit()))
        };
        until(&mut deadline, run).await.unwrap_or_else(|_| Err(ExecError::Timeout { what: "to run a command".into() }))
    }
}

/// Waits for the answer to a request. Nothing else can come before it.
async fn granted(read: &mut ChannelReadHalf, what: &str) -> Result<(), ExecError> {
    let answer = async {
        loop {
            match read.wait().await {
                Some(ChannelMsg::Success) => return Ok(()),
                Some(ChannelMsg::Failure) => {
                    return Err(ExecError::Refused { what: what.into(), why: "it said no".into() });
                }
                None | Some(ChannelMsg::Close) => return Err(ExecError::Closed),
                Some(_) => {}
            }
        }
    };
    within(OPEN, answer).await.unwrap_or_else(|_| Err(ExecError::Timeout { what: what.into() }))
}

impl Exec {
    async fn start(mut read: ChannelReadHalf, write: ChannelWriteHalf<Msg>, what: &str) -> Result<Self, ExecError> {
        granted(&mut read, what).await?;
        let (output_tx, output) = mpsc::unbounded_channel();
        let (exit_tx, exit) = watch::channel(None);
        let room = Arc::new(Semaphore::new(WAITING as usize));
        tokio::spawn(drain(read, output_tx, Arc::clone(&room), exit_tx));
        let writer = Writer { half: Arc::new(write), exit: exit.clone() };
        Ok(Self { output, room, exit, writer })
    }

    /// The next piece of output; `None` when the channel has ended. Safe to drop and call again.
    pub async fn next(&mut self) -> Option<Output> {
        let output = self.output.recv().await?;
        self.room.add_permits(output.size() as usize);
        Some(output)
    }

    /// How it ended; meaningful once [`Exec::next`] has returned `None`.
    pub fn exit(&self) -> Exit {
        self.exit.borrow().clone().unwrap_or(Exit::Unknown)
    }

    /// Its input.
    pub fn writer(&self) -> &Writer {
        &self.writer
    }
}

async fn drain(
    mut read: ChannelReadHalf,
    output: mpsc::UnboundedSender<Output>,
    room: Arc<Semaphore>,
    exit: watch::Sender<Option<Exit>>,
) {
    // The exit status may come before or after the end of the output: only `None` is the end.
    let mut how = Exit::Unknown;
    while let Some(message) = read.wait().await {
        let piece = match message {
            ChannelMsg::Data { data } => Output::Stdout(data.to_vec()),
            ChannelMsg::ExtendedData { data, ext: 1 } => Output::Stderr(data.to_vec()),
            ChannelMsg::ExitStatus { exit_status } => {
                how = Exit::Status(exit_status);
                continue;
            }
            ChannelMsg::ExitSignal { signal_name, .. } => {
                how = Exit::Signal(format!("{signal_name:?}"));
                continue;
            }
            ChannelMsg::Close => break,
            _ => continue,
        };
        tokio::select! {
            // The semaphore is never closed.
            Ok(taken) = room.acquire_many(piece.size()) => {
                taken.forget();
                drop(output.send(piece));
            }
            // Draining goes on when nobody listens any more: the connection would stall.
            () = output.closed() => {}
        }
    }
    exit.send_replace(Some(how));
}
