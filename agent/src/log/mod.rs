//! The event log: every fact since the boot, in tmpfs, compressed, so that a controller can come and go.
//!
//! The log collects facts in an open chunk, which it also writes to a file as plain frames, and compresses each full
//! chunk into a file of its own. So an agent that is started again after a crash finds the log there. A reader holds
//! nothing but a cursor, the seq of the last fact that it has seen, so a slow reader holds up nobody.

pub mod chunk;

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anemos_proto::event::{Event, EventKind, Level, Progress, StepOutcome};
use tokio::sync::watch;

use crate::clock;
use chunk::{Chunk, Keep};

/// Bytes of frames that make a chunk full.
const CHUNK: usize = 64 * 1024;

/// The log, shared by all tasks.
pub struct Log {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
}

struct Inner {
    dir: PathBuf,
    chunks: VecDeque<Chunk>,
    /// Frames of the open chunk. `open_file` holds the same bytes, where it could be made and had room.
    open: Vec<u8>,
    open_first: u64,
    /// Whether there are only lines of output among them.
    open_only_lines: bool,
    open_file: Option<File>,
    /// Seq of the newest fact.
    last: u64,
    last_step: u32,
    cap: u64,
    stored: u64,
    progress: BTreeMap<u32, (u64, Progress)>,
    progress_version: u64,
}

/// What a reader has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Seq of the last fact seen.
    pub after: u64,
    /// Version of the last progress seen.
    pub progress: u64,
}

