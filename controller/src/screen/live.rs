//! The live screen: lines that stay scroll away above, one line a host is redrawn below. indicatif keeps the two apart.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anemos_proto::event::{EventKind, Level};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};
use rustix::termios::tcgetwinsize;

use super::diagnostics::Holding;
use super::frame::{View, frame};
use super::plain::{answered_text, decided_text, event_text, gravity, level_text, wished_text};
use super::state::{HostState, Hosts};
use super::text::{Paint, duration, log_line, sanitise_str, width};
use super::{Show, plan, table};
use crate::plan::Plan;
use crate::report::{Ending, Report, Summary, Update};

/// Lines that may wait for the next drawing. More than that nobody can read: the oldest are counted, not shown.
const WAITING: usize = 500;

/// The same in bytes.
const WAITING_BYTES: usize = 1 << 20;

/// Log lines of a host that ended otherwise than deployed.
const LAST_WORDS: usize = 10;

/// Columns and rows of the terminal.
type Size = Box<dyn Fn() -> (u16, u16) + Send>;

/// What is shown on a terminal.
pub(super) struct LiveScreen {
    hosts: Hosts,
    tty: Tty,
    size: Size,
    paint: Paint,
    unicode: bool,
    bar: Option<ProgressBar>,
    /// Columns that each line of the last frame took.
    drawn: Vec<usize>,
    waiting: VecDeque<String>,
    waiting_bytes: usize,
    unseen: usize,
    paused: bool,
    /// What the terminal's title is, if that is told at all.
    title: Option<String>,
    /// Holds back the diagnostics, which would write over the rows; none in tests.
    diagnostics: Option<Holding>,
}

impl LiveScreen {
    pub(super) fn on_stderr(hosts: &[String]) -> Self {
        let size = || {
            let size = tcgetwinsize(io::stderr()).ok();
            size.filter(|s| s.ws_col > 0 && s.ws_row > 0).map_or((80, 24), |s| (s.ws_col, s.ws_row))
        };
        let screen = Self::new(hosts, Box::new(io::stderr()), Box::new(size), Paint::pick(true), utf8_locale());
        let title = super::wishes().title.then(String::new);
        Self { diagnostics: Some(Holding::new()), title, ..screen }
    }

    /// Has the terminal's title say how far the hosts are. What was the title before comes back at the end, where the
    /// terminal keeps it.
    #[cfg(test)]
    pub(super) fn titled(self) -> Self {
        Self { title: Some(String::new()), ..self }
    }

    pub(super) fn new(hosts: &[String], out: Box<dyn Write + Send>, size: Size, paint: Paint, unicode: bool) -> Self {
        let tty = Tty::new(out, size());
        Self {
            hosts: Hosts::new(hosts),
            tty,
            size,
            paint,
            unicode,
            bar: None,
            drawn: Vec::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            unseen: 0,
            paused: false,
            title: None,
            diagnostics: None,
        }
    }

    fn single(&self) -> bool {
        self.hosts.all().len() == 1
    }

    fn say(&mut self, line: String) {
        self.waiting_bytes += line.len();
        self.waiting.push_back(line);
        while self.waiting.len() > WAITING || (self.waiting_bytes > WAITING_BYTES && self.waiting.len() > 1) {
            let line = self.waiting.pop_front();
            self.waiting_bytes -= line.map_or(0, |line| line.len());
            self.unseen += 1;
        }
    }

