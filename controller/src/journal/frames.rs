//! The file of one host: a header, then frames of length, CRC-32 and one record.
//!
//! Frames are only ever appended. Whatever a crash leaves at the end is not a whole frame, is told apart by length and
//! checksum, and is cut off before the next frame is written.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anemos_proto::codec;

use super::attempt;
use super::{Digested, JournalError, Record};

/// Magic, and the version of [`Record`] and everything in it.
const HEADER: [u8; 8] = [b'A', b'N', b'J', b'R', b'N', b'L', 0, anemos_proto::VERSION as u8];

/// Bytes before each record.
const FRAME_HEAD: usize = 8;

/// What a journal file says.
#[derive(Debug)]
pub struct Contents {
    /// Every whole record, in order.
    pub records: Vec<Record>,
    /// How many bytes of the file they take up.
    pub good: u64,
    /// What follows them, if anything does.
    pub tail: Tail,
}

/// What follows the last whole record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// Nothing.
    Clean,
    /// The beginning of a record that was being written when the writer died: so many bytes.
    Torn(u64),
    /// So many bytes that are no record, though the file goes on: the file was damaged.
    Damaged(u64),
}

/// Reads a journal. An unfinished or damaged end is reported, not an error: what is before it counts.
pub fn parse(bytes: &[u8], path: &Path) -> Result<Contents, JournalError> {
    let damaged = |what: &str| JournalError::Damaged { path: path.into(), what: what.into() };
    let mut contents = Contents { records: Vec::new(), good: 0, tail: Tail::Clean };
    if bytes.len() < HEADER.len() {
        if HEADER.starts_with(bytes) {
            contents.tail = if bytes.is_empty() { Tail::Clean } else { Tail::Torn(bytes.len() as u64) };
            return Ok(contents);
        }
        return Err(damaged("it does not begin like one"));
    }
    if bytes[..7] != HEADER[..7] {
        return Err(damaged("it does not begin like one"));
    }
    if bytes[7] != HEADER[7] {
        return Err(JournalError::Version { path: path.into(), found: bytes[7].into() });
    }
    let mut at = HEADER.len();
    loop {
        let rest = &bytes[at..];
        contents.good = at as u64;
        if rest.is_empty() {
            return Ok(contents);
        }
        match frame(rest) {
            Some(Ok((record, used))) => {
                contents.records.push(record);
                at += used;
            }
            // Shorter than it says, or zeros that the file system left: nothing was acknowledged after this.
            None => contents.tail = Tail::Torn(rest.len() as u64),
            Some(Err(used)) if used >= rest.len() || rest.iter().all(|&b| b == 0) => {
                contents.tail = Tail::Torn(rest.len() as u64);
            }
            Some(Err(_)) => contents.tail = Tail::Damaged(rest.len() as u64),
        }
        if contents.tail != Tail::Clean {
            return Ok(contents);
        }
    }
}

/// The frame at the start of `bytes`: `None` if it is not all there, an error with its length if it is wrong.
fn frame(bytes: &[u8]) -> Option<Result<(Record, usize), usize>> {
    let (head, rest) = bytes.split_first_chunk::<FRAME_HEAD>()?;
    let [l0, l1, l2, l3, c0, c1, c2, c3] = *head;
    let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    if length > codec::MAX_FRAME || length == 0 {
        return Some(Err(FRAME_HEAD));
    }
    let body = rest.get(..length)?;
    let used = FRAME_HEAD + length;
    if crc(body) != u32::from_be_bytes([c0, c1, c2, c3]) {
        return Some(Err(used));
    }
    Some(codec::from_bytes(body).map(|record| (record, used)).map_err(|_| used))
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// Reads the journal in a file.
pub fn read(path: &Path) -> Result<Contents, JournalError> {
    let bytes = std::fs::read(path).map_err(|source| JournalError::io("reading", path, source))?;
    parse(&bytes, path)
}

/// The records that were appended to a file since the last look, for following a journal that another process writes.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    at: u64,
}

