//! What is in a journal's blocks once they are decompressed: entries, each a byte for its kind, its length, and itself.
//!
//! All but a few kinds of record are JSON, which names what it holds: a field or a variant that was added since is no
//! obstacle to reading (a field that old journals lack needs `#[serde(default)]`; `golden` holds that). Lines of output
//! are nearly all of a journal, so they have a form of their own, in columns: numbers as differences from the ones
//! before, then the text as it was printed, which is what compresses best. Numbers are LEB128, signed ones zigzag.
//!
//! | kind | content |
//! |---|---|
//! | 0 | a [`Record`] in JSON |
//! | 1 | count; a byte with a bit for each column that is not all zeros, from the lowest; columns; text with newlines |
//! | 2 | bytes sent and received so far, as differences |
//! | 3 | the state at the beginning of a stream, in JSON: [`super::Digested`] |
//!
//! The columns: seq less one, uptime (ms), clock less uptime (ms), time told less clock (ms), source.

use anemos_proto::event::{Event, EventKind, Stream};

use super::{Record, by_mac};
use crate::report::{Speaker, Update};

/// A line that took longer or shorter to arrive than the one before, by less than so many milliseconds, is written down
/// as having taken as long. When it was printed is exact.
const ALIKE_MS: u64 = 100;

const JSON: u8 = 0;
const LINES: u8 = 1;
const COUNTED: u8 = 2;
const STATE: u8 = 3;

/// The sources of lines, by their number in a journal.
const SOURCES: [(Speaker, Stream); 6] = [
    (Speaker::Agent, Stream::Stdout),
    (Speaker::Agent, Stream::Stderr),
    (Speaker::Agent, Stream::Kernel),
    (Speaker::Stage, Stream::Stdout),
    (Speaker::Stage, Stream::Stderr),
    (Speaker::Stage, Stream::Kernel),
];

/// What differences are counted from. Both sides begin each stream with zeros.
#[derive(Debug, Clone, Copy, Default)]
pub struct Before {
    seq: u64,
    uptime_ms: u64,
    /// The host's clock less its uptime.
    clock: u64,
    /// The workstation's clock when a line was told, less the host's when it was printed.
    lag: u64,
    source: u64,
    sent: u64,
    received: u64,
}

