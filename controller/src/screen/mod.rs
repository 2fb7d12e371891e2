//! How a run is shown: live on a terminal, as plain lines, or as JSON Lines.
//!
//! Deployments send [`Report`]s into a channel and know nothing of this. One task, [`run`], owns the [`Screen`] and
//! draws what arrives; a [`Control`] asks it from outside to show a plan or to leave the terminal alone for a while.

mod diagnostics;
mod frame;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod json;
mod json_facts;
mod live;
pub mod logs;
pub mod plain;
pub mod plan;
pub mod sheet;
mod state;
pub mod status;
pub mod table;
pub mod text;
pub mod transfer;

#[cfg(test)]
mod tests;

use std::io::{self, BufRead, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

pub use diagnostics::Diagnostics;

use crate::plan::Plan;
use crate::report::{Report, Reports};
use plain::PlainLines;
use text::{Paint, now_ms};

/// Time between two drawings.
const TICK: Duration = Duration::from_millis(150);

/// How a run is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One line a host, redrawn in place.
    Live,
    /// One line a fact.
    Plain,
    /// One line for what went wrong, and for how a host ends.
    Quiet,
    /// One JSON object a line.
    Json,
}

impl Mode {
    /// JSON if asked for; live if both output streams are a terminal that can move its cursor; else plain.
    pub fn pick(json: bool) -> Self {
        if json {
            Self::Json
        } else if is_quiet() {
            Self::Quiet
        } else if io::stdout().is_terminal() && io::stderr().is_terminal() && !text::dumb() {
            Self::Live
        } else {
            Self::Plain
        }
    }
}

/// Whether who reads standard error sees what a screen of this mode shows.
pub fn is_seen_on_stderr(mode: Mode) -> bool {
    let same = || match (rustix::fs::fstat(io::stdout()), rustix::fs::fstat(io::stderr())) {
        (Ok(out), Ok(err)) => io::stdout().is_terminal() && out.st_rdev == err.st_rdev,
        _ => false,
    };
    match mode {
        Mode::Live => true,
        Mode::Plain | Mode::Quiet => same(),
        // Not for people.
        Mode::Json => false,
    }
}

/// What each way of showing a run does.
trait Show: Send {
    fn report(&mut self, report: &Report);
    fn tick(&mut self, now_ms: u64);
    fn plans(&mut self, plans: &[Arc<Plan>], order: Option<&str>, now_ms: u64);
    fn pause(&mut self);
    fn resume(&mut self);
    fn finish(&mut self, now_ms: u64);
}

/// Shows one run.
pub struct Screen(Box<dyn Show>);

impl Screen {
    /// A screen on this process's own streams: live on stderr, plain and JSON on stdout.
    ///
    /// `hosts` gives the order of rows; other hosts may still turn up. `run` is its id, if there is one.
    pub fn new(mode: Mode, run: Option<&str>, hosts: &[String]) -> Self {
        let stdout = || Out::new(Box::new(io::stdout()));
        match mode {
            Mode::Live => Self(Box::new(live::LiveScreen::on_stderr(hosts))),
            Mode::Plain | Mode::Quiet => {
                let (lines, paint) = (PlainLines::new(hosts).local(), Paint::pick(io::stdout().is_terminal()));
                Self(Box::new(plain::PlainScreen::new(stdout(), lines, paint, mode == Mode::Quiet)))
            }
            Mode::Json => Self(Box::new(json::JsonScreen::new(stdout(), run, hosts, now_ms()))),
        }
    }

    /// Plain lines into `out`, without colours.
    #[cfg(test)]
    pub fn plain(out: Box<dyn Write + Send>, hosts: &[String]) -> Self {
        Self(Box::new(plain::PlainScreen::new(Out::new(out), PlainLines::new(hosts), Paint(false), false)))
    }

