use std::fs;
use std::os::unix::fs::PermissionsExt;

use anemos_proto::Secret;
use anemos_proto::event::{Event, EventKind, Level, Stream};
use proptest::prelude::*;

use super::attempt::Attempted;
use super::entries::Entry;
use super::*;
use crate::report::{Speaker, What, Wished};
use crate::ssh::RunKey;

fn log(seq: u64, line: Vec<u8>) -> Record {
    let kind = EventKind::Log { stream: Stream::Stdout, line };
    let event = Event { seq, uptime_ms: seq, wall_ms: seq, kind };
    // So far apart that none took as long as the one before.
    Record::Told { wall_ms: 1000 * seq, update: Update::Event(Speaker::Agent, event) }
}

fn write(path: &Path, records: &[Record]) {
    let (mut appender, _) = Appender::open(path, Keep::All).unwrap();
    for record in records {
        appender.append(record).unwrap();
    }
    appender.sync().unwrap();
}

fn text(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| format!("{record:?}")).collect()
}

/// Every record of a journal, and the reader as it is then.
fn read(path: &Path) -> Result<(Vec<Record>, Reader), JournalError> {
    let mut records = Vec::new();
    let mut reader = Reader::new(path)?;
    reader.read_on(&mut |_, record| records.push(record))?;
    Ok((records, reader))
}

/// A journal with a block for each of the records, and where the blocks end.
fn in_blocks(path: &Path, records: &[Record]) -> Vec<u64> {
    let (mut appender, _) = Appender::open(path, Keep::All).unwrap();
    let mut ends = vec![8];
    for record in records {
        appender.append(record).unwrap();
        appender.sync().unwrap();
        ends.push(fs::metadata(path).unwrap().len());
    }
    ends
}

fn cut(path: &Path, length: u64) {
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(length).unwrap();
}

fn few_records() -> Vec<Record> {
    (1..8).map(|seq| log(seq, vec![seq as u8; 20])).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Wherever a crash cuts the file, every record that was whole is read, and writing goes on after the last.
    #[test]
    fn a_torn_journal_keeps_its_whole_records(
        lines in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..12),
        at in any::<prop::sample::Index>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("host.journal");
        let records: Vec<Record> = lines.into_iter().enumerate().map(|(i, line)| log(i as u64 + 1, line)).collect();
        let ends = in_blocks(&path, &records);
        let length = at.index(*ends.last().unwrap() as usize + 1) as u64;
        cut(&path, length);
        let whole = ends.iter().skip(1).filter(|end| **end <= length).count();
        let (kept, reader) = read(&path).unwrap();
        prop_assert_eq!(text(&kept), text(&records[..whole]));
        prop_assert_eq!(reader.doubt(), None);

        write(&path, &[log(99, b"after".to_vec())]);
        let (again, reader) = read(&path).unwrap();
        prop_assert_eq!(again.len(), whole + 1);
        prop_assert_eq!((reader.doubt(), reader.torn()), (None, 0));
    }

    /// What any records become is read as the same records, in one piece or in many, with streams begun anew or not.
    #[test]
    fn what_was_written_is_read(
        picks in prop::collection::vec((any::<prop::sample::Index>(), any::<u64>(), any::<u64>()), 1..40),
        pause in 1_usize..8,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("host.journal");
        let samples = samples::records();
        let records: Vec<Record> = picks.into_iter().map(|(pick, wall_ms, seq)| match pick.get(&samples).clone() {
            Record::Told { update: Update::Event(speaker, event), .. } => {
                // So far apart that none took as long as the one before.
                let told_ms = event.wall_ms.wrapping_add(wall_ms & !0xff);
                Record::Told { wall_ms: told_ms, update: Update::Event(speaker, Event { seq, ..event }) }
            }
            Record::Counted { .. } => Record::Counted { sent: wall_ms, received: seq },
            other => other,
        }).collect();
        let (mut appender, _) = Appender::open(&path, Keep::All).unwrap();
        for (at, record) in records.iter().enumerate() {
            appender.append(record).unwrap();
            if at % pause == 0 {
                appender.sync().unwrap();
            }
            if at % (3 * pause) == 0 {
                drop(appender);
                appender = Appender::open(&path, Keep::All).unwrap().0;
            }
        }
        drop(appender);
        let (again, reader) = read(&path).unwrap();
        prop_assert_eq!(text(&again), text(&records));
        prop_assert_eq!(reader.doubt(), None);

        // The end alone says the same as all of it.
        let (all, end) = (digest(&path, Keep::Nothing).unwrap(), glance(&path).unwrap());
        prop_assert_eq!(format!("{:?}", Digested { form: 0, ..end }), format!("{all:?}"));
    }

    #[test]
    fn any_bytes_are_read_or_refused(
        format in prop::sample::select(vec![3, 16]),
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("host.journal");
        fs::write(&path, [b"ANJRNL\0".as_slice(), &[format], &bytes].concat()).unwrap();
        let (records, _) = read(&path).unwrap();
        prop_assert_eq!(records.len(), 0);
    }
}

