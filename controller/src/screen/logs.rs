//! The logs of hosts, from their journals.

use std::collections::VecDeque;
use std::io::Write;

use anemos_proto::event::EventKind;

use super::plain::PlainLines;
use super::text::{bytes, log_line, sanitise_str};
use crate::report::{Report, Update};

/// How much of a log is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Every fact, as the plain screen shows it.
    Everything,
    /// What payload and kernel wrote, made harmless for terminals.
    Output,
    /// The same, byte by byte as it came.
    RawOutput,
}

/// Writes logs. What a host had to drop is never passed over in silence.
pub struct LogWriter<W> {
    out: W,
    wanted: Wanted,
    lines: PlainLines,
    /// Each line begins with the name of its host.
    named: bool,
    /// Only what was told since: milliseconds since the Unix epoch.
    since_ms: u64,
    /// Of the lines so far the last, and how many of them are held until [`LogWriter::release`].
    held: Option<(VecDeque<Vec<u8>>, usize)>,
    /// The reader has gone, which is no error.
    gone: bool,
}

impl<W: Write> LogWriter<W> {
    /// Writes to `out`; of `hosts` hosts, and only what was told since.
    pub fn new(out: W, wanted: Wanted, hosts: usize, since_ms: u64) -> Self {
        Self { out, wanted, lines: PlainLines::new(&[]), named: hosts > 1, since_ms, held: None, gone: false }
    }

    /// With times of this machine's zone instead of UTC.
    pub fn local(self) -> Self {
        Self { lines: self.lines.local(), ..self }
    }

    /// Holds what is written until [`LogWriter::release`], and of that only the last lines.
    pub fn hold(&mut self, last: usize) {
        self.held = Some((VecDeque::new(), last));
    }

    /// Writes what was held, and from now on everything at once.
    pub fn release(&mut self) {
        for line in self.held.take().into_iter().flat_map(|(lines, _)| lines) {
            self.gone |= self.out.write_all(&line).is_err();
        }
    }

    /// Whether nobody reads any more.
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    /// Writes what is wanted of a report.
    pub fn write(&mut self, report: &Report) {
        // What is not shown may say what a line means that is.
        let Some(line) = self.line(report).filter(|_| report.wall_ms >= self.since_ms && !self.gone) else { return };
        match &mut self.held {
            Some((lines, last)) => {
                lines.push_back(line);
                if lines.len() > *last {
                    lines.pop_front();
                }
            }
            None => self.gone = self.out.write_all(&line).is_err(),
        }
    }

    /// The line of a report, with its end.
    fn line(&mut self, report: &Report) -> Option<Vec<u8>> {
        if self.wanted == Wanted::Everything {
            return self.lines.line(report).map(|line| (line + "\n").into_bytes());
        }
        let Update::Event(_, event) = &report.update else { return None };
        let text = match &event.kind {
            EventKind::Log { line, .. } if self.wanted == Wanted::RawOutput => line.clone(),
            EventKind::Log { stream, line } => log_line(*stream, line).into_bytes(),
            EventKind::Gap { first, last, bytes: lost } => {
                format!("[{}, events {first} to {last}, were dropped on the host]", bytes(*lost)).into_bytes()
            }
            _ => return None,
        };
        let name = if self.named { format!("{} | ", sanitise_str(&report.host)) } else { String::new() };
        Some([name.as_bytes(), &text, b"\n"].concat())
    }

    /// Writes what is buffered.
    pub fn flush(&mut self) {
        self.gone |= self.out.flush().is_err();
    }

    /// Writes what is held and buffered.
    pub fn finish(mut self) {
        self.release();
        self.flush();
    }
}
