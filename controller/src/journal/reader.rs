//! Reads journals, of the present format and of the one before.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::blocks::{Blocks, FORMAT, HEADER, Piece, STARTS};
use super::digest::{Digested, Keep, Told};
use super::entries::{self, Before, Entry};
use super::stream::Unpacker;
use super::{JournalError, Record, v3};

/// Goes through the journal of a host, and on from there when more was written: another process may be writing it.
pub struct Reader {
    path: PathBuf,
    format: Option<u8>,
    at: u64,
    torn: u64,
    unpacker: Unpacker,
    before: Before,
    damage: Option<u64>,
    unknown: Option<u64>,
    /// How many things were told in what was read, and in what damage hides.
    told: u64,
}

impl Reader {
    /// Reads from the beginning.
    pub fn new(path: &Path) -> Result<Self, JournalError> {
        let unpacker = Unpacker::new().map_err(|source| JournalError::io("reading", path, source))?;
        Ok(Self {
            path: path.into(),
            format: None,
            at: 0,
            torn: 0,
            unpacker,
            before: Before::default(),
            damage: None,
            unknown: None,
            told: 0,
        })
    }

    /// Up to where the file was read: the end of the last whole record, or of damage.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Bytes after [`Reader::at`]: the beginning of a record that is being written, or was when the writer died.
    pub fn torn(&self) -> u64 {
        self.torn
    }

    /// Where the first damage is.
    pub fn damage(&self) -> Option<u64> {
        self.damage
    }

    /// The format, if it is the one before the present one.
    pub fn earlier(&self) -> Option<u8> {
        self.format.filter(|format| *format != FORMAT)
    }

    /// Why nothing may be concluded from what was read, if that is so.
    pub fn doubt(&self) -> Option<String> {
        if let Some(at) = self.damage {
            return Some(format!("the journal is damaged at byte {at}"));
        }
        self.unknown
            .map(|at| format!("the journal says something at byte {at} that only a later version of anemos knows"))
    }

    /// Hands every record to `take` that was not read before, with the number of what was told last, it included.
    pub fn read_on(&mut self, take: &mut dyn FnMut(u64, Record)) -> Result<(), JournalError> {
        let Some(file) = self.open()? else { return Ok(()) };
        let path = self.path.clone();
        let io = |source| JournalError::io("reading", &path, source);
        if self.earlier().is_some() {
            return self.read_v3(file, take).map_err(io);
        }
        let mut blocks = Blocks::new(file, self.at);
        loop {
            match blocks.next().map_err(io)? {
                Piece::Block { at, flags, body } => self.block(at, flags, &body, take),
                Piece::Damage { at } => {
                    self.damage.get_or_insert(at);
                    self.unpacker.lose();
                }
                Piece::End { torn } => {
                    self.torn = torn;
                    return Ok(());
                }
            }
            self.at = blocks.at();
        }
    }

    fn block(&mut self, at: u64, flags: u8, body: &[u8], take: &mut dyn FnMut(u64, Record)) {
        if flags & STARTS != 0 {
            self.before = Before::default();
        }
        let Some(plain) = self.unpacker.unpack(flags, body) else {
            // After damage the rest of its stream can't be read; else the writer was at fault.
            if self.damage.is_none() {
                self.unknown.get_or_insert(at);
            }
            return;
        };
        let Self { unknown, told, .. } = self;
        let read = entries::read(&plain, &mut self.before, &mut |entry| match entry {
            Entry::Record(record) => {
                // What the state says is somebody else's number, and may be any.
                *told = told.saturating_add(u64::from(matches!(record, Record::Told { .. })));
                take(*told, record);
            }
            // Each stream begins with the number so far, so numbers stay the same after damage.
            Entry::State(json) => {
                let state: Option<Digested> = serde_json::from_slice(&json).ok();
                *told = (*told).max(state.map_or(0, |state| state.number));
            }
            Entry::Unknown => _ = unknown.get_or_insert(at),
        });
        if read.is_none() {
            self.unknown.get_or_insert(at);
            self.unpacker.lose();
        }
    }

    /// The file, at [`Reader::at`]. `None` if there is no whole header yet.
    fn open(&mut self) -> Result<Option<File>, JournalError> {
        let io = |source| JournalError::io("reading", &self.path, source);
        let mut file = File::open(&self.path).map_err(io)?;
        if self.format.is_none() {
            let mut header = Vec::new();
            file.by_ref().take(HEADER.len() as u64).read_to_end(&mut header).map_err(io)?;
            if HEADER.starts_with(&header) && header.len() < HEADER.len() {
                self.torn = header.len() as u64;
                return Ok(None);
            }
            let damaged = |what: &str| JournalError::Damaged { path: self.path.clone(), what: what.into() };
            match header.split_last() {
                Some((format, magic)) if *magic == HEADER[..7] => match *format {
                    FORMAT | v3::FORMAT => self.format = Some(*format),
                    found => return Err(JournalError::Version { path: self.path.clone(), found: found.into() }),
                },
                _ => return Err(damaged("it does not begin like one")),
            }
            self.at = HEADER.len() as u64;
        }
        file.seek(SeekFrom::Start(self.at)).map_err(io)?;
        Ok(Some(file))
    }