/// A flipped byte never goes unnoticed, costs no record before it, and none after it but those of its stream.
#[test]
fn damage_is_seen_and_keeps_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("host.journal");
    let records = few_records();
    let ends = in_blocks(&path, &records[..4]);
    write(&path, &records[4..]);
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        for flip in [1, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= flip;
            fs::write(&path, &bytes).unwrap();
            let Ok((kept, reader)) = read(&path) else {
                assert!(at < 8, "{flip} at {at}");
                continue;
            };
            assert!(reader.doubt().is_some(), "{flip} at {at} goes unnoticed");
            let before = ends.iter().skip(1).filter(|end| **end <= at as u64).count();
            let kept = text(&kept);
            assert_eq!(kept[..before], text(&records[..before]), "{flip} at {at}");
            if before < 4 {
                assert_eq!(kept[before..], text(&records[4..]), "{flip} at {at}");
            }
        }
    }
}

#[test]
fn a_damaged_journal_is_kept_beside_and_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("host.journal");
    let records = few_records();
    let ends = in_blocks(&path, &records);
    let mut bytes = fs::read(&path).unwrap();
    bytes[ends[2] as usize + 4] ^= 1;
    fs::write(&path, &bytes).unwrap();
    for round in 1..3 {
        let (mut appender, digested) = Appender::open(&path, Keep::All).unwrap();
        let told = digested.damaged.unwrap();
        assert_eq!(told, format!("the journal is damaged at byte {}, kept as host.journal.damaged", ends[2]));
        let beside = fs::read(dir.path().join("host.journal.damaged")).unwrap();
        assert_eq!(beside, fs::read(&path).unwrap());
        appender.append(&log(100 + round, b"after".to_vec())).unwrap();
        appender.sync().unwrap();
        let (kept, _) = read(&path).unwrap();
        assert_eq!(kept.len(), 2 + round as usize);
        assert!(glance(&path).unwrap().damaged.is_some());
    }
}

/// A file system may have made room for what a crash kept it from writing.
#[test]
fn zeros_at_the_end_are_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("host.journal");
    let mut records = few_records();
    // So that it does not end in a sector with the others.
    records.push(log(8, (0..3000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8 | 0x80).collect()));
    let ends = in_blocks(&path, &records);
    let whole = fs::read(&path).unwrap();
    let sector = ends[7].next_multiple_of(512) as usize;
    let cases = [(whole.len(), 300, 8), (ends[7] as usize, 5000, 7), (sector, whole.len() - sector, 7)];
    for (length, zeros, kept) in cases {
        fs::write(&path, [&whole[..length], &vec![0; zeros]].concat()).unwrap();
        let (read, reader) = read(&path).unwrap();
        assert_eq!((read.len(), reader.doubt()), (kept, None), "{zeros} zeros after {length}");
        write(&path, &[log(99, b"after".to_vec())]);
        assert_eq!(digest(&path, Keep::All).unwrap().told.len(), kept + 1);
    }
}

