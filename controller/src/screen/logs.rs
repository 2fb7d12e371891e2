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
pub fn write(out: &mut impl Write, reports: impl IntoIterator<Item = Report>, wanted: Wanted) -> io::Result<()> {
    let mut lines = PlainLines::new(&[]);
    for report in reports {
        if wanted == Wanted::Everything {
            if let Some(line) = lines.line(&report) {
                writeln!(out, "{line}")?;
            }
            continue;
        }
        let Update::Event(_, event) = &report.update else { continue };
        match &event.kind {
            EventKind::Log { line, .. } if wanted == Wanted::RawOutput => {
                out.write_all(line)?;
                out.write_all(b"\n")?;
            }
            EventKind::Log { stream, line } => writeln!(out, "{}", log_line(*stream, line))?,
            EventKind::Gap { first, last, bytes: lost } => {
                writeln!(out, "[{}, events {first} to {last}, were dropped on the host]", bytes(*lost))?;
            }
            _ => {}
        }
    }
    out.flush()
}