impl Log {
    /// Opens the log in `dir`, with the facts that an earlier agent of this boot left there; a gap stands for those
    /// that can't be read any more. Above `cap` compressed bytes the log drops facts, lines of output first. Where
    /// nothing can be written the log is in memory only.
    pub fn open(dir: &Path, cap: u64) -> Self {
        let _ = fs::create_dir_all(dir);
        let mut files: Vec<(u64, Reverse<u64>, PathBuf)> = Vec::new();
        for path in fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()) {
            if let Some((first, last)) = Chunk::range_of(&path) {
                files.push((first, Reverse(last), path));
            }
        }
        files.sort();
        let mut past = Past { dir, chunks: VecDeque::new(), last: 0, last_step: 0 };
        let named = files.iter().map(|(_, Reverse(last), _)| *last).max().unwrap_or(0);
        for (_, _, path) in files {
            past.take(path);
        }
        let open_path = dir.join("open");
        let left = chunk::parse_tail(&fs::read(&open_path).unwrap_or_default());
        let rest: Vec<Event> = left.into_iter().filter(|event| event.seq > past.last).collect();
        let next = rest.first().map_or(named.max(past.last) + 1, |event| event.seq);
        past.fill_up_to(next);
        let last = rest.last().map_or(past.last, |event| event.seq);
        let mut inner = Inner {
            dir: dir.into(),
            open: chunk::frames(&rest),
            open_first: past.last + 1,
            open_only_lines: rest.iter().all(|event| chunk::is_line(&event.kind)),
            // Truncating the file frees what its facts are written to again.
            open_file: File::create(&open_path).ok(),
            last,
            last_step: past.last_step.max(newest_step(&rest)),
            cap,
            stored: past.chunks.iter().map(Chunk::stored).sum(),
            chunks: past.chunks,
            progress: BTreeMap::new(),
            progress_version: 0,
        };
        inner.save_open(0);
        Self { inner: Mutex::new(inner), changed: watch::Sender::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The lock is never poisoned in a way that matters: a panic ends the agent, and nothing panics while the log is
        // half changed.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a fact; returns its seq.
    pub fn append(&self, kind: EventKind) -> u64 {
        self.append_all([kind])
    }

    /// Appends facts that happened just now; returns the seq of the last.
    pub fn append_all(&self, kinds: impl IntoIterator<Item = EventKind>) -> u64 {
        let (uptime_ms, wall_ms) = (clock::uptime_ms(), clock::wall_ms());
        let mut inner = self.lock();
        let mut unsaved = inner.open.len();
        for kind in kinds {
            if let EventKind::StepFinished { step, .. } = kind {
                inner.progress.remove(&step);
            }
            let event = Event { seq: inner.last + 1, uptime_ms, wall_ms, kind };
            inner.last = event.seq;
            inner.open_only_lines &= chunk::is_line(&event.kind);
            inner.open.extend(chunk::frames(std::slice::from_ref(&event)));
            if inner.open.len() >= CHUNK {
                inner.close_chunk();
                unsaved = 0;
            }
        }
        inner.save_open(unsaved);
        let last = inner.last;
        drop(inner);
        self.changed.send_modify(|version| *version += 1);
        last
    }

    /// Appends a note.
    pub fn note(&self, level: Level, text: impl Into<String>) {
        self.append(EventKind::Note { level, text: text.into() });
    }

    /// Begins a step; returns its id.
    pub fn begin(&self, name: impl Into<String>, parent: Option<u32>) -> u32 {
        let step = {
            let mut inner = self.lock();
            inner.last_step += 1;
            inner.last_step
        };
        self.append(EventKind::StepStarted { step, parent, name: name.into() });
        step
    }

    /// Ends a step.
    pub fn end(&self, step: u32, outcome: StepOutcome) {
        self.append(EventKind::StepFinished { step, outcome });
    }

    /// Replaces the progress of a step.
    pub fn progress(&self, progress: Progress) {
        let mut inner = self.lock();
        inner.progress_version += 1;
        let version = inner.progress_version;
        inner.progress.insert(progress.step, (version, progress));
        drop(inner);
        self.changed.send_modify(|version| *version += 1);
    }

    /// Seq of the newest fact.
    pub fn last(&self) -> u64 {
        self.lock().last
    }

    /// Changes whenever a fact is appended or progress is made.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The next facts for a reader: at most a chunk of them, and none if the reader has seen all.
    pub fn read(&self, cursor: &mut Cursor) -> io::Result<Vec<Event>> {
        let inner = self.lock();
        if cursor.after >= inner.last {
            return Ok(Vec::new());
        }
        let at = inner.chunks.partition_point(|chunk| chunk.last <= cursor.after);
        let mut events = match inner.chunks.get(at) {
            Some(chunk) => chunk.read()?,
            None => chunk::parse(&inner.open)?,
        };
        drop(inner);
        events.retain(|event| event.seq > cursor.after);
        // A gap may begin with facts that this reader saw before they were dropped.
        if let Some(EventKind::Gap { first, .. }) = events.first_mut().map(|e| &mut e.kind) {
            *first = (*first).max(cursor.after + 1);
        }
        cursor.after = events.last().map_or(cursor.after, |event| event.seq);
        Ok(events)
    }

    /// As [`Log::read`], with a gap in the place of lines of output. What has nothing else is not even looked at:
    /// behind a flood there is so much of it that a slow machine would read for minutes.
    pub fn read_without_lines(&self, cursor: &mut Cursor) -> io::Result<Vec<Event>> {
        let inner = self.lock();
        let at = inner.chunks.partition_point(|chunk| chunk.last <= cursor.after);
        let lines = inner.chunks.range(at..).take_while(|chunk| chunk.only_lines);
        let (last, bytes) = lines.fold((0, 0), |(_, bytes), chunk| (chunk.last, bytes + chunk.raw));
        drop(inner);
        if last > cursor.after {
            let gap = chunk::gap(cursor.after + 1, last, bytes);
            cursor.after = last;
            return Ok(vec![gap]);
        }
        Ok(chunk::thin(self.read(cursor)?, Keep::Structure))
    }

    /// Progress that changed since the reader last looked.
    pub fn read_progress(&self, cursor: &mut Cursor) -> Vec<Progress> {
        let inner = self.lock();
        let fresh = inner.progress.values().filter(|(version, _)| *version > cursor.progress);
        let fresh = fresh.map(|(_, progress)| progress.clone()).collect();
        cursor.progress = inner.progress_version;
        fresh
    }
}

/// What an earlier agent left of the log, in order and without holes.
struct Past<'a> {
    dir: &'a Path,
    chunks: VecDeque<Chunk>,
    last: u64,
    last_step: u32,
}

