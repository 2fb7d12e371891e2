//! Journals of any bytes.

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use anemos_proto::event::EventKind;

use super::blocks::{Blocks, HEADER, Piece, block};
use super::entries::{self, Before, Entry, Writer};
use super::stream::Packer;
use super::{Keep, Reader, Record, RunFile, attempt, digest, glance};
use crate::report::Update;

/// Records that are looked at one by one: a few bytes can be millions of empty lines.
const MANY: usize = 10_000;

/// Bytes of lines that are looked at one by one.
const LONG: usize = 1 << 20;

/// A journal as it lies in its file. Reading it in two goes is reading it in one, nothing is concluded from one that is
/// damaged, and what can be read is written as what is read again.
pub fn file(data: &[u8]) {
    let (path, mut file) = in_memory(data);
    let Ok(mut reader) = Reader::new(&path) else { return };
    let mut records = Vec::new();
    let (mut last, mut text, mut whole) = (0, 0, true);
    let read = reader.read_on(&mut |number, record| {
        assert!(number >= last, "{number} comes after {last}");
        last = number;
        if let Record::Told { update: Update::Event(_, event), .. } = &record
            && let EventKind::Log { line, .. } = &event.kind
        {
            text += line.len();
        }
        whole &= records.len() < MANY && text < LONG;
        if whole {
            records.push(record);
        }
    });
    if read.is_err() {
        assert!(digest(&path, Keep::Nothing).is_err());
        return;
    }
    let len = data.len() as u64;
    assert!(reader.at() <= len && reader.at() + reader.torn() <= len.max(HEADER.len() as u64));
    let digested = digest(&path, Keep::Lines { last: 100, after: 0 }).expect("it was read");
    assert!(reader.doubt().is_none() || digested.damaged.is_some() && digested.end().is_none());
    drop(glance(&path));
    if !whole {
        return;
    }
    if reader.doubt().is_none() {
        same_again(&records);
    }

    let shown = |records: &[Record]| records.iter().map(|record| format!("{record:?}")).collect::<Vec<_>>();
    if reader.damage().is_none() && reader.earlier().is_none() {
        file.set_len(len / 2).expect("a file in memory can be cut");
        let mut reader = Reader::new(&path).expect("it was read");
        let mut pieces = Vec::new();
        // Half of it may be no journal yet.
        if reader.read_on(&mut |_, record| pieces.push(record)).is_ok() && reader.damage().is_none() {
            file.seek(SeekFrom::End(0)).and_then(|_| file.write_all(&data[data.len() / 2..])).expect("there is memory");
            reader.read_on(&mut |_, record| pieces.push(record)).expect("it was read");
            assert_eq!(shown(&pieces), shown(&records));
        }
    }
}

/// A file in memory with these bytes, and the path by which this process can open it.
fn in_memory(data: &[u8]) -> (PathBuf, File) {
    let memory = rustix::fs::memfd_create("fuzz", rustix::fs::MemfdFlags::CLOEXEC).expect("there is memory");
    let path = Path::new("/proc/self/fd").join(memory.as_raw_fd().to_string());
    let mut file = File::from(memory);
    file.write_all(data).expect("there is memory");
    (path, file)
}

/// Blocks and what is in them without compression: entries of any bytes.
pub fn in_blocks(data: &[u8]) {
    let (mut records, mut unknown) = (Vec::new(), false);
    let read = entries::read(data, &mut Before::default(), &mut |entry| match entry {
        Entry::Record(record) => records.push(record),
        Entry::State(json) => drop(serde_json::from_slice::<super::Digested>(&json)),
        Entry::Unknown => unknown = true,
    });
    if read.is_some() && !unknown {
        same_again(&records);
    }
    let mut digested = super::Digested::default();
    for record in records {
        digested.take(record, Keep::Lines { last: 10, after: 3 });
    }
    drop(serde_json::from_slice::<RunFile>(data));
    attempt::parse(data);
}

/// Records that are written and read are the same, but that lines of output may have arrived a moment sooner or later.
fn same_again(records: &[Record]) {
    if records.is_empty() {
        return;
    }
    let mut writer = Writer::default();
    for record in records {
        writer.record(record).expect("what was read can be written");
    }
    let mut packer = Packer::new().expect("zstd starts");
    packer.begin().expect("zstd starts");
    let (flags, body) = packer.pack(&writer.take()).expect("what was read can be compressed");
    let written = block(flags, &body);
    let mut blocks = Blocks::new(&written[..], 0);
    let Ok(Piece::Block { flags, body, .. }) = blocks.next() else { panic!("it is one block") };
    // One that is read block by block may be too much for one.
    let Some(plain) = super::stream::Unpacker::new().expect("zstd starts").unpack(flags, &body) else { return };
    let mut again = Vec::new();
    let read = entries::read(&plain, &mut Before::default(), &mut |entry| match entry {
        Entry::Record(record) => again.push(record),
        Entry::State(_) | Entry::Unknown => panic!("nobody wrote it"),
    });
    assert!(read.is_some());
    // JSON's numbers may lose their last digit.
    let timeless = |record: &Record| match record {
        Record::Told { update: Update::PhaseFinished(..) | Update::Summary(_), .. } => String::new(),
        Record::Told { update, .. } => format!("{update:?}"),
        other => format!("{other:?}"),
    };
    let shown = |records: &[Record]| records.iter().map(timeless).collect::<Vec<_>>();
    assert_eq!(shown(&again), shown(records));
}
