//! One channel: translates the library's messages into [`Input`] for whoever serves the channel.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use russh::server::{Handle, Msg};
use russh::{Channel, ChannelId, ChannelMsg, ChannelWriteHalf, Sig};
use rustix::process::Signal;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::door::Pass;

/// Bytes of a channel's input that may wait to be read.
const INPUT: usize = 4 << 20;

/// Time for which a channel whose input nobody reads may hold up its whole connection. Then that channel is closed.
const STUCK: Duration = Duration::from_secs(60);

/// Size of a terminal.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// In characters.
    pub columns: u16,
    /// In lines.
    pub rows: u16,
}

/// A program that somebody wants to have run.
#[derive(Default)]
pub struct Program {
    /// `None`: a login shell.
    pub command: Option<Vec<u8>>,
    /// Kind and size of the terminal, if there is one.
    pub terminal: Option<(String, Size)>,
    /// Variables.
    pub environment: Vec<(String, String)>,
}

/// What a channel was opened for.
pub enum Request {
    /// A shell or a command.
    Program(Program),
    /// The subsystem that [`Service::subsystem`] names.
    Subsystem,
}

/// A channel whose client has said what the channel is for. It counts as open until `out` is dropped.
pub struct Opened {
    /// What it is for.
    pub request: Request,
    /// What the client sends.
    pub input: ChannelIn,
    /// What the client gets.
    pub out: ChannelOut,
}

/// Where channels go.
#[derive(Clone)]
pub struct Service {
    /// The one subsystem that clients may ask for.
    pub subsystem: &'static str,
    /// Gets each channel once its client has said what it is for.
    pub opened: mpsc::UnboundedSender<Opened>,
}

/// What the client sends over a channel after its request.
pub enum Input {
    /// Bytes, and a permit that counts them as waiting until it is dropped.
    Data(Vec<u8>, OwnedSemaphorePermit),
    /// No more bytes will come.
    Eof,
    /// The terminal's size changed.
    Resize(Size),
    /// A signal for the program.
    Signal(Signal),
}

/// The receiving side of a channel. It ends when the channel does.
pub struct ChannelIn(mpsc::UnboundedReceiver<Input>);

impl ChannelIn {
    /// The next input.
    pub async fn next(&mut self) -> Option<Input> {
        self.0.recv().await
    }
}

/// The sending side of a channel. Each call waits until there is room in the channel's window.
pub struct ChannelOut {
    half: ChannelWriteHalf<Msg>,
    handle: Handle,
    id: ChannelId,
    /// Counts this channel as open.
    _pass: Arc<Pass>,
}

fn gone<E>(_: E) -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

impl ChannelOut {
    /// Sends standard output.
    pub async fn data(&self, bytes: Vec<u8>) -> io::Result<()> {
        self.half.data_bytes(bytes).await.map_err(gone)
    }

    /// Sends standard error.
    pub async fn error(&self, bytes: Vec<u8>) -> io::Result<()> {
        self.half.extended_data_bytes(1, bytes).await.map_err(gone)
    }

    /// Says how the program ended.
    pub async fn exit(&self, status: std::process::ExitStatus) {
        use std::os::unix::process::ExitStatusExt;
        if let Some(code) = status.code() {
            let _ = self.half.exit_status(code.cast_unsigned()).await;
        } else if let Some(signal) = status.signal() {
            let name = signal_name(signal);
            let core = status.core_dumped();
            let _ = self.handle.exit_signal_request(self.id, name, core, String::new(), String::new()).await;
        }
    }

    /// Sends `message` as standard error, and `code` as exit status.
    pub async fn fail(&self, code: u32, message: &str) {
        let _ = self.error(format!("{message}\n").into_bytes()).await;
        let _ = self.half.exit_status(code).await;
    }

    /// Ends the channel.
    pub async fn close(&self) {
        let _ = self.half.eof().await;
        let _ = self.half.close().await;
    }
}