    /// Says what of a report stays on the terminal when the rows have gone. Called before the host's state changes.
    fn scroll(&mut self, report: &Report) {
        let single = self.single();
        let paint = self.paint;
        let host = self.hosts.get(&report.host);
        let text = match &report.update {
            Update::PhaseFinished(phase, seconds) if single => {
                Some(format!("{} {}", paint.green(phase.name()), paint.dim(&duration(*seconds))))
            }
            Update::Message(level, text) if single || *level > Level::Info => {
                Some(paint_level(paint, *level, &level_text(*level, text)))
            }
            Update::LinkLost(why) if single => {
                Some(paint.yellow(&format!("connection lost: {}; trying again", sanitise_str(why))))
            }
            Update::LinkBack if single => Some("connected again".to_owned()),
            Update::Wished(wished) => Some(paint.yellow(&wished_text(wished))),
            Update::Decided { author, approved } if single => Some(decided_text(author, *approved)),
            Update::Answered { refused, .. } => Some(paint.yellow(&answered_text(refused.as_deref()))),
            Update::Event(_, event) if stays(&event.kind, single) => match &event.kind {
                EventKind::Log { stream, line } => Some(paint.dim(&log_line(*stream, line))),
                kind => {
                    let Update::Event(speaker, _) = report.update else { return };
                    let text = event_text(host, speaker, kind, report.wall_ms);
                    Some(match gravity(kind) {
                        Level::Info => text,
                        level => paint_level(paint, level, &text),
                    })
                }
            },
            _ => None,
        };
        let name = host.name.clone();
        if let Some(text) = text {
            self.say(if single { text } else { format!("{}  {text}", paint.bold(&name)) });
        }
    }

    /// The last words of a host that has ended.
    fn farewell(&mut self, name: &str) {
        if self.single() {
            // The summary at the end says how a single host ended, and its log has scrolled by already.
            return;
        }
        let paint = self.paint;
        let host = self.hosts.get(name);
        let Some(summary) = &host.summary else { return };
        let text = format!("{}: {} ({})", summary.outcome, summary.reason, duration(summary.total_seconds));
        let text = match summary.outcome {
            Ending::Deployed => paint.green(&text),
            Ending::Untouched => paint.yellow(&text),
            Ending::Held => paint.red(&text),
        };
        let mut lines = vec![format!("{}  {text}", paint.bold(&host.name))];
        if summary.outcome != Ending::Deployed {
            let skipped = host.tail.len().saturating_sub(LAST_WORDS);
            lines.extend(host.tail.iter().skip(skipped).map(|line| paint.dim(&format!("{} | {line}", host.name))));
        }
        for line in lines {
            self.say(line);
        }
    }

    fn draw(&mut self, now_ms: u64) {
        if self.paused {
            return;
        }
        for line in self.diagnostics.as_ref().map(Holding::take).unwrap_or_default() {
            self.say(self.paint.dim(&sanitise_str(&line)));
        }
        self.follow_resize();
        let (columns, rows) = self.tty.size();
        // The terminal echoes Ctrl-C as `^C` behind the last row, which must not make it wrap.
        let columns = usize::from(columns).saturating_sub(2).max(1);
        let view = View { columns, rows: rows.into(), paint: self.paint, unicode: self.unicode };
        let lines = frame(self.hosts.all(), now_ms, view);
        let bar = self.bar.get_or_insert_with(|| new_bar(&self.tty));
        if !self.waiting.is_empty() {
            let mut text = String::new();
            if self.unseen > 0 {
                let unseen = format!("… {} lines too fast to show; `anemos logs` has them", self.unseen);
                text = format!("{}\n", self.paint.dim(&unseen));
                self.unseen = 0;
            }
            self.waiting_bytes = 0;
            for line in self.waiting.drain(..) {
                text.push_str(&line);
                text.push('\n');
            }
            bar.println(text);
        }
        if let Some(before) = &mut self.title {
            let title = title(self.hosts.all());
            if *before != title {
                let keep = if before.is_empty() { KEEP_TITLE } else { "" };
                self.tty.aside(&format!("{keep}\x1b]2;{title}\x07"));
                *before = title;
            }
        }
        self.drawn = lines.iter().map(|line| width(&sanitise_str(line))).collect();
        bar.set_message(lines.join("\n"));
        self.tty.show();
    }

