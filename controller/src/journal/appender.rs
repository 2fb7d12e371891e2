//! Writes journals.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::blocks::{HEADER, block};
use super::digest::{Digested, Keep};
use super::entries::Writer;
use super::reader::{Reader, read_into};
use super::stream::Packer;
use super::{JournalError, Record, attempt};

/// Lines of output wait for each other until they are so many bytes, or are to be made safe, or something else happens.
const BLOCK: usize = 64 << 10;

/// Longest record, in bytes, as JSON or as a line. What the host says has come in shorter frames.
const MAX_RECORD: usize = 6 << 20;

/// Appends to a journal.
#[derive(Debug)]
pub struct Appender(Kept);

#[derive(Debug)]
enum Kept {
    /// In a file.
    File(Box<Journal>),
    /// Nowhere: what is told is numbered, and forgotten.
    Nowhere(Box<Digested>),
}

impl Appender {
    /// Opens the file, makes it (0600) if need be, cuts off an unfinished end, and returns what is in it. A damaged
    /// file is kept as it is beside it, as `….damaged`, and is gone on with after its end. One of an earlier format is
    /// refused: that build goes on with it.
    pub fn open(path: &Path, keep: Keep) -> Result<(Self, Digested), JournalError> {
        let (journal, digested) = Journal::open(path, keep)?;
        Ok((Self(Kept::File(Box::new(journal))), digested))
    }

    /// For what nobody takes up again.
    pub fn nowhere() -> Self {
        Self(Kept::Nowhere(Box::default()))
    }

    /// Appends a record. Lines of output are in the file after the next [`Appender::sync`], others at once; all of it
    /// is safe only after the next [`Appender::sync`]. Returns the number of what was told last, the record included.
    pub fn append(&mut self, record: &Record) -> Result<u64, JournalError> {
        match &mut self.0 {
            Kept::File(journal) => journal.append(record),
            Kept::Nowhere(state) => {
                state.learn(record);
                Ok(state.number)
            }
        }
    }

    /// Bytes of the file, as far as it is written.
    pub fn size(&self) -> u64 {
        match &self.0 {
            Kept::File(journal) => journal.good,
            Kept::Nowhere(_) => 0,
        }
    }

    /// Bytes of all that was told of what the host said, but for lines of output.
    pub fn facts(&self) -> u64 {
        match &self.0 {
            Kept::File(journal) => journal.state.facts,
            Kept::Nowhere(state) => state.facts,
        }
    }

    /// Waits until everything appended is on the disk.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        match &mut self.0 {
            Kept::File(journal) => journal.sync(),
            Kept::Nowhere(_) => Ok(()),
        }
    }

    /// Syncs, then writes that the agent may begin payload attempt `number` into the second file, and syncs that. Only
    /// after it may the agent be told.
    pub fn attempt(&mut self, number: u32) -> Result<(), JournalError> {
        match &mut self.0 {
            Kept::File(journal) => journal.attempt(number),
            Kept::Nowhere(_) => Ok(()),
        }
    }
}

/// A journal file. After the first failure nothing is written any more.
struct Journal {
    file: File,
    path: PathBuf,
    /// The end of the last whole block.
    good: u64,
    entries: Writer,
    packer: Packer,
    /// What the journal amounts to, for the beginning of the next stream.
    state: Digested,
    /// The file is new, and its directory does not know so for sure.
    new: bool,
    dirty: bool,
    /// The boot was written down, and `<host>.attempt` does not say so yet.
    booting: bool,
    failed: Option<String>,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal").field("path", &self.path).field("good", &self.good).finish_non_exhaustive()
    }
}

impl Journal {
    fn open(path: &Path, keep: Keep) -> Result<(Self, Digested), JournalError> {
        let io = |doing: &'static str| move |source: io::Error| JournalError::io(doing, path, source);
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        let (mut file, new) = match options.clone().create_new(true).open(path) {
            Ok(file) => (file, true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                (options.open(path).map_err(io("opening"))?, false)
            }
            Err(error) => return Err(io("making")(error)),
        };
        let mut reader = Reader::new(path)?;
        let mut digested = Digested::default();
        read_into(&mut reader, &mut digested, keep)?;
        if let Some(format) = reader.earlier() {
            return Err(JournalError::Earlier { path: path.into(), format });
        }
        if reader.damage().is_some() {
            let kept = keep_beside(path)?;
            digested.damaged = digested.damaged.map(|why| format!("{why}, kept as {kept}"));
        }
        digested.hold_against_second(path);
        let mut good = reader.at();
        if reader.torn() > 0 {
            file.set_len(good).map_err(io("cutting off the unfinished end of"))?;
        }
        file.seek(SeekFrom::Start(good)).map_err(io("writing to"))?;
        if good == 0 {
            file.write_all(&HEADER).map_err(io("writing to"))?;
            good = HEADER.len() as u64;
        }
        let told = std::mem::take(&mut digested.told);
        let state = Digested { form: Digested::FORM, lines: 0, text: 0, ..digested.clone() };
        digested.told = told;
        let journal = Self {
            file,
            path: path.into(),
            good,
            entries: Writer::default(),
            packer: Packer::new().map_err(io("compressing"))?,
            state,
            new,
            dirty: true,
            booting: false,
            failed: None,
        };
        Ok((journal, digested))
    }