#[test]
fn another_format_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("host.journal");
    fs::write(&path, b"ANJRNL\0\xfe").unwrap();
    assert!(matches!(read(&path), Err(JournalError::Version { found: 0xfe, .. })));
    fs::write(&path, b"something else").unwrap();
    assert!(matches!(read(&path), Err(JournalError::Damaged { .. })));
}

/// What a later version of Anemos added is no damage, but what it means is not known.
#[test]
fn what_is_not_known_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("host.journal");
    write(&path, &few_records());
    let mut packer = stream::Packer::new().unwrap();
    let (flags, body) = packer.pack(b"\x00\x0f{\"Tomorrow\":{}}\x07\x01x\x02\x02\x02\x04").unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.len();
    bytes.extend(blocks::block(flags, &body));
    fs::write(&path, bytes).unwrap();
    let (records, reader) = read(&path).unwrap();
    assert_eq!(text(&records[7..]), ["Counted { sent: 1, received: 2 }"]);
    let doubt = reader.doubt().unwrap();
    assert!(doubt.contains(&format!("byte {at} that only a later version")), "{doubt}");
    assert_eq!(glance(&path).unwrap().damaged, Some(doubt));
}

/// A glance decompresses the last stream only: what an earlier one would say is not even looked at, but for its
/// checksums.
#[test]
fn a_glance_reads_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("host.journal");
    write(&path, &few_records());
    write(&path, &[Record::Told { wall_ms: 9000, update: Update::PhaseStarted(crate::report::Phase::Build) }]);
    let end = fs::read(&path).unwrap();
    let start = |bytes: &[u8], nth: usize| {
        let marks = bytes.windows(3).enumerate().filter(|(_, mark)| *mark == [0xd5, 0x4a, blocks::STARTS]);
        marks.map(|(at, _)| at).nth(nth).unwrap()
    };
    let last = start(&end, 1);
    let nonsense = blocks::block(blocks::STARTS, b"this is no zstd stream");
    fs::write(&path, [&end[..8], &nonsense, &end[last..]].concat()).unwrap();
    let seen = glance(&path).unwrap();
    assert_eq!((seen.last_agent_seq, seen.phase, seen.damaged), (7, Some(crate::report::Phase::Build), None));
    assert!(digest(&path, Keep::Nothing).unwrap().damaged.is_some());
    // A state of another form is not believed, and all is read.
    let other = Digested { form: Digested::FORM + 1, last_agent_seq: 99, ..Digested::default() };
    let mut entries = entries::Writer::default();
    entries.state(&serde_json::to_vec(&other).unwrap());
    let (flags, body) = stream::Packer::new().unwrap().pack(&entries.take()).unwrap();
    fs::write(&path, [&end[..], &blocks::block(flags, &body)].concat()).unwrap();
    assert_eq!(glance(&path).unwrap().last_agent_seq, 7);
}

/// A journal that says of itself how much is in it may say anything.
#[test]
fn numbers_without_end_are_survived() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("host.journal");
    for number in [u64::MAX - 1, u64::MAX] {
        let state = Digested { form: Digested::FORM, number, facts: u64::MAX, ..Digested::default() };
        let mut entries = entries::Writer::default();
        entries.state(&serde_json::to_vec(&state).unwrap());
        entries.record(&attempt(1, 1)).unwrap();
        entries.record(&attempt(2, 2)).unwrap();
        let (flags, body) = stream::Packer::new().unwrap().pack(&entries.take()).unwrap();
        fs::write(&path, [&blocks::HEADER[..], &blocks::block(flags, &body)].concat()).unwrap();
        let digested = digest(&path, Keep::All).unwrap();
        assert_eq!((digested.number, digested.attempt, digested.told.len()), (u64::MAX, 2, 2));
        assert_eq!(glance(&path).unwrap().number, u64::MAX);
        let (mut appender, _) = Appender::open(&path, Keep::All).unwrap();
        assert_eq!(appender.append(&attempt(3, 3)).unwrap(), u64::MAX);
    }
}