    fn read_v3(&mut self, mut file: File, take: &mut dyn FnMut(u64, Record)) -> io::Result<()> {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let mut rest = &bytes[..];
        loop {
            let used = match v3::piece(rest) {
                v3::Piece::Record(record, used) => {
                    self.told += u64::from(matches!(*record, Record::Told { .. }));
                    take(self.told, *record);
                    used
                }
                v3::Piece::Damage(used) => {
                    self.damage.get_or_insert(self.at);
                    used
                }
                v3::Piece::End(torn) => {
                    self.torn = torn as u64;
                    return Ok(());
                }
            };
            rest = &rest[used..];
            self.at += used as u64;
        }
    }
}

/// Follows a journal that another process writes.
pub struct Follower {
    reader: Reader,
    digested: Digested,
    keep: Keep,
}

impl Follower {
    /// Follows from the beginning; of what is new at one look, only as much is given.
    pub fn new(path: &Path, keep: Keep) -> Result<Self, JournalError> {
        Ok(Self { reader: Reader::new(path)?, digested: Digested::default(), keep })
    }

    /// Hands what was told since the last look to `show`, and with the first how many lines of output were left out.
    /// Where all is kept, it is handed on as it is read, and not held.
    pub fn poll(&mut self, show: &mut dyn FnMut(Told, u64)) -> Result<(), JournalError> {
        let Self { reader, digested, keep } = self;
        let read = match keep {
            Keep::All => read_through(reader, digested, Keep::All, &mut |digested| {
                let (told, _) = digested.take_told();
                for told in told {
                    show(told, 0);
                }
            }),
            keep => read_into(reader, digested, *keep),
        };
        match read {
            // It is not begun yet.
            Err(JournalError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            read => read?,
        }
        let (told, mut left_out) = digested.take_told();
        for told in told {
            show(told, std::mem::take(&mut left_out));
        }
        Ok(())
    }

    /// What the journal amounts to so far, without what was told.
    pub fn digested(&self) -> &Digested {
        &self.digested
    }
}

/// What the journal of a host amounts to. One that was never begun is empty.
pub fn digest(path: &Path, keep: Keep) -> Result<Digested, JournalError> {
    let mut reader = Reader::new(path)?;
    let mut digested = Digested::default();
    match read_into(&mut reader, &mut digested, keep) {
        Ok(()) => {}
        Err(JournalError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    digested.hold_against_second(path);
    Ok(digested)
}

/// Takes all that a reader has not read yet into a digest, and why it is in doubt.
pub(super) fn read_into(reader: &mut Reader, digested: &mut Digested, keep: Keep) -> Result<(), JournalError> {
    read_through(reader, digested, keep, &mut |_| {})
}

/// The same; `after` sees the digest after each record.
fn read_through(
    reader: &mut Reader,
    digested: &mut Digested,
    keep: Keep,
    after: &mut dyn FnMut(&mut Digested),
) -> Result<(), JournalError> {
    reader.read_on(&mut |number, record| {
        if matches!(record, Record::Told { .. }) {
            digested.number = number - 1;
        }
        digested.take(record, keep);
        after(digested);
    })?;
    if let Keep::Lines { last, after } = keep {
        digested.leave_out(last, after);
    }
    digested.damaged = reader.doubt();
    digested.earlier = reader.earlier();
    Ok(())
}

/// What the journal of a host amounts to, without what was told; only its last stream is decompressed, though all of
/// the file is held against its checksums. For looking: whoever decides something wants [`digest`].
pub fn glance(path: &Path) -> Result<Digested, JournalError> {
    match last_stream(path) {
        Ok(Some(mut digested)) => {
            digested.hold_against_second(path);
            Ok(digested)
        }
        // Whatever is not as it should be, the longer way knows better.
        Ok(None) | Err(_) => digest(path, Keep::Nothing),
    }
}

/// The state at the beginning of the last stream, and what came after. `None` if that can't be had or believed.
fn last_stream(path: &Path) -> Result<Option<Digested>, JournalError> {
    let io = |source| JournalError::io("reading", path, source);
    let mut reader = Reader::new(path)?;
    let Some(file) = reader.open()? else { return Ok(None) };
    if reader.earlier().is_some() {
        return Ok(None);
    }
    let mut last = None;
    let mut blocks = Blocks::new(file, reader.at);
    loop {
        match blocks.pass().map_err(io)? {
            Piece::Block { at, flags, .. } if flags & STARTS != 0 => last = Some(at),
            Piece::Block { .. } => {}
            Piece::Damage { .. } => return Ok(None),
            Piece::End { .. } => break,
        }
    }
    let (Some(last), Some(mut file)) = (last, reader.open()?) else { return Ok(None) };
    file.seek(SeekFrom::Start(last)).map_err(io)?;
    let mut digested: Option<Digested> = None;
    let mut blocks = Blocks::new(file, last);
    while let Piece::Block { flags, body, .. } = blocks.next().map_err(io)? {
        let Some(plain) = reader.unpacker.unpack(flags, &body) else { return Ok(None) };
        let mut known = true;
        let read = entries::read(&plain, &mut reader.before, &mut |entry| match (entry, &mut digested) {
            (Entry::Record(record), Some(digested)) => digested.take(record, Keep::Nothing),
            (Entry::State(json), None) => digested = serde_json::from_slice(&json).ok(),
            _ => known = false,
        });
        if read.is_none() || !known {
            return Ok(None);
        }
    }
    Ok(digested.filter(|digested| digested.form == Digested::FORM))
}
