//! The log of one host, from the journal.

use std::io::{self, Write};

use anemos_proto::event::EventKind;

use super::plain::PlainLines;
use super::text::{bytes, log_line};
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

/// Writes a log. What the host had to drop is never passed over in silence.
pub struct LogWriter<W> {
    out: W,
    wanted: Wanted,
    lines: PlainLines,
    /// The reader has gone, which is no error.
    gone: bool,
}

impl<W: Write> LogWriter<W> {
    /// Writes to `out`.
    pub fn new(out: W, wanted: Wanted) -> Self {
        Self { out, wanted, lines: PlainLines::new(&[]), gone: false }
    }

    /// Writes what is wanted of a report.
    pub fn write(&mut self, report: &Report) {
        if !self.gone {
            self.gone = self.try_write(report).is_err();
        }
    }

    fn try_write(&mut self, report: &Report) -> io::Result<()> {
        if self.wanted == Wanted::Everything {
            return match self.lines.line(report) {
                Some(line) => writeln!(self.out, "{line}"),
                None => Ok(()),
            };
        }
        let Update::Event(_, event) = &report.update else { return Ok(()) };
        match &event.kind {
            EventKind::Log { line, .. } if self.wanted == Wanted::RawOutput => {
                self.out.write_all(line)?;
                self.out.write_all(b"\n")
            }
            EventKind::Log { stream, line } => writeln!(self.out, "{}", log_line(*stream, line)),
            EventKind::Gap { first, last, bytes: lost } => {
                writeln!(self.out, "[{}, events {first} to {last}, were dropped on the host]", bytes(*lost))
            }
            _ => Ok(()),
        }
    }

    /// Writes what is buffered.
    pub fn finish(mut self) {
        // That the reader has gone is no error.
        let _ = self.out.flush();
    }
}