/// The bytes of each record, as they are and as they were: what is in this file once stays, and is read for ever. A
/// record whose form has grown gets a further line.
#[test]
fn records_have_these_bytes() {
    let golden = include_str!("testdata/records.txt");
    let mut known = Vec::new();
    for line in golden.lines().filter(|line| !line.starts_with('#')) {
        let bytes = unescape(line);
        let mut entries = Vec::new();
        entries::read(&bytes, &mut entries::Before::default(), &mut |entry| entries.push(entry)).unwrap();
        assert!(matches!(entries[..], [Entry::Record(_)]), "this can't be read any more: {line}\n{entries:?}");
        known.push(line.to_owned());
    }
    let samples = [samples::records(), samples::since()].concat();
    let missing: Vec<String> = samples.iter().map(escaped).filter(|line| !known.contains(line)).collect();
    assert!(missing.is_empty(), "these lines are to be added to records.txt:\n{}", missing.join("\n"));
}

/// Whoever adds a kind of fact is told here, by the compiler and then by the test, that it needs a sample.
#[test]
fn every_kind_of_fact_has_a_sample() {
    let number = |kind: &EventKind| match kind {
        EventKind::StepStarted { .. } => 0,
        EventKind::StepFinished { .. } => 1,
        EventKind::Log { .. } => 2,
        EventKind::Note { .. } => 3,
        EventKind::State(_) => 4,
        EventKind::Gap { .. } => 5,
        EventKind::Attempt(_) => 6,
        EventKind::Written(_) => 7,
        EventKind::HostKeys(_) => 8,
        EventKind::Seeded(_) => 9,
        EventKind::Outcome(_) => 10,
        EventKind::NothingWritten { .. } => 11,
        EventKind::Shell => 12,
    };
    let mut seen: Vec<u8> = [samples::records(), samples::since()]
        .iter()
        .flatten()
        .filter_map(|record| match record {
            Record::Told { update: Update::Event(_, event), .. } => Some(number(&event.kind)),
            _ => None,
        })
        .collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, (0..=12).collect::<Vec<u8>>());
}

fn escaped(record: &Record) -> String {
    let mut writer = entries::Writer::default();
    writer.record(record).unwrap();
    writer.take().escape_ascii().to_string()
}

fn unescape(line: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = line.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'\\' {
            bytes.push(*byte);
            continue;
        }
        let (kind, after) = rest.split_first().unwrap();
        rest = after;
        bytes.push(match kind {
            b'x' => {
                let digits = std::str::from_utf8(&rest[..2]).unwrap();
                rest = &rest[2..];
                u8::from_str_radix(digits, 16).unwrap()
            }
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            other => *other,
        });
    }
    bytes
}

/// Files that were written by the build named in `testdata/README.md` are read as what was written.
#[test]
fn journals_of_all_formats_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("host.journal");
    let fixtures: [(u8, &[u8]); 2] =
        [(3, include_bytes!("testdata/v3.journal")), (16, include_bytes!("testdata/v16.journal"))];
    for (format, bytes) in fixtures {
        assert_eq!(bytes[..8], [b"ANJRNL\0".as_slice(), &[format]].concat());
        fs::write(&path, bytes).unwrap();
        let (records, reader) = read(&path).unwrap();
        assert_eq!(text(&records), text(&samples::records()), "format {format}");
        assert_eq!((reader.doubt(), reader.torn()), (None, 0));
        let digested = glance(&path).unwrap();
        assert_eq!(digested.end().unwrap(), &samples::summary(crate::report::Ending::Deployed));
        assert_eq!(digested.earlier, (format == 3).then_some(3));
    }
}

/// A journal of the format before is only read, and never changed.
#[test]
fn an_earlier_journal_is_left_to_its_build() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("host.journal");
    let whole = include_bytes!("testdata/v3.journal");
    fs::write(&path, &whole[..whole.len() - 5]).unwrap();
    let error = Appender::open(&path, Keep::All).unwrap_err();
    assert!(matches!(error, JournalError::Earlier { format: 3, .. }), "{error}");
    assert!(error.to_string().contains("begun by an anemos before this one"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), whole[..whole.len() - 5]);
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["host.journal"]);
}