/// Reads a channel until it ends, and hands it to `opened` once the client has said what it is for. Every message is
/// taken off the channel at once, because one channel that nobody reads stops the whole connection.
pub async fn read(channel: Channel<Msg>, handle: Handle, pass: Pass, service: Service) {
    let id = channel.id();
    let (mut read, half) = channel.split();
    let pass = Arc::new(pass);
    let mut out = Some(ChannelOut { half, handle: handle.clone(), id, _pass: pass.clone() });
    let (sender, receiver) = mpsc::unbounded_channel();
    let mut input = Some(ChannelIn(receiver));
    let budget = Arc::new(Semaphore::new(INPUT));
    let mut program = Program::default();
    let mut open = |request| {
        if let (Some(input), Some(out)) = (input.take(), out.take()) {
            let _ = service.opened.send(Opened { request, input, out });
        }
    };
    while let Some(message) = read.wait().await {
        match message {
            ChannelMsg::RequestPty { term, col_width, row_height, .. } => {
                program.terminal = Some((term, size(col_width, row_height)));
            }
            // The number is limited against clients that send variables without end by mistake; strangers don't get
            // here.
            ChannelMsg::SetEnv { variable_name, variable_value, .. } if program.environment.len() < 64 => {
                program.environment.push((variable_name, variable_value));
            }
            ChannelMsg::RequestShell { .. } | ChannelMsg::Exec { .. } => {
                if let ChannelMsg::Exec { command, .. } = message {
                    program.command = Some(command);
                }
                open(Request::Program(std::mem::take(&mut program)));
            }
            ChannelMsg::RequestSubsystem { name, .. } if name == service.subsystem => open(Request::Subsystem),
            ChannelMsg::Data { data } => {
                let weight = data.len().min(INPUT) as u32;
                let room = tokio::time::timeout(STUCK, budget.clone().acquire_many_owned(weight)).await;
                let Ok(Ok(permit)) = room else {
                    let message = b"anemos: the input was not read for a minute, closing the channel\n".to_vec();
                    let _ = handle.extended_data(id, 1, message).await;
                    let _ = handle.close(id).await;
                    break;
                };
                let _ = sender.send(Input::Data(data.into(), permit));
            }
            ChannelMsg::Eof => drop(sender.send(Input::Eof)),
            ChannelMsg::WindowChange { col_width, row_height, .. } => {
                let _ = sender.send(Input::Resize(size(col_width, row_height)));
            }
            ChannelMsg::Signal { signal } => {
                if let Some(signal) = signal_of(&signal) {
                    let _ = sender.send(Input::Signal(signal));
                }
            }
            ChannelMsg::Close => break,
            _ => {}
        }
    }
}

fn size(columns: u32, rows: u32) -> Size {
    let clamp = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    Size { columns: clamp(columns), rows: clamp(rows) }
}

fn signal_of(signal: &Sig) -> Option<Signal> {
    Some(match signal {
        Sig::ABRT => Signal::ABORT,
        Sig::ALRM => Signal::ALARM,
        Sig::FPE => Signal::FPE,
        Sig::HUP => Signal::HUP,
        Sig::ILL => Signal::ILL,
        Sig::INT => Signal::INT,
        Sig::KILL => Signal::KILL,
        Sig::PIPE => Signal::PIPE,
        Sig::QUIT => Signal::QUIT,
        Sig::SEGV => Signal::SEGV,
        Sig::TERM => Signal::TERM,
        Sig::USR1 => Signal::USR1,
        Sig::Custom(_) => return None,
    })
}

fn signal_name(signal: i32) -> Sig {
    match signal {
        libc::SIGABRT => Sig::ABRT,
        libc::SIGALRM => Sig::ALRM,
        libc::SIGFPE => Sig::FPE,
        libc::SIGHUP => Sig::HUP,
        libc::SIGILL => Sig::ILL,
        libc::SIGINT => Sig::INT,
        libc::SIGKILL => Sig::KILL,
        libc::SIGPIPE => Sig::PIPE,
        libc::SIGQUIT => Sig::QUIT,
        libc::SIGSEGV => Sig::SEGV,
        libc::SIGTERM => Sig::TERM,
        libc::SIGUSR1 => Sig::USR1,
        other => Sig::Custom(format!("{other}@anemos")),
    }
}