    fn append(&mut self, record: &Record) -> Result<u64, JournalError> {
        self.refuse_after_failure()?;
        let appended = self.try_append(record);
        self.note(appended)?;
        Ok(self.state.number)
    }

    fn try_append(&mut self, record: &Record) -> Result<(), JournalError> {
        let io = |source| JournalError::io("writing to", &self.path, source);
        if self.entries.len() == 0 && self.packer.is_due() {
            self.packer.begin().map_err(io)?;
            self.entries.begin();
            let state = serde_json::to_vec(&self.state).map_err(|e| io(e.into()))?;
            self.entries.state(&state);
        }
        self.entries.record(record).map_err(|e| io(e.into()))?;
        if self.entries.len() > MAX_RECORD {
            return Err(io(io::Error::new(io::ErrorKind::InvalidInput, "a record is too long")));
        }
        self.state.learn(record);
        self.booting |= matches!(record, Record::BootSent { .. });
        let may_wait = record.is_line() || matches!(record, Record::Counted { .. });
        if may_wait && self.entries.len() < BLOCK { Ok(()) } else { self.write() }
    }

    /// Writes what waits into the file.
    fn write(&mut self) -> Result<(), JournalError> {
        if self.entries.len() == 0 {
            return Ok(());
        }
        let io = |source| JournalError::io("writing to", &self.path, source);
        let (flags, body) = self.packer.pack(&self.entries.take()).map_err(io)?;
        let block = block(flags, &body);
        self.dirty = true;
        self.file.write_all(&block).map_err(io)?;
        self.good += block.len() as u64;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), JournalError> {
        self.refuse_after_failure()?;
        let synced = self.try_sync();
        self.note(synced)
    }

    fn try_sync(&mut self) -> Result<(), JournalError> {
        self.write()?;
        if self.dirty {
            self.file.sync_data().map_err(|source| JournalError::io("syncing", &self.path, source))?;
            self.dirty = false;
        }
        if self.new {
            let dir = self.path.parent().unwrap_or(Path::new("."));
            File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| JournalError::io("syncing", dir, e))?;
            self.new = false;
        }
        if self.booting {
            attempt::write(&self.path, 0)?;
            self.booting = false;
        }
        Ok(())
    }

    fn attempt(&mut self, number: u32) -> Result<(), JournalError> {
        self.sync()?;
        let written = attempt::write(&self.path, number);
        self.note(written)
    }

    fn refuse_after_failure(&self) -> Result<(), JournalError> {
        match &self.failed {
            None => Ok(()),
            Some(why) => Err(JournalError::Stopped { path: self.path.clone(), why: why.clone() }),
        }
    }

    /// After a failure the file ends with its last whole record, and stays so.
    fn note(&mut self, result: Result<(), JournalError>) -> Result<(), JournalError> {
        if let Err(error) = &result {
            self.failed = Some(error.to_string());
            // If not even this is possible, whoever opens the file next does it.
            let _ = self.file.set_len(self.good);
        }
        result
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if self.failed.is_none() {
            // Whoever wanted it safe has called `sync` and knows.
            let _ = self.write();
        }
    }
}

/// Keeps a damaged file as it is now beside itself, and says under which name. What an earlier copy has is in a later
/// one too: nothing is ever cut off but what a crash left unfinished.
fn keep_beside(path: &Path) -> Result<String, JournalError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".damaged");
    let beside = PathBuf::from(beside);
    let io = |source| JournalError::io("keeping the damaged journal as", &beside, source);
    let mut from = File::open(path).map_err(io)?;
    let mut to = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside).map_err(io)?;
    io::copy(&mut from, &mut to).and_then(|_| to.sync_all()).map_err(io)?;
    Ok(beside.file_name().unwrap_or_default().display().to_string())
}