/// The lengths of the format before had no checksum; damage is seen all the same, and records after it are read.
#[test]
fn damage_to_an_earlier_journal_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("host.journal");
    let whole = include_bytes!("testdata/v3.journal");
    let records = text(&samples::records());
    // Not at all of them, which would take a minute.
    for at in (0..whole.len()).step_by(13) {
        for flip in [1, 0x80] {
            let mut bytes = whole.to_vec();
            bytes[at] ^= flip;
            fs::write(&path, &bytes).unwrap();
            let Ok((kept, reader)) = read(&path) else {
                assert!(at < 8, "{flip} at {at}");
                continue;
            };
            assert!(reader.doubt().is_some(), "{flip} at {at} goes unnoticed");
            let kept = text(&kept);
            assert_eq!(kept.len(), records.len() - 1, "{flip} at {at}");
            assert!(kept.iter().all(|record| records.contains(record)));
        }
    }
    for length in (8..whole.len()).step_by(13) {
        fs::write(&path, &whole[..length]).unwrap();
        let (kept, reader) = read(&path).unwrap();
        assert_eq!((text(&kept).as_slice(), reader.doubt()), (&records[..kept.len()], None), "cut at {length}");
    }
}

/// The test below runs itself in a shell that allows files of so many blocks of 512 bytes: what the kernel does at a
/// full disk, it does at that limit.
const SMALL_DISK: &str = "ANEMOS_TEST_SMALL_DISK";

#[test]
fn a_full_disk_leaves_whole_records() {
    // What does not compress.
    let byte = |n: u64| ((n * n).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8 | 0x80;
    let noise = |seq: u64| log(seq, (0..700).map(|n| byte(700 * seq + n)).collect());
    let Some(path) = std::env::var_os(SMALL_DISK).map(PathBuf::from) else {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("host.journal");
        let name = "journal::tests::a_full_disk_leaves_whole_records";
        let status = std::process::Command::new("sh")
            .args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$0\" --exact \"$1\" --test-threads 1"])
            .arg(std::env::current_exe().unwrap())
            .arg(name)
            .env(SMALL_DISK, &path)
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "{status}");
        let (records, reader) = read(&path).unwrap();
        assert!(!records.is_empty() && records.len() < 20, "{}", records.len());
        assert_eq!((reader.torn(), reader.doubt()), (0, None), "the file does not end with a whole record");
        assert_eq!(reader.at(), fs::metadata(&path).unwrap().len());
        write(&path, &[log(99, b"there is room again".to_vec())]);
        assert_eq!(read(&path).unwrap().0.len(), records.len() + 1);
        return;
    };
    let (mut appender, _) = Appender::open(&path, Keep::All).unwrap();
    let mut synced = 0;
    let error = loop {
        appender.append(&noise(synced + 1)).unwrap();
        match appender.sync() {
            Ok(()) => synced += 1,
            Err(error) => break error,
        }
        assert!(synced < 20, "the limit does not hold");
    };
    assert!(error.to_string().contains("writing to"), "{error}");
    assert_eq!(read(&path).unwrap().0.len() as u64, synced);
    // Nothing comes after the failure, though a small record would have found room.
    let stopped = appender.append(&Record::BootSent { wall_ms: 1 }).unwrap_err();
    assert!(matches!(stopped, JournalError::Stopped { .. }), "{stopped}");
    assert!(matches!(appender.sync(), Err(JournalError::Stopped { .. })));
    assert!(matches!(appender.attempt(1), Err(JournalError::Stopped { .. })));
    drop(appender);
    assert_eq!(read(&path).unwrap().0.len() as u64, synced);
}

fn run_file(id: &str) -> RunFile {
    samples::run_file(id, &[])
}