    /// A terminal that changes its width wraps the frame anew, and the rows that indicatif would clear are not the
    /// frame's any more. So this erases the rows that the frame takes at the new width, and begins a new frame.
    fn follow_resize(&mut self) {
        let now = (self.size)();
        let before = self.tty.size();
        if now == before {
            return;
        }
        if let Some(bar) = self.bar.take() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
            let columns = usize::from(now.0).max(1);
            let wrapped: usize = self.drawn.iter().map(|line| line.div_ceil(columns).max(1)).sum();
            self.tty.erase(wrapped.min(usize::from(now.1)));
        }
        self.tty.resize(now);
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.tty.end_line();
        self.tty.show();
    }
}

impl Show for LiveScreen {
    fn report(&mut self, report: &Report) {
        self.scroll(report);
        self.hosts.get(&report.host).apply(report);
        if let Update::Summary(_) = report.update {
            self.farewell(&report.host);
        }
    }

    fn tick(&mut self, now_ms: u64) {
        self.draw(now_ms);
    }

    fn plans(&mut self, plans: &[Arc<Plan>], order: Option<&str>, now_ms: u64) {
        self.draw(now_ms);
        self.clear();
        let columns = usize::from(self.tty.size().0);
        self.tty.lines(&plan::render(plans, order, self.paint, Some(columns)));
        self.tty.show();
    }

    fn pause(&mut self) {
        self.draw(super::text::now_ms());
        self.clear();
        self.paused = true;
    }

    fn resume(&mut self) {
        self.paused = false;
    }

    fn finish(&mut self, now_ms: u64) {
        self.paused = false;
        self.draw(now_ms);
        self.clear();
        let summaries: Vec<&Summary> = self.hosts.all().iter().filter_map(|host| host.summary.as_ref()).collect();
        if !summaries.is_empty() {
            let columns = usize::from(self.tty.size().0);
            self.tty.lines(&format!("\n{}", table::summaries(&summaries, self.paint, Some(columns))));
        }
        if self.title.take().is_some_and(|title| !title.is_empty()) {
            self.tty.aside(OLD_TITLE);
        }
        self.tty.show();
    }
}

/// Puts the title on xterm's stack, as most terminals have one.
const KEEP_TITLE: &str = "\x1b[22;2t";

/// Takes it from there.
const OLD_TITLE: &str = "\x1b[23;2t";

/// How far the hosts are, for a window's title: nothing that a host says is in it.
fn title(hosts: &[HostState]) -> String {
    let count = |ending| {
        let ended = |host: &&HostState| host.summary.as_ref().is_some_and(|summary| summary.outcome == ending);
        hosts.iter().filter(ended).count()
    };
    let counts = [(Ending::Held, "held"), (Ending::Untouched, "untouched"), (Ending::Deployed, "deployed")];
    let ended = counts.map(|(ending, word)| (count(ending), word));
    let ended = ended.into_iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!(", {count} {word}"));
    format!("anemos: {} host{}{}", hosts.len(), if hosts.len() == 1 { "" } else { "s" }, ended.collect::<String>())
}

/// Whether an event is worth a line that stays.
fn stays(kind: &EventKind, single: bool) -> bool {
    gravity(kind) > Level::Info
        || single
            && matches!(
                kind,
                EventKind::StepFinished { .. }
                    | EventKind::Log { .. }
                    | EventKind::Note { .. }
                    | EventKind::Attempt(2..)
                    | EventKind::Outcome(_)
            )
}

fn paint_level(paint: Paint, level: Level, text: &str) -> String {
    match level {
        Level::Info => text.to_owned(),
        Level::Warning => paint.yellow(text),
        Level::Error => paint.red(text),
    }
}

/// Whether the locale says that the terminal shows UTF-8.
fn utf8_locale() -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    locale.is_some_and(|locale| {
        let locale = locale.to_ascii_lowercase();
        locale.ends_with("utf-8") || locale.ends_with("utf8")
    })
}

