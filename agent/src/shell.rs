//! Commands and shells for people, over SSH.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anemos_proto::event::EventKind;
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use crate::app::App;
use crate::machine;
use crate::paths::PATH;
use crate::ssh::{ChannelIn, ChannelOut, Input, Program, Size};
use crate::sys::{ChildSetup, in_own_session};

/// Time after the program's end in which output of processes that it left behind is still sent.
const DRAIN: Duration = Duration::from_millis(500);

/// `oom_score_adj` of people's programs (proc_pid_oom_score_adj(5)). When the machine's memory runs out, a payload is
/// killed first, unless such a program takes half of the memory more than it.
const SCORE: &str = "-500";

/// A person at a terminal. The dead-man's clock stands still until it is dropped.
struct Person<'a>(&'a App);

impl<'a> Person<'a> {
    fn came(app: &'a App) -> Self {
        app.tell(machine::Input::PersonCame);
        Self(app)
    }
}

impl Drop for Person<'_> {
    fn drop(&mut self) {
        self.0.tell(machine::Input::PersonWent);
    }
}

/// Runs a command or a shell, and closes the channel.
pub async fn run(app: &App, program: Program, input: ChannelIn, out: ChannelOut) {
    if app.closing.load(Relaxed) {
        out.fail(255, "anemos-agent: the host is about to leave RAM, so nothing is started any more").await;
        return out.close().await;
    }
    app.log.append(EventKind::Shell);
    crate::writes::expose(&app.paths);
    let _person = program.terminal.is_some().then(|| Person::came(app));
    match start(app, &program) {
        Ok((child, Plumbing::Pipes)) => pipes(child, input, &out).await,
        Ok((child, Plumbing::Terminal(master))) => terminal(child, master, input, &out).await,
        Err(message) => out.fail(127, &format!("anemos-agent: {message}")).await,
    }
    out.close().await;
}

enum Plumbing {
    Pipes,
    Terminal(AsyncFd<File>),
}

fn start(app: &App, program: &Program) -> Result<(Child, Plumbing), String> {
    let shell = ["/bin/bash", "/bin/sh"].into_iter().find(|path| Path::new(path).exists()).ok_or_else(|| {
        "there is no shell yet: the base is still being unpacked, or could not be; `anemos logs` says which".to_owned()
    })?;
    let mut command = Command::new(shell);
    match &program.command {
        Some(line) => command.arg("-c").arg(OsStr::from_bytes(line)),
        None => command.arg("-l"),
    };
    let home = if Path::new("/root").is_dir() { "/root" } else { "/" };
    command.env_clear().env("PATH", PATH).env("HOME", home).env("USER", "root").env("LOGNAME", "root");
    command.env("SHELL", shell).env("LANG", "C.UTF-8").current_dir(home).kill_on_drop(true);
    for (name, value) in &program.environment {
        // Takes only the locale, as sshd usually does, so that a client's other variables don't change what programs
        // do.
        if name == "LANG" || name.starts_with("LC_") {
            command.env(name, value);
        }
    }
    let mut setup = ChildSetup { score: app.paths.machine.then_some(SCORE), ..ChildSetup::default() };
    let plumbing = match &program.terminal {
        None => {
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            Plumbing::Pipes
        }
        Some((term, size)) => {
            let (master, slave) = open_terminal(*size).map_err(|e| format!("can't make a terminal: {e}"))?;
            let copy = || slave.try_clone().map(Stdio::from).map_err(|e| format!("can't make a terminal: {e}"));
            command.stdin(copy()?).stdout(copy()?).stderr(copy()?).env("TERM", term);
            setup.terminal = true;
            Plumbing::Terminal(crate::sys::watch(master).map_err(|e| format!("can't make a terminal: {e}"))?)
        }
    };
    in_own_session(&mut command, setup);
    let child = command.spawn().map_err(|e| format!("can't start {shell}: {e}"))?;
    Ok((child, plumbing))
}

fn open_terminal(size: Size) -> io::Result<(File, OwnedFd)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let slave = File::options().read(true).write(true).open(OsStr::from_bytes(name.to_bytes()))?;
    resize(&master, size)?;
    rustix::io::ioctl_fionbio(&master, true)?;
    Ok((File::from(master), slave.into()))
}

fn resize(terminal: impl AsFd, size: Size) -> io::Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(terminal, size)?)
}

fn signal(child: &Child, signal: Signal) {
    // The child leads a process group of its own.
    if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        let _ = kill_process_group(pid, signal);
    }
}

/// Bytes on their way to a pipe or a terminal. Another future writes them, so that a program that doesn't read its
/// input can't delay signals and the end of the channel.
type Feed = mpsc::UnboundedSender<Input>;