    /// The same, of what matters only.
    #[cfg(test)]
    pub fn quiet(out: Box<dyn Write + Send>, hosts: &[String]) -> Self {
        Self(Box::new(plain::PlainScreen::new(Out::new(out), PlainLines::new(hosts), Paint(false), true)))
    }

    /// JSON Lines into `out`.
    #[cfg(test)]
    pub fn json(out: Box<dyn Write + Send>, run: Option<&str>, hosts: &[String]) -> Self {
        Self(Box::new(json::JsonScreen::new(Out::new(out), run, hosts, now_ms())))
    }

    /// Takes in one report. What is shown may change only at the next [`Screen::tick`].
    pub fn report(&mut self, report: &Report) {
        self.0.report(report);
    }

    /// Draws, if there is anything to draw.
    pub fn tick(&mut self) {
        self.0.tick(now_ms());
    }

    /// Shows plans, and the order in which those hosts go that can be deployed.
    pub fn plans(&mut self, plans: &[Arc<Plan>], order: Option<&str>) {
        self.0.plans(plans, order, now_ms());
    }

    /// Leaves the terminal alone until [`Screen::resume`]: reports are still taken in.
    pub fn pause(&mut self) {
        self.0.pause();
    }

    /// Draws again.
    pub fn resume(&mut self) {
        self.0.resume();
    }

    /// The last drawing, with the summary.
    pub fn finish(&mut self) {
        self.0.finish(now_ms());
    }
}

/// How the user wants all commands to show things.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Only what went wrong, and how hosts end.
    pub quiet: bool,
    /// The terminal's bell rings when the command asks something, or is over.
    pub bell: bool,
    /// The terminal's title says how far it is.
    pub title: bool,
}

static WISHES: Mutex<Wishes> = Mutex::new(Wishes { quiet: false, bell: false, title: false });

impl Wishes {
    /// Has this process keep to them.
    pub fn keep_to(self) {
        *WISHES.lock().unwrap_or_else(PoisonError::into_inner) = self;
    }
}

fn wishes() -> Wishes {
    *WISHES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether only what went wrong is to be shown.
pub fn is_quiet() -> bool {
    wishes().quiet
}

/// Rings the terminal's bell, if that is wanted.
pub fn ring() {
    if wishes().bell && io::stderr().is_terminal() {
        // Only for the ear.
        let _ = io::stderr().write_all(b"\x07");
    }
}

/// Something that the user should know, before or after what a screen shows.
pub fn note(text: &str) {
    if !is_quiet() {
        aside("note", text);
    }
}

/// Something that the user should look after.
pub fn warning(text: &str) {
    aside("warning", text);
}

/// Whether a person reads what this process says about itself, and not a file or a journal.
pub fn is_for_eyes() -> bool {
    io::stderr().is_terminal()
}

/// Why a command ends.
pub fn error(text: &str) {
    let text: Vec<String> = text.lines().map(text::sanitise_str).collect();
    aside_clean("anemos", &text.join("\n"));
}

fn aside(what: &str, text: &str) {
    aside_clean(what, &text::sanitise_str(text));
}

/// Writes to standard error. A terminal that has hung up must not end the process.
fn aside_clean(what: &str, text: &str) {
    let _ = writeln!(io::stderr().lock(), "{what}: {text}");
}

/// Asks on the terminal, without a screen. No answer is a no.
pub fn question(text: &str) -> bool {
    ring();
    let _ = write!(io::stderr().lock(), "{} Type `yes`: ", text::sanitise_str(text));
    let mut answer = String::new();
    // An answer that can't be read is none.
    let _ = io::stderr().flush();
    let _ = io::stdin().lock().read_line(&mut answer);
    answer.trim() == "yes"
}

/// Asks the task that owns the screen for something out of turn. The reports sent before are shown before.
#[derive(Debug, Clone)]
pub struct Control(mpsc::UnboundedSender<Request>);

/// The other end of a [`Control`].
#[derive(Debug)]
pub struct Requests(mpsc::UnboundedReceiver<Request>);

#[derive(Debug)]
enum Request {
    Plans { plans: Vec<Arc<Plan>>, order: Option<String>, done: oneshot::Sender<()> },
    Pause { paused: oneshot::Sender<()>, resume: oneshot::Receiver<()> },
}

/// While it lives, the screen leaves the terminal alone.
#[derive(Debug)]
pub struct Paused(#[allow(dead_code, reason = "dropping it is the message")] oneshot::Sender<()>);

/// A control and what [`run_controlled`] needs to obey it.
pub fn control() -> (Control, Requests) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Control(sender), Requests(receiver))
}