impl Past<'_> {
    /// Takes over the chunk in the file at `path`. Does without if it can't be read: a gap will take its place.
    fn take(&mut self, path: PathBuf) {
        let Ok((chunk, events)) = Chunk::load(path) else { return };
        if chunk.last <= self.last {
            // A crash while chunks were joined left this one behind. The joined chunk, which is taken before it, has
            // all its facts.
            return chunk.remove();
        }
        self.fill_up_to(chunk.first);
        self.last = chunk.last;
        self.last_step = self.last_step.max(newest_step(&events));
        self.chunks.push_back(chunk);
    }

    /// Puts a gap in the place of the facts before `next` that are missing: without it readers would not know that they
    /// miss them.
    fn fill_up_to(&mut self, next: u64) {
        if next > self.last + 1 {
            self.chunks.push_back(Chunk::missing(self.dir, self.last + 1, next - 1));
            self.last = next - 1;
        }
    }
}

impl Inner {
    fn save_open(&mut self, from: usize) {
        // Errors are ignored: only an agent that is started again needs the file, and a full tmpfs must not cost the
        // facts in memory.
        let _ = self.open_file.as_mut().map(|file| file.write_all(&self.open[from..]));
    }

    fn close_chunk(&mut self) {
        let frames = std::mem::take(&mut self.open);
        let mut chunk = Chunk::store(&self.dir, self.open_first, self.last, &frames);
        chunk.only_lines = std::mem::replace(&mut self.open_only_lines, true);
        self.stored += chunk.stored();
        self.chunks.push_back(chunk);
        self.open_first = self.last + 1;
        if let Ok(file) = File::create(self.dir.join("open")) {
            self.open_file = Some(file);
        }
        while self.stored > self.cap && self.thin() {}
    }

    /// Drops lines of output from the oldest chunk that has any, else steps and notes. False if nothing is left to
    /// drop.
    fn thin(&mut self) -> bool {
        for keep in [Keep::Structure, Keep::Essence] {
            let Some(at) = self.chunks.iter().position(|chunk| chunk.keep < keep) else { continue };
            // A thinned chunk is joined with the one before it. Otherwise a long flood would leave many tiny files.
            let join = at > 0 && self.chunks[at - 1].raw + self.chunks[at].raw / 8 < CHUNK as u64;
            let from = if join { at - 1 } else { at };
            let mut events = Vec::new();
            for chunk in self.chunks.range(from..=at) {
                match chunk.read() {
                    Ok(mut more) => events.append(&mut more),
                    Err(_) => events.push(chunk.as_gap()),
                }
            }
            let thinned = chunk::thin(events, keep);
            let frames = chunk::frames(&thinned);
            let (first, last) = (self.chunks[from].first, self.chunks[at].last);
            let old: Vec<Chunk> = self.chunks.drain(from..=at).collect();
            let mut new = Chunk::store(&self.dir, first, last, &frames);
            new.keep = keep;
            for chunk in old {
                self.stored -= chunk.stored();
                // A chunk that was not joined has the file of the one that it was thinned to.
                if (chunk.first, chunk.last) != (first, last) {
                    chunk.remove();
                }
            }
            self.stored += new.stored();
            self.chunks.insert(from, new);
            return true;
        }
        false
    }
}

fn newest_step(events: &[Event]) -> u32 {
    let step = |event: &Event| match event.kind {
        EventKind::StepStarted { step, .. } => Some(step),
        _ => None,
    };
    events.iter().filter_map(step).max().unwrap_or(0)
}

#[cfg(test)]
mod tests;