async fn pipes(mut child: Child, mut input: ChannelIn, out: &ChannelOut) {
    let (feed, mut fed) = mpsc::unbounded_channel();
    if let Some(mut stdin) = child.stdin.take() {
        tokio::spawn(async move {
            while let Some(Input::Data(bytes, _permit)) = fed.recv().await {
                if stdin.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        });
    }
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let flow = Flow::default();
    let copying = async {
        tokio::join!(copy(stdout, out, false, &flow), copy(stderr, out, true, &flow));
    };
    let mut feed = Some(feed);
    let status = watch(&mut child, &mut input, &mut feed, &flow, copying, |_| {}).await;
    report(status, out).await;
}

/// Tells whether output is being sent, and how many pieces have been.
#[derive(Default)]
struct Flow {
    sending: AtomicU32,
    sent: AtomicU64,
}

impl Flow {
    async fn pass(&self, sending: impl Future<Output = io::Result<()>>) -> io::Result<()> {
        self.sending.fetch_add(1, Relaxed);
        let result = sending.await;
        self.sending.fetch_sub(1, Relaxed);
        self.sent.fetch_add(1, Relaxed);
        result
    }
}

async fn copy(from: Option<impl AsyncRead + Unpin>, out: &ChannelOut, error: bool, flow: &Flow) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; 32 * 1024];
    while let Ok(n) = from.read(&mut buffer).await {
        if n == 0 {
            return;
        }
        let bytes = buffer[..n].to_vec();
        let sent = if error { flow.pass(out.error(bytes)).await } else { flow.pass(out.data(bytes)).await };
        if sent.is_err() {
            return;
        }
    }
}

async fn terminal(mut child: Child, master: AsyncFd<File>, mut input: ChannelIn, out: &ChannelOut) {
    let (feed, mut fed) = mpsc::unbounded_channel();
    let writing = async {
        while let Some(Input::Data(bytes, _permit)) = fed.recv().await {
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                match master.async_io(tokio::io::Interest::WRITABLE, |mut file| io::Write::write(&mut file, rest)).await
                {
                    Ok(n) => rest = &rest[n..],
                    Err(_) => return,
                }
            }
        }
        std::future::pending::<()>().await;
    };
    let flow = Flow::default();
    let reading = async {
        let mut buffer = vec![0; 32 * 1024];
        let read = |mut file: &File, buffer: &mut [u8]| io::Read::read(&mut file, buffer);
        // EIO, which ends the loop, means that the last process has closed the terminal.
        while let Ok(n) = master.async_io(tokio::io::Interest::READABLE, |file| read(file, &mut buffer)).await {
            if n == 0 || flow.pass(out.data(buffer[..n].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let both = async {
        tokio::select! {
            () = writing => {}
            () = reading => {}
        }
    };
    let mut feed = Some(feed);
    let status = watch(&mut child, &mut input, &mut feed, &flow, both, |size| {
        let _ = resize(&master, size);
    })
    .await;
    report(status, out).await;
}

/// Waits until the program has ended and its output is sent. Ends the program if the channel ends first, and returns
/// `None` then.
async fn watch(
    child: &mut Child,
    input: &mut ChannelIn,
    feed: &mut Option<Feed>,
    flow: &Flow,
    copying: impl Future<Output = ()>,
    resize: impl Fn(Size),
) -> Option<ExitStatus> {
    tokio::pin!(copying);
    let mut copied = false;
    let status = loop {
        let pid = child.id();
        tokio::select! {
            status = child.wait() => break status.ok(),
            () = &mut copying, if !copied => copied = true,
            got = input.next() => match got {
                Some(data @ Input::Data(..)) => if let Some(feed) = feed {
                    let _ = feed.send(data);
                },
                Some(Input::Eof) => *feed = None,
                Some(Input::Resize(size)) => resize(size),
                Some(Input::Signal(which)) => {
                    if let Some(pid) = pid.and_then(|id| Pid::from_raw(id.cast_signed())) {
                        let _ = kill_process_group(pid, which);
                    }
                }
                None => {
                    signal(child, Signal::HUP);
                    let _ = tokio::time::timeout(Duration::from_secs(5), child.wait()).await;
                    signal(child, Signal::KILL);
                    let _ = child.wait().await;
                    return None;
                }
            },
        }
    };
    // All output of the program itself is in the pipes by now. Sending goes on as long as the client takes it, however
    // slowly, but does not wait long for output of processes that the program left behind.
    while !copied {
        let before = flow.sent.load(Relaxed);
        copied = tokio::time::timeout(DRAIN, &mut copying).await.is_ok();
        if flow.sending.load(Relaxed) == 0 && flow.sent.load(Relaxed) == before {
            break;
        }
    }
    status
}

async fn report(status: Option<ExitStatus>, out: &ChannelOut) {
    if let Some(status) = status {
        out.exit(status).await;
    }
}