#[test]
fn runs_are_private_locked_and_found() {
    let dir = tempfile::tempdir().unwrap();
    let store = RunStore::at(dir.path().join("runs"));
    assert!(matches!(store.find(None), Err(JournalError::NoRuns(_))));
    let key = RunKey::from_seed(&Secret::new(vec![3; 32])).unwrap();
    let (older, _lock) = store.create(&run_file("20260101-000000-aaaa"), &key).unwrap();
    let (newer, lock) = store.create(&run_file("20260102-000000-bbbb"), &key).unwrap();
    assert_eq!(store.find(None).unwrap().id, newer.id);
    assert_eq!(store.find(Some("aaaa")).unwrap().id, older.id);
    assert!(matches!(store.find(Some("2026")), Err(JournalError::Ambiguous { .. })));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(newer.path()), 0o700);
    assert_eq!(mode(&newer.path().join("keys/run")), 0o600);
    assert_eq!(mode(&newer.path().join("run.json")), 0o600);

    let held = newer.lock().unwrap_err().to_string();
    assert!(held.contains(&std::process::id().to_string()), "{held}");
    drop(lock);
    newer.lock().unwrap();

    assert_eq!(newer.load().unwrap().run, newer.id);
    assert_eq!(newer.key().unwrap().unwrap().public(), key.public());
    newer.forget_key().unwrap();
    newer.forget_key().unwrap();
    assert!(newer.key().unwrap().is_none());
}

#[test]
fn a_path_that_is_not_utf_8_is_an_error_that_leaves_nothing() {
    use std::os::unix::ffi::OsStringExt;
    let dir = tempfile::tempdir().unwrap();
    let store = RunStore::at(dir.path().join("state/runs"));
    let key = RunKey::from_seed(&Secret::new(vec![3; 32])).unwrap();
    let odd = std::ffi::OsString::from_vec(b"/x/\xff/hosts.toml".to_vec());
    let file = RunFile { hosts_file: odd.into(), ..run_file("20260101-000000-aaaa") };
    let error = store.create(&file, &key).unwrap_err();
    assert!(matches!(error, JournalError::Unwritable { .. }), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

    // Nor does one that fails later.
    let (_, _lock) = store.create(&run_file("20260101-000000-aaaa"), &key).unwrap();
    let blocked = dir.path().join("state/runs/20260101-000000-bbbb");
    fs::create_dir(&blocked).unwrap();
    assert!(store.create(&run_file("20260101-000000-bbbb"), &key).is_err());
    assert!(blocked.exists(), "it is not ours");
}

#[test]
fn a_run_that_may_be_several_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let store = RunStore::at(dir.path().join("runs"));
    let key = RunKey::from_seed(&Secret::new(vec![3; 32])).unwrap();
    for id in ["20260101-000000-aaaa", "20260102-000000-bbbb"] {
        store.create(&run_file(id), &key).unwrap();
    }
    let error = store.find(Some("2026")).unwrap_err();
    assert!(matches!(&error, JournalError::Ambiguous { runs, .. } if runs.len() == 2), "{error}");
    assert!(matches!(store.find(Some("2027")), Err(JournalError::NoRun(_))));
    // One that died while it was made is none that anybody means, but is there.
    fs::create_dir(dir.path().join("runs/20260103-000000-cccc")).unwrap();
    assert_eq!(store.find(None).unwrap().id.as_str(), "20260102-000000-bbbb");
    assert_eq!(store.runs().unwrap().len(), 3);
}

fn polled(follower: &mut Follower) -> (Vec<Told>, u64) {
    let (mut all, mut left_out) = (Vec::new(), 0);
    follower
        .poll(&mut |told, lines| {
            left_out += lines;
            all.push(told);
        })
        .unwrap();
    (all, left_out)
}

#[test]
fn following_sees_each_record_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("host.journal");
    let mut follower = Follower::new(&path, Keep::All).unwrap();
    let mut lines = || {
        let (told, left_out) = polled(&mut follower);
        assert_eq!(left_out, 0);
        told.iter().map(|told| told.wall_ms).collect::<Vec<_>>()
    };
    assert_eq!(lines(), [0; 0]);
    write(&path, &[log(1, b"a".to_vec())]);
    assert_eq!(lines(), [1000]);
    assert_eq!(lines(), [0; 0]);
    write(&path, &[log(2, b"b".to_vec()), log(3, b"c".to_vec())]);
    assert_eq!(lines(), [2000, 3000]);
    // What is only half there is seen once it is whole, and damage is no end.
    let before = fs::metadata(&path).unwrap().len();
    write(&path, &[log(4, b"d".to_vec())]);
    let whole = fs::read(&path).unwrap();
    cut(&path, before + 20);
    assert_eq!(lines(), [0; 0]);
    fs::write(&path, [&whole[..before as usize], b"nonsense", &whole[before as usize..]].concat()).unwrap();
    assert_eq!(lines(), [4000]);
}