impl Control {
    /// Shows plans and order, and returns when they have been written.
    pub async fn plans(&self, plans: Vec<Arc<Plan>>, order: Option<String>) {
        let (done, shown) = oneshot::channel();
        if self.0.send(Request::Plans { plans, order, done }).is_ok() {
            // An error means that the screen has ended: there is nobody to show it to.
            let _ = shown.await;
        }
    }

    /// Clears the terminal for a question. The screen draws again when the result is dropped.
    pub async fn pause(&self) -> Paused {
        let (paused, done) = oneshot::channel();
        let (guard, resume) = oneshot::channel();
        if self.0.send(Request::Pause { paused, resume }).is_ok() {
            let _ = done.await;
        }
        Paused(guard)
    }
}

/// Shows every report until the channel closes, then the summary.
#[cfg(test)]
pub async fn run(screen: Screen, reports: Reports) {
    let (_control, requests) = control();
    run_controlled(screen, reports, requests).await;
}

/// [`run`], obeying a [`Control`] meanwhile.
pub async fn run_controlled(mut screen: Screen, mut reports: Reports, mut requests: Requests) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut resume: Option<oneshot::Receiver<()>> = None;
    loop {
        tokio::select! {
            biased;
            // First, so that a flood of reports can't keep the screen from drawing.
            _ = ticks.tick() => screen.tick(),
            Some(request) = requests.0.recv(), if resume.is_none() => {
                while let Some(report) = reports.try_recv() {
                    screen.report(&report);
                }
                match request {
                    Request::Plans { plans, order, done } => {
                        screen.plans(&plans, order.as_deref());
                        let _ = done.send(());
                    }
                    Request::Pause { paused, resume: until } => {
                        screen.pause();
                        resume = Some(until);
                        let _ = paused.send(());
                    }
                }
            }
            () = released(&mut resume) => {
                resume = None;
                screen.resume();
            }
            batch = reports.batch() => {
                if batch.is_empty() {
                    break;
                }
                for report in batch {
                    screen.report(&report);
                }
            }
        }
    }
    screen.finish();
}

/// Ends when the [`Paused`] of `resume` is dropped; never if there is none.
async fn released(resume: &mut Option<oneshot::Receiver<()>>) {
    match resume {
        Some(dropped) => {
            let _ = dropped.await;
        }
        None => std::future::pending().await,
    }
}

/// Where lines go. A reader that went away (`| head`) must not end a deployment: after the first error nothing is
/// written any more.
struct Out {
    writer: Option<Box<dyn Write + Send>>,
    buffer: Vec<u8>,
}

/// Bytes buffered before they are written without waiting for the next tick.
const FLUSH_AT: usize = 64 * 1024;

impl Out {
    fn new(writer: Box<dyn Write + Send>) -> Self {
        Self { writer: Some(writer), buffer: Vec::new() }
    }

    fn line(&mut self, line: &str) {
        self.buffer.extend_from_slice(line.as_bytes());
        self.buffer.push(b'\n');
        if self.buffer.len() >= FLUSH_AT {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if let Some(writer) = &mut self.writer
            && !self.buffer.is_empty()
            && writer.write_all(&self.buffer).and_then(|()| writer.flush()).is_err()
        {
            self.writer = None;
        }
        self.buffer.clear();
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        self.flush();
    }
}
