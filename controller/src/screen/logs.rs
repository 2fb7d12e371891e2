//! The log of one host, from the journal.

use std::io::{self, Write};

use anemos_proto::event::EventKind;

use super::plain::PlainLines;
use super::text::sanitise;
use crate::report::{Report, Update};

/// How much of a log is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Every fact, as the plain screen shows it.
    Everything,
    /// What payload and kernel wrote, and nothing else.
    Output,
}

/// Writes a log. To a terminal, output is made harmless; into a pipe or file its bytes go as they came.
pub fn write(
    out: &mut impl Write,
    reports: impl IntoIterator<Item = Report>,
    wanted: Wanted,
    terminal: bool,
) -> io::Result<()> {
    let mut lines = PlainLines::new(&[]);
    for report in reports {
        match (wanted, output(&report)) {
            (Wanted::Output, None) => {}
            (Wanted::Output, Some(line)) if terminal => writeln!(out, "{}", sanitise(line))?,
            (Wanted::Output, Some(line)) => {
                out.write_all(line)?;
                out.write_all(b"\n")?;
            }
            (Wanted::Everything, _) => {
                if let Some(line) = lines.line(&report) {
                    writeln!(out, "{line}")?;
                }
            }
        }
    }
    out.flush()
}

fn output(report: &Report) -> Option<&[u8]> {
    match &report.update {
        Update::Event(_, event) => match &event.kind {
            EventKind::Log { line, .. } => Some(line),
            _ => None,
        },
        _ => None,
    }
}