/// One bar whose message is the whole frame: it is drawn in one go, and with as many lines as it has.
fn new_bar(tty: &Tty) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::term_like(Box::new(tty.clone())));
    let style = ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
    bar.set_style(style);
    bar
}

/// The terminal as indicatif sees it.
///
/// indicatif fills each line with blanks up to the right edge and lets the terminal wrap. A terminal then takes frame
/// and log for one endless line: it reflows all of it on a resize, and copies it as one. So here the filling becomes a
/// line break, written when the next line comes. Everything is held back until [`Tty::show`]: one write a drawing.
#[derive(Clone)]
struct Tty(Arc<Mutex<TtyState>>);

struct TtyState {
    /// `None` after an error: a terminal that went away must not end a deployment.
    out: Option<Box<dyn Write + Send>>,
    buffer: Vec<u8>,
    size: (u16, u16),
    /// The next string that indicatif writes is the filling of the line just written.
    filling: bool,
    /// The cursor is at the end of a line that is complete.
    break_due: bool,
}

impl TtyState {
    fn put(&mut self, text: &str) {
        if std::mem::take(&mut self.break_due) {
            self.buffer.extend_from_slice(b"\r\n");
        }
        self.buffer.extend_from_slice(text.as_bytes());
    }

    fn control(&mut self, text: &str) {
        self.filling = false;
        self.buffer.extend_from_slice(text.as_bytes());
    }
}

impl Tty {
    fn new(out: Box<dyn Write + Send>, size: (u16, u16)) -> Self {
        let out = Some(out);
        Self(Arc::new(Mutex::new(TtyState { out, buffer: Vec::new(), size, filling: false, break_due: false })))
    }

    fn state(&self) -> MutexGuard<'_, TtyState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn size(&self) -> (u16, u16) {
        self.state().size
    }

    fn resize(&self, size: (u16, u16)) {
        self.state().size = size;
    }

    /// Takes away the last `rows` rows, the cursor being in the last of them.
    fn erase(&self, rows: usize) {
        let mut state = self.state();
        if rows > 1 {
            state.control(&format!("\x1b[{}A", rows - 1));
        }
        state.control("\r\x1b[J");
        state.break_due = false;
    }

    /// What moves no cursor.
    fn aside(&self, text: &str) {
        self.state().buffer.extend_from_slice(text.as_bytes());
    }

    fn end_line(&self) {
        self.state().put("");
    }

    fn lines(&self, text: &str) {
        let mut state = self.state();
        for line in text.lines() {
            state.put(line);
            state.break_due = true;
        }
        state.put("");
    }

    fn show(&self) {
        let mut state = self.state();
        let buffer = std::mem::take(&mut state.buffer);
        if let Some(out) = &mut state.out
            && !buffer.is_empty()
            && out.write_all(&buffer).and_then(|()| out.flush()).is_err()
        {
            state.out = None;
        }
    }
}

impl fmt::Debug for Tty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tty").finish_non_exhaustive()
    }
}

impl TermLike for Tty {
    fn width(&self) -> u16 {
        self.size().0
    }

    fn height(&self) -> u16 {
        self.size().1
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        if n > 0 {
            self.state().control(&format!("\x1b[{n}A"));
        }
        Ok(())
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        if n > 0 {
            self.state().control(&format!("\x1b[{n}B"));
        }
        Ok(())
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        if n > 0 {
            self.state().control(&format!("\x1b[{n}C"));
        }
        Ok(())
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        if n > 0 {
            self.state().control(&format!("\x1b[{n}D"));
        }
        Ok(())
    }

    fn write_line(&self, line: &str) -> io::Result<()> {
        let mut state = self.state();
        state.put(line);
        state.filling = false;
        state.break_due = true;
        Ok(())
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        let mut state = self.state();
        if state.filling {
            state.break_due = true;
        } else {
            state.put(text);
        }
        state.filling = !state.filling;
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        let mut state = self.state();
        state.control("\r\x1b[2K");
        state.break_due = false;
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.state().filling = false;
        Ok(())
    }
}
