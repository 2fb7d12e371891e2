use std::os::unix::fs::PermissionsExt;

use anemos_proto::Secret;
use anemos_proto::event::{Event, EventKind, Level, Stream};
use proptest::prelude::*;

use super::*;
use crate::report::Speaker;
use crate::ssh::RunKey;

fn log(seq: u64, line: Vec<u8>) -> Record {
    let kind = EventKind::Log { stream: Stream::Stdout, line };
    let event = Event { seq, uptime_ms: seq, wall_ms: seq, kind };
    Record::Told { wall_ms: seq, update: Update::Event(Speaker::Agent, event) }
}

fn write(path: &Path, records: &[Record]) {
    let (mut appender, _) = Appender::open(path).unwrap();
    for record in records {
        appender.append(record).unwrap();
    }
    appender.sync().unwrap();
}

fn text(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| format!("{record:?}")).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Wherever a crash cuts the file, every record that was whole is read, and writing goes on after the last.
    #[test]
    fn a_torn_journal_keeps_its_whole_records(
        lines in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..12),
        cut in any::<prop::sample::Index>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("host.journal");
        let records: Vec<Record> = lines.into_iter().enumerate().map(|(i, line)| log(i as u64 + 1, line)).collect();
        let mut ends = Vec::new();
        for record in &records {
            write(&path, std::slice::from_ref(record));
            ends.push(std::fs::metadata(&path).unwrap().len());
        }
        let length = cut.index(*ends.last().unwrap() as usize + 1) as u64;
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length).unwrap();
        let whole = ends.iter().filter(|end| **end <= length).count();
        let contents = read(&path).unwrap();
        prop_assert_eq!(text(&contents.records), text(&records[..whole]));
        prop_assert!(!matches!(contents.tail, Tail::Damaged(_)));

        write(&path, &[log(99, b"after".to_vec())]);
        let again = read(&path).unwrap();
        prop_assert_eq!(again.records.len(), whole + 1);
        prop_assert_eq!(again.tail, Tail::Clean);
    }

    /// A flipped byte never panics, and never changes a record that comes before it.
    #[test]
    fn a_damaged_journal_keeps_what_is_before_the_damage(at in any::<prop::sample::Index>(), flip in 1_u8..) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("host.journal");
        let records: Vec<Record> = (1..8).map(|seq| log(seq, vec![seq as u8; 20])).collect();
        write(&path, &records);
        let mut bytes = std::fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(contents) = parse(&bytes, &path) {
            prop_assert!(contents.good as usize <= at.max(8));
            prop_assert_eq!(text(&contents.records), text(&records[..contents.records.len()]));
        } else {
            prop_assert!(at < 8);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes, Path::new("x"));
    }
}

#[test]
fn a_damaged_end_is_kept_beside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("host.journal");
    write(&path, &[log(1, b"one".to_vec()), log(2, b"two".to_vec()), log(3, b"three".to_vec())]);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let contents = read(&path).unwrap();
    assert!(matches!(contents.tail, Tail::Damaged(_)), "{:?}", contents.tail);
    let (_, digested) = Appender::open(&path).unwrap();
    let told = digested.damaged.unwrap();
    assert!(told.contains(&format!("byte {}, kept as host.journal.damaged", contents.good)), "{told}");
    let beside = std::fs::read(dir.path().join("host.journal.damaged")).unwrap();
    assert_eq!(beside, bytes[contents.good as usize..]);
}

#[test]
fn another_format_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("host.journal");
    std::fs::write(&path, b"ANJRNL\0\xfe").unwrap();
    assert!(matches!(read(&path), Err(JournalError::Version { found: 0xfe, .. })));
    std::fs::write(&path, b"something else").unwrap();
    assert!(matches!(read(&path), Err(JournalError::Damaged { .. })));
}

fn run_file(id: &str) -> RunFile {
    RunFile {
        format: RunFile::FORMAT,
        run: id.parse().unwrap(),
        started_ms: 1,
        hosts_file: "/x/hosts.toml".into(),
        pid: 1,
        hosts: Vec::new(),
    }
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
    assert!(matches!(store.find(Some("2026")), Err(JournalError::NoRun(_))));
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
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
fn following_sees_each_record_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("host.journal");
    let mut follower = Follower::new(path.clone(), 0);
    write(&path, &[log(1, b"a".to_vec())]);
    assert_eq!(follower.poll().unwrap().len(), 1);
    assert_eq!(follower.poll().unwrap().len(), 0);
    write(&path, &[log(2, b"b".to_vec()), log(3, b"c".to_vec())]);
    assert_eq!(text(&follower.poll().unwrap()), text(&[log(2, b"b".to_vec()), log(3, b"c".to_vec())]));
}

#[test]
fn a_journal_digested() {
    let message = Record::Told { wall_ms: 5, update: Update::Message(Level::Info, "hello".into()) };
    let gap = Event { seq: 4, uptime_ms: 0, wall_ms: 0, kind: EventKind::Gap { first: 4, last: 9, bytes: 1 } };
    let gap = Record::Told { wall_ms: 6, update: Update::Event(Speaker::Agent, gap) };
    let digested = Digested::of(vec![message, log(3, vec![]), Record::BootSent { wall_ms: 7 }, gap]);
    assert_eq!((digested.last_agent_seq, digested.boot_sent_ms, digested.told.len()), (9, Some(7), 3));
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
    let damaged = || digest(&path).unwrap().damaged;
    write(&path, &[log(1, b"staging".to_vec())]);
    let before_boot = std::fs::read(&path).unwrap();
    assert!(!dir.path().join("host.attempt").exists());
    write(&path, &[Record::BootSent { wall_ms: 7 }]);
    let booted = std::fs::read(&path).unwrap();
    assert_eq!((attempt::read(&path), damaged()), (Attempted::Number(0), None));

    let (mut appender, _) = Appender::open(&path).unwrap();
    appender.append(&attempt(1, 1)).unwrap();
    appender.attempt(1).unwrap();
    let digested = digest(&path).unwrap();
    assert_eq!((digested.attempt, digested.damaged), (1, None));

    std::fs::write(&path, &booted).unwrap();
    let why = damaged().unwrap();
    assert!(why.contains("knows of 0 payload attempts, the second of 1"), "{why}");
    std::fs::write(&path, &before_boot).unwrap();
    assert!(damaged().unwrap().contains("was told to boot"));
    std::fs::remove_file(&path).unwrap();
    assert!(damaged().unwrap().contains("was told to boot"));
    std::fs::write(dir.path().join("host.attempt"), b"").unwrap();
    assert!(damaged().unwrap().contains("can't be read"));
}