#[test]
fn a_journal_digested() {
    let message = Record::Told { wall_ms: 5, update: Update::Message(Level::Info, "hello".into()) };
    let gap = Event { seq: 4, uptime_ms: 0, wall_ms: 0, kind: EventKind::Gap { first: 4, last: 9, bytes: 1 } };
    let gap = Record::Told { wall_ms: 6, update: Update::Event(Speaker::Agent, gap) };
    let digested = Digested::of(vec![message, log(3, vec![]), Record::BootSent { wall_ms: 7 }, gap]);
    assert_eq!((digested.last_agent_seq, digested.boot_sent_ms, digested.told.len()), (9, Some(7), 3));
}

/// Of the lines of output only the last are kept, of everything else all; what the reader has got is not missed.
#[test]
fn only_the_last_lines_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("host.journal");
    let step = |n: u64| Record::Told { wall_ms: n, update: Update::Message(Level::Info, format!("step {n}")) };
    let (mut appender, _) = Appender::open(&path, Keep::All).unwrap();
    for n in 0..1000_u64 {
        if n % 100 == 0 {
            appender.append(&step(n)).unwrap();
        }
        appender.append(&log(n, b"line".to_vec())).unwrap();
    }
    drop(appender);
    let all = digest(&path, Keep::All).unwrap().told;
    assert!(all.iter().zip(1..).all(|(told, number)| told.number == number), "numbers are not in order");
    // With 1010 things told, the reader of the first 505 has got 500 lines.
    for (last, after, told, left_out) in
        [(10, 0, 20, 990), (3, 0, 13, 997), (0, 0, 10, 1000), (2000, 0, 1010, 0), (10, 505, 20, 490), (10, 1010, 20, 0)]
    {
        let (_, digested) = Appender::open(&path, Keep::Lines { last, after }).unwrap();
        assert_eq!(
            (digested.told.len(), digested.number, digested.left_out),
            (told, 1010, left_out),
            "{last}, {after}"
        );
        let text = |told: &[Told]| told.iter().map(|told| format!("{told:?}")).collect::<Vec<_>>();
        let (all, kept) = (text(&all), text(&digested.told));
        assert_eq!(kept[kept.len() - last.min(90)..], all[all.len() - last.min(90)..]);
        assert_eq!(kept.iter().filter(|told| told.contains("step")).count(), 10);
    }
}

/// What was told keeps its number, whoever reads, from where, and whatever is damaged before it.
#[test]
fn a_number_is_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("host.journal");
    let said = |text: &str| Record::Told { wall_ms: 5, update: Update::Message(Level::Info, text.into()) };
    let mut streams = Vec::new();
    // Each appender begins a stream of its own.
    for (at, number) in [("one", 1), ("two", 3), ("three", 5)] {
        let (mut appender, _) = Appender::open(&path, Keep::All).unwrap();
        streams.push(fs::metadata(&path).unwrap().len());
        assert_eq!(appender.append(&said(at)).unwrap(), number);
        assert_eq!(appender.append(&Record::Ram { boot_id: "b".into() }).unwrap(), number, "only what is told counts");
        assert_eq!(appender.append(&log(number, b"line".to_vec())).unwrap(), number + 1);
    }
    let numbers = || {
        let digested = digest(&path, Keep::All).unwrap();
        (digested.told.iter().map(|told| told.number).collect::<Vec<_>>(), digested.number, digested.damaged.is_some())
    };
    assert_eq!(numbers(), (vec![1, 2, 3, 4, 5, 6], 6, false));
    let mut follower = Follower::new(&path, Keep::Lines { last: 1, after: 0 }).unwrap();
    assert_eq!(polled(&mut follower).0.last().unwrap().number, 6);
    let mut bytes = fs::read(&path).unwrap();
    bytes[streams[1] as usize + 30] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert_eq!(numbers(), (vec![1, 2, 5, 6], 6, true));
}