impl Follower {
    /// Follows the file from after `at` bytes.
    pub fn new(path: PathBuf, at: u64) -> Self {
        Self { path, at }
    }

    /// What is new and whole.
    pub fn poll(&mut self) -> Result<Vec<Record>, JournalError> {
        let io = |source| JournalError::io("reading", &self.path, source);
        let mut file = File::open(&self.path).map_err(io)?;
        if self.at < HEADER.len() as u64 {
            self.at = HEADER.len() as u64;
        }
        if file.metadata().map_err(io)?.len() <= self.at {
            return Ok(Vec::new());
        }
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(self.at)).map_err(io)?;
        file.read_to_end(&mut bytes).map_err(io)?;
        let (mut records, mut used) = (Vec::new(), 0);
        while let Some(Ok((record, length))) = frame(&bytes[used..]) {
            records.push(record);
            used += length;
        }
        self.at += used as u64;
        Ok(records)
    }
}

/// Appends to a journal file.
#[derive(Debug)]
pub struct Appender {
    file: File,
    path: PathBuf,
    dirty: bool,
    /// The boot was written down, and `<host>.attempt` does not say so yet.
    booting: bool,
}

impl Appender {
    /// Opens the file, makes it (0600) if need be, cuts off an unfinished end, and returns what is in it. A damaged end
    /// is kept beside it as `….damaged`.
    pub fn open(path: &Path) -> Result<(Self, Digested), JournalError> {
        let io = |doing: &'static str| move |source: io::Error| JournalError::io(doing, path, source);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(io("opening"))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io("reading"))?;
        let contents = parse(&bytes, path)?;
        if let Tail::Damaged(_) = contents.tail {
            let mut beside = path.as_os_str().to_owned();
            beside.push(".damaged");
            std::fs::write(&beside, &bytes[contents.good as usize..]).map_err(io("saving the damaged end of"))?;
        }
        if contents.tail != Tail::Clean {
            file.set_len(contents.good).map_err(io("cutting off the unfinished end of"))?;
        }
        file.seek(SeekFrom::Start(contents.good)).map_err(io("writing to"))?;
        let mut appender = Self { file, path: path.into(), dirty: true, booting: false };
        if contents.good == 0 {
            appender.file.write_all(&HEADER).map_err(io("writing to"))?;
        }
        appender.sync()?;
        Ok((appender, Digested::of_contents(contents, path)))
    }

    /// Appends a record. It is safe after the next [`Appender::sync`].
    pub fn append(&mut self, record: &Record) -> Result<(), JournalError> {
        let invalid = |e: codec::CodecError| io::Error::new(io::ErrorKind::InvalidInput, e.to_string());
        let io = |source| JournalError::io("writing to", &self.path, source);
        let body = codec::to_bytes(record).map_err(invalid).map_err(io)?;
        if body.len() > codec::MAX_FRAME {
            return Err(io(invalid(codec::CodecError::TooLong(body.len()))));
        }
        let mut frame = Vec::with_capacity(FRAME_HEAD + body.len());
        frame.extend((body.len() as u32).to_be_bytes());
        frame.extend(crc(&body).to_be_bytes());
        frame.extend(body);
        self.file.write_all(&frame).map_err(io)?;
        self.dirty = true;
        self.booting |= matches!(record, Record::BootSent { .. });
        Ok(())
    }

    /// Waits until everything appended is on the disk.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        if self.dirty {
            self.file.sync_data().map_err(|source| JournalError::io("syncing", &self.path, source))?;
            self.dirty = false;
        }
        if self.booting {
            attempt::write(&self.path, 0)?;
            self.booting = false;
        }
        Ok(())
    }

    /// Syncs, then writes that the agent may begin payload attempt `number` into the second file, and syncs that. Only
    /// after it may the agent be told.
    pub fn attempt(&mut self, number: u32) -> Result<(), JournalError> {
        self.sync()?;
        attempt::write(&self.path, number)
    }
}
