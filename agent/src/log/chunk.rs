//! A run of consecutive facts, compressed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anemos_proto::codec::{FrameReader, encode_frame};
use anemos_proto::event::{Event, EventKind};

/// About how many bytes of memory a tmpfs file takes besides its pages.
const INODE: u64 = 1024;
const PAGE: u64 = 4096;

/// What was left in a chunk when it was thinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Keep {
    /// Everything.
    All,
    /// Everything but log lines.
    Structure,
    /// Only what tells how the deployment ended; no steps and no notes.
    Essence,
}

/// Facts `first..=last`.
#[derive(Debug)]
pub struct Chunk {
    pub first: u64,
    pub last: u64,
    /// Bytes before compression.
    pub raw: u64,
    pub keep: Keep,
    /// Whether it is known to have nothing but lines of output.
    pub only_lines: bool,
    path: PathBuf,
    /// The compressed bytes, where they could not be written to the file.
    memory: Option<Vec<u8>>,
    length: u64,
}

impl Chunk {
    /// Compresses `frames` into a file under `dir`, or into memory if the file can't be written.
    pub fn store(dir: &Path, first: u64, last: u64, frames: &[u8]) -> Self {
        let path = dir.join(format!("{first:020}-{last:020}.zst"));
        // Compression into memory fails only if no memory is left.
        let bytes = zstd::bulk::compress(frames, 3).unwrap_or_else(|e| panic!("can't compress the log: {e}"));
        let length = bytes.len() as u64;
        let partial = path.with_extension("new");
        let memory = match fs::write(&partial, &bytes).and_then(|()| fs::rename(&partial, &path)) {
            Ok(()) => None,
            Err(_) => Some(bytes),
        };
        Self { first, last, raw: frames.len() as u64, keep: Keep::All, only_lines: false, path, memory, length }
    }

    /// First and last of the facts in the file at `path`, by its name. `None`: it is no chunk's.
    pub fn range_of(path: &Path) -> Option<(u64, u64)> {
        let (first, last) = path.file_name()?.to_str()?.strip_suffix(".zst")?.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?))
    }

    /// A chunk that has nothing but the gap that stands for the facts `first..=last`.
    pub fn missing(dir: &Path, first: u64, last: u64) -> Self {
        Self::store(dir, first, last, &frames(&[gap(first, last, 0)]))
    }

    /// Takes over a chunk that an earlier agent stored.
    pub fn load(path: PathBuf) -> io::Result<(Self, Vec<Event>)> {
        let bytes = fs::read(&path)?;
        let frames = zstd::stream::decode_all(&bytes[..])?;
        let events = parse(&frames)?;
        let (Some(head), Some(tail)) = (events.first(), events.last()) else {
            return Err(io::Error::other(format!("{} has no events", path.display())));
        };
        let first = if let EventKind::Gap { first, .. } = head.kind { first } else { head.seq };
        let (last, raw, length) = (tail.seq, frames.len() as u64, bytes.len() as u64);
        let only_lines = events.iter().all(|event| is_line(&event.kind));
        Ok((Self { first, last, raw, keep: Keep::All, only_lines, path, memory: None, length }, events))
    }

    /// Bytes of memory that the chunk takes, as a file in tmpfs.
    pub fn stored(&self) -> u64 {
        self.length.div_ceil(PAGE) * PAGE + INODE
    }

    /// Reads the chunk's facts.
    pub fn read(&self) -> io::Result<Vec<Event>> {
        let frames = match &self.memory {
            Some(bytes) => zstd::stream::decode_all(&bytes[..])?,
            None => zstd::stream::decode_all(fs::File::open(&self.path)?)?,
        };
        parse(&frames)
    }

    /// The gap that stands for all facts of this chunk when it can't be read.
    pub fn as_gap(&self) -> Event {
        gap(self.first, self.last, self.raw)
    }

    /// Deletes the chunk's file.
    pub fn remove(&self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether it is a line of output.
pub fn is_line(kind: &EventKind) -> bool {
    matches!(kind, EventKind::Log { .. })
}

/// The gap that stands for the facts `first..=last`, which were `bytes` long.
pub fn gap(first: u64, last: u64, bytes: u64) -> Event {
    let kind = EventKind::Gap { first, last, bytes };
    Event { seq: last, uptime_ms: crate::clock::uptime_ms(), wall_ms: crate::clock::wall_ms(), kind }
}

/// Facts as frames.
pub fn frames(events: &[Event]) -> Vec<u8> {
    // Facts hold lines of at most 16 KiB, and notes of our own, so they are far below the limit of a frame. A fact that
    // exceeds the limit nevertheless becomes a gap.
    let frame = |event: &Event| {
        encode_frame(event).or_else(|_| {
            let kind =
                EventKind::Gap { first: event.seq, last: event.seq, bytes: anemos_proto::codec::MAX_FRAME as u64 };
            encode_frame(&Event { kind, ..*event })
        })
    };
    events.iter().filter_map(|event| frame(event).ok()).flatten().collect()
}

/// All facts in `bytes`.
pub fn parse(bytes: &[u8]) -> io::Result<Vec<Event>> {
    let mut reader = FrameReader::new();
    reader.push(bytes);
    let mut events = Vec::new();
    while let Some(event) = reader.next_frame().map_err(io::Error::other)? {
        events.push(event);
    }
    Ok(events)
}

/// The facts in `bytes` up to the first that is cut off or damaged, as a crash may leave it.
pub fn parse_tail(bytes: &[u8]) -> Vec<Event> {
    let mut reader = FrameReader::new();
    reader.push(bytes);
    let mut events = Vec::new();
    while let Ok(Some(event)) = reader.next_frame() {
        events.push(event);
    }
    events
}

/// Replaces every fact that `keep` doesn't keep by a gap, and joins neighbouring gaps.
pub fn thin(events: Vec<Event>, keep: Keep) -> Vec<Event> {
    let mut kept: Vec<Event> = Vec::new();
    for event in events {
        let (first, last, bytes) = match event.kind {
            EventKind::Gap { first, last, bytes } => (first, last, bytes),
            ref kind if kept_by(kind, keep) => {
                kept.push(event);
                continue;
            }
            _ => (event.seq, event.seq, frames(std::slice::from_ref(&event)).len() as u64),
        };
        if let Some(previous) = kept.last_mut()
            && let EventKind::Gap { last: end, bytes: sum, .. } = &mut previous.kind
        {
            *end = last;
            *sum = sum.saturating_add(bytes);
            (previous.seq, previous.uptime_ms, previous.wall_ms) = (last, event.uptime_ms, event.wall_ms);
        } else {
            kept.push(Event { seq: last, kind: EventKind::Gap { first, last, bytes }, ..event });
        }
    }
    kept
}

fn kept_by(kind: &EventKind, keep: Keep) -> bool {
    match kind {
        EventKind::Log { .. } => keep == Keep::All,
        EventKind::StepStarted { .. } | EventKind::StepFinished { .. } | EventKind::Note { .. } => {
            keep <= Keep::Structure
        }
        _ => true,
    }
}