/// Which wishes wait for an answer is known at the end.
#[test]
fn wishes_without_an_answer() {
    let told = |update| Record::Told { wall_ms: 5, update };
    let wished = |id: &str, what| told(Update::Wished(Wished { author: "ann".into(), id: id.into(), what }));
    let open = |records: Vec<Record>| {
        Digested::of(records).wishes.into_iter().map(|(number, wished)| (number, wished.id)).collect::<Vec<_>>()
    };
    let retry = || wished("a", What::Retry { payload: None });
    let answered = |wish| told(Update::Answered { wish, refused: None });
    assert_eq!(open(vec![retry(), wished("b", What::Abort)]), [(1, "a".into()), (2, "b".into())]);
    assert_eq!(open(vec![retry(), wished("b", What::Abort), answered(1)]), [(2, "b".into())]);
    // The attempt that begins is the answer to a retry, though nobody wrote that down.
    assert_eq!(open(vec![retry(), wished("b", What::Abort), attempt(1, 2)]), [(2, "b".into())]);
}

#[test]
fn the_lock_is_worth_a_moment() {
    let dir = tempfile::tempdir().unwrap();
    let store = RunStore::at(dir.path().join("runs"));
    let key = RunKey::from_seed(&Secret::new(vec![7; 32])).unwrap();
    let (run, held) = store.create(&run_file("20261123-093000-0a1b"), &key).unwrap();
    assert_eq!(run.follower(), Some(std::process::id().to_string()));
    assert!(matches!(run.lock(), Err(JournalError::Locked { .. })));
    let asking = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(50));
        drop(held);
    });
    run.lock().unwrap();
    asking.join().unwrap();
    assert_eq!(run.follower(), None);
}

fn attempt(seq: u64, number: u32) -> Record {
    let event = Event { seq, uptime_ms: 0, wall_ms: 0, kind: EventKind::Attempt(number) };
    Record::Told { wall_ms: 1, update: Update::Event(Speaker::Agent, event) }
}

/// A journal that lost its end is told by the second file.
#[test]
fn the_second_file_tells_what_the_journal_has_lost() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("host.journal");
    let damaged = || digest(&path, Keep::All).unwrap().damaged;
    write(&path, &[log(1, b"staging".to_vec())]);
    let before_boot = fs::read(&path).unwrap();
    assert!(!dir.path().join("host.attempt").exists());
    write(&path, &[Record::BootSent { wall_ms: 7 }]);
    let booted = fs::read(&path).unwrap();
    assert_eq!((attempt::read(&path), damaged()), (Attempted::Number(0), None));

    let untold = || (digest(&path, Keep::All).unwrap().untold, glance(&path).unwrap().untold);
    assert_eq!(untold(), (false, false));
    let second = fs::read(dir.path().join("host.attempt")).unwrap();
    fs::remove_file(dir.path().join("host.attempt")).unwrap();
    assert_eq!((untold(), damaged()), ((true, true), None), "the disk was full in between");
    fs::write(dir.path().join("host.attempt"), second).unwrap();

    let (mut appender, _) = Appender::open(&path, Keep::All).unwrap();
    appender.append(&attempt(1, 1)).unwrap();
    appender.attempt(1).unwrap();
    let digested = digest(&path, Keep::All).unwrap();
    assert_eq!((digested.attempt, digested.damaged), (1, None));

    fs::write(&path, &booted).unwrap();
    let why = damaged().unwrap();
    assert!(why.contains("knows of 0 payload attempts, the second of 1"), "{why}");
    fs::write(&path, &before_boot).unwrap();
    assert!(damaged().unwrap().contains("was told to boot"));
    fs::remove_file(&path).unwrap();
    assert!(damaged().unwrap().contains("was told to boot"));
    fs::write(dir.path().join("host.attempt"), b"").unwrap();
    assert!(damaged().unwrap().contains("can't be read"));
}