/// An entry that was read.
#[derive(Debug)]
pub enum Entry {
    /// A record.
    Record(Record),
    /// The state at the beginning of a stream, in JSON.
    State(Vec<u8>),
    /// Something that another version of Anemos wrote and this one does not know.
    Unknown,
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The difference of two numbers, small if they are near each other. Wraps, so that every number has one.
fn put_difference(out: &mut Vec<u8>, before: &mut u64, now: u64) {
    let difference = now.wrapping_sub(*before).cast_signed();
    put(out, ((difference << 1) ^ (difference >> 63)).cast_unsigned());
    *before = now;
}

fn get(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn get_difference(bytes: &mut &[u8], before: &mut u64) -> Option<u64> {
    let value = get(bytes)?;
    let difference = (value >> 1) ^ (value & 1).wrapping_neg();
    *before = before.wrapping_add(difference);
    Some(*before)
}

/// Lines that follow one another.
#[derive(Debug, Default)]
struct Lines {
    count: u64,
    columns: [Vec<u8>; 5],
    text: Vec<u8>,
}

/// Turns records into entries.
#[derive(Debug, Default)]
pub struct Writer {
    out: Vec<u8>,
    lines: Lines,
    before: Before,
}

impl Writer {
    /// Bytes that wait to be taken, about.
    pub fn len(&self) -> usize {
        self.out.len() + self.lines.text.len()
    }

    /// Forgets what was before: a new stream begins.
    pub fn begin(&mut self) {
        self.before = Before::default();
    }

    /// Adds a record. The error is serde's; no record of ours has one.
    pub fn record(&mut self, record: &Record) -> Result<(), serde_json::Error> {
        match record {
            Record::Told { wall_ms, update: Update::Event(speaker, event) } if self.line(*wall_ms, *speaker, event) => {
            }
            Record::Counted { sent, received } => {
                self.close_lines();
                let mut content = Vec::new();
                put_difference(&mut content, &mut self.before.sent, *sent);
                put_difference(&mut content, &mut self.before.received, *received);
                self.entry(COUNTED, &content);
            }
            _ => {
                let content = serde_json::to_vec(record)?;
                self.close_lines();
                self.entry(JSON, &content);
            }
        }
        Ok(())
    }

    /// Adds the state, in JSON.
    pub fn state(&mut self, json: &[u8]) {
        self.close_lines();
        self.entry(STATE, json);
    }

    /// Adds a line, if it is one that has this form.
    fn line(&mut self, told_ms: u64, speaker: Speaker, event: &Event) -> bool {
        let EventKind::Log { stream, line } = &event.kind else { return false };
        let Some(source) = SOURCES.iter().position(|source| *source == (speaker, *stream)) else { return false };
        if line.contains(&b'\n') {
            return false;
        }
        let mut lag = told_ms.wrapping_sub(event.wall_ms);
        if lag.wrapping_sub(self.before.lag).wrapping_add(ALIKE_MS) < 2 * ALIKE_MS {
            lag = self.before.lag;
        }
        let clock = event.wall_ms.wrapping_sub(event.uptime_ms);
        let Before { seq, uptime_ms, clock: clock_before, lag: lag_before, source: source_before, .. } =
            &mut self.before;
        *seq = seq.wrapping_add(1);
        let columns = [
            (seq, event.seq),
            (uptime_ms, event.uptime_ms),
            (clock_before, clock),
            (lag_before, lag),
            (source_before, source as u64),
        ];
        for ((before, now), column) in columns.into_iter().zip(&mut self.lines.columns) {
            put_difference(column, before, now);
        }
        self.lines.text.extend_from_slice(line);
        self.lines.text.push(b'\n');
        self.lines.count += 1;
        true
    }

    fn close_lines(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        if lines.count > 0 {
            let mut content = Vec::with_capacity(lines.text.len() + 8 * lines.count as usize);
            put(&mut content, lines.count);
            let present: Vec<bool> = lines.columns.iter().map(|column| column.iter().any(|byte| *byte != 0)).collect();
            content.push(present.iter().rev().fold(0, |bits, present| bits << 1 | u8::from(*present)));
            for (column, _) in lines.columns.iter().zip(present).filter(|(_, present)| *present) {
                content.extend_from_slice(column);
            }
            content.extend_from_slice(&lines.text);
            self.entry(LINES, &content);
        }
    }

    fn entry(&mut self, kind: u8, content: &[u8]) {
        self.out.push(kind);
        put(&mut self.out, content.len() as u64);
        self.out.extend_from_slice(content);
    }

    /// The entries so far.
    pub fn take(&mut self) -> Vec<u8> {
        self.close_lines();
        std::mem::take(&mut self.out)
    }
}

/// Reads entries, all of `bytes`. `None` if they are none.
pub fn read(mut bytes: &[u8], before: &mut Before, sink: &mut dyn FnMut(Entry)) -> Option<()> {
    while let Some((kind, rest)) = bytes.split_first() {
        bytes = rest;
        let length = usize::try_from(get(&mut bytes)?).ok()?;
        let mut content = bytes.get(..length)?;
        bytes = &bytes[length..];
        match *kind {
            JSON => sink(record(content).map_or(Entry::Unknown, Entry::Record)),
            LINES => read_lines(content, before, sink)?,
            COUNTED => {
                let sent = get_difference(&mut content, &mut before.sent)?;
                let received = get_difference(&mut content, &mut before.received)?;
                sink(Entry::Record(Record::Counted { sent, received }));
            }
            STATE => sink(Entry::State(content.to_vec())),
            _ => sink(Entry::Unknown),
        }
    }
    Some(())
}

/// A record in JSON, of this build or of one before it.
fn record(json: &[u8]) -> Option<Record> {
    serde_json::from_slice(json).ok().or_else(|| {
        let mut value = serde_json::from_slice(json).ok()?;
        by_mac::give_ids(&mut value)?;
        serde_json::from_value(value).ok()
    })
}

fn read_lines(mut content: &[u8], before: &mut Before, sink: &mut dyn FnMut(Entry)) -> Option<()> {
    let count = usize::try_from(get(&mut content)?).ok().filter(|count| *count <= content.len())?;
    let (present, rest) = content.split_first()?;
    content = rest;
    // Where each column begins, and then the text: they are read beside each other, since as lists of numbers they
    // could be many times as large as what they are read from.
    let mut columns = [None; 5];
    for (at, column) in columns.iter_mut().enumerate() {
        if present >> at & 1 == 1 {
            *column = Some(content);
            for _ in 0..count {
                get(&mut content)?;
            }
        }
    }
    let mut lines = content.split(|byte| *byte == b'\n');
    for _ in 0..count {
        // One after another is what seqs do.
        before.seq = before.seq.wrapping_add(1);
        let Before { seq, uptime_ms, clock, lag, source, .. } = before;
        for (before, column) in [seq, uptime_ms, clock, lag, source].into_iter().zip(&mut columns) {
            if let Some(column) = column {
                get_difference(column, before)?;
            }
        }
        let Before { seq, uptime_ms, clock, lag, source, .. } = *before;
        let (speaker, stream) = *SOURCES.get(usize::try_from(source).ok()?)?;
        let kind = EventKind::Log { stream, line: lines.next()?.to_vec() };
        let printed = clock.wrapping_add(uptime_ms);
        let event = Event { seq, uptime_ms, wall_ms: printed, kind };
        let wall_ms = lag.wrapping_add(printed);
        sink(Entry::Record(Record::Told { wall_ms, update: Update::Event(speaker, event) }));
    }
    // After the last line's newline there is nothing.
    (lines.next() == Some(&[]) && lines.next().is_none()).then_some(())
}
