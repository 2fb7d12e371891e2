use super::*;
use anemos_proto::event::{AgentState, Stream, Unit};
use proptest::prelude::*;

fn line(n: usize, length: usize) -> EventKind {
    // Hard to compress, so that caps are reached.
    let mut word = n as u64 + 1;
    let byte = |_| {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (word >> 56) as u8
    };
    EventKind::Log { stream: Stream::Stdout, line: (0..length).map(byte).collect() }
}

fn read_all(log: &Log, after: u64) -> Vec<Event> {
    let (mut cursor, mut all) = (Cursor { after, progress: 0 }, Vec::new());
    loop {
        let mut some = log.read(&mut cursor).unwrap();
        if some.is_empty() {
            return all;
        }
        all.append(&mut some);
    }
}

/// Checks that `events` are exactly the facts after `after`, up to `last`, each once, gaps included.
fn assert_whole(events: &[Event], after: u64, last: u64) {
    let mut next = after + 1;
    for event in events {
        if let EventKind::Gap { first, last, .. } = event.kind {
            assert_eq!((first, event.seq), (next, last));
            next = last + 1;
        } else {
            assert_eq!(event.seq, next);
            next += 1;
        }
    }
    assert_eq!(next, last + 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// A reader that begins anywhere gets every fact once, and only lines of output are replaced by gaps, whatever was
    /// appended, whatever the cap is, and even if the agent was started again in between.
    #[test]
    fn every_fact_comes_once_from_any_point(
        batches in prop::collection::vec((1usize..400, 1usize..3000, any::<bool>()), 1..12),
        cap in prop_oneof![Just(u64::MAX), 20_000u64..600_000],
        reopen in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::open(dir.path(), cap);
        let mut structure = Vec::new();
        for (i, (count, length, structural)) in batches.iter().enumerate() {
            log.append_all((0..*count).map(|n| line(i * 1000 + n, *length)));
            if *structural {
                structure.push(log.begin(format!("step {i}"), None));
            }
            if reopen && i % 3 == 2 {
                log = Log::open(dir.path(), cap);
            }
        }
        let last = log.last();
        let expected: u64 = batches.iter().map(|(count, _, structural)| *count as u64 + u64::from(*structural)).sum();
        prop_assert_eq!(last, expected);
        let all = read_all(&log, 0);
        assert_whole(&all, 0, last);
        let steps: Vec<u32> = all
            .iter()
            .filter_map(|e| if let EventKind::StepStarted { step, .. } = e.kind { Some(step) } else { None })
            .collect();
        prop_assert_eq!(steps, structure);
        for after in [0, 1, last / 3, last / 2, last - 1, last] {
            assert_whole(&read_all(&log, after), after, last);
        }
        if cap == u64::MAX {
            let gap = all.iter().any(|e| matches!(e.kind, EventKind::Gap { .. }));
            prop_assert!(!gap);
        }
    }
}

#[test]
fn the_cap_holds_under_a_flood_and_few_files_stay() {
    let dir = tempfile::tempdir().unwrap();
    let cap = 400_000;
    let log = Log::open(dir.path(), cap);
    let step = log.begin("first", None);
    for n in 0..200 {
        log.append_all((0..20).map(|i| line(n * 20 + i, 4000)));
    }
    log.end(step, StepOutcome::Done);
    let files: Vec<u64> =
        fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).collect();
    assert!(files.iter().sum::<u64>() < cap + 2 * CHUNK as u64, "{files:?}");
    assert!(files.len() < 20, "{} files", files.len());
    let all = read_all(&log, 0);
    assert_whole(&all, 0, log.last());
    assert!(matches!(all[0].kind, EventKind::StepStarted { .. }), "structure stays");
    let gaps: Vec<&Event> = all.iter().filter(|e| matches!(e.kind, EventKind::Gap { .. })).collect();
    assert_eq!(gaps.len(), 1, "one gap, however long the flood");
    // A reader whose cursor is inside the gap gets a gap that begins after its cursor.
    let EventKind::Gap { last, .. } = gaps[0].kind else { unreachable!() };
    let rest = read_all(&log, last - 10);
    assert!(matches!(rest[0].kind, EventKind::Gap { first, .. } if first == last - 9));
}

#[test]
fn without_lines_what_has_nothing_else_is_not_even_read() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), u64::MAX);
    let step = log.begin("first", None);
    for n in 0..40 {
        log.append_all((0..20).map(|i| line(n * 20 + i, 4000)));
    }
    log.end(step, StepOutcome::Done);
    log.append_all((0..3).map(|i| line(i, 100)));
    // All chunks but the first have nothing but lines.
    let mut files: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "zst"));
    files.sort();
    assert!(files.len() > 10);
    files[1..].iter().for_each(|path| fs::remove_file(path).unwrap());
    for after in [0, 100] {
        let (mut cursor, mut all) = (Cursor { after, progress: 0 }, Vec::new());
        loop {
            let mut some = log.read_without_lines(&mut cursor).unwrap();
            if some.is_empty() {
                break;
            }
            all.append(&mut some);
        }
        assert_whole(&all, after, log.last());
        assert!(all.len() < 10, "{} events", all.len());
        assert!(all.iter().all(|event| !matches!(event.kind, EventKind::Log { .. })));
        assert!(all.iter().any(|event| matches!(event.kind, EventKind::StepFinished { .. })));
    }
}

#[test]
fn a_crash_in_the_middle_of_writing_loses_only_the_torn_fact() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), u64::MAX);
    log.append(EventKind::State(AgentState::Starting));
    log.begin("step", None);
    log.append(line(1, 100));
    drop(log);
    let path = dir.path().join("open");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 7]).unwrap();
    let log = Log::open(dir.path(), u64::MAX);
    assert_eq!(log.last(), 2);
    assert_eq!(log.begin("another", None), 2, "step ids go on");
    assert_whole(&read_all(&log, 0), 0, 3);
}

#[test]
fn progress_is_the_latest_of_each_step_and_ends_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), u64::MAX);
    let step = log.begin("step", None);
    let progress = |done| Progress { step, done, total: Some(9), unit: Unit::Items, what: None };
    let mut cursor = Cursor::default();
    for done in 0..5 {
        log.progress(progress(done));
    }
    assert_eq!(log.read_progress(&mut cursor), [progress(4)]);
    assert_eq!(log.read_progress(&mut cursor), []);
    assert_eq!(log.read_progress(&mut Cursor::default()), [progress(4)], "for one who attaches now");
    log.end(step, StepOutcome::Done);
    assert_eq!(log.read_progress(&mut Cursor::default()), []);
}

#[test]
fn a_gap_stands_for_what_an_agent_before_can_t_hand_over() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), u64::MAX);
    // Four chunks, and an open one.
    for n in 0..4 {
        log.append_all((0..=CHUNK / 4000).map(|i| line(n * 100 + i, 4000)));
    }
    log.begin("step", None);
    let last = log.last();
    let whole = read_all(&log, 0);
    drop(log);
    let mut files: Vec<PathBuf> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "zst"));
    assert_eq!(files.len(), 4, "{files:?}");
    // One is damaged; one was never stored, as where there was no room.
    fs::write(&files[1], "nonsense").unwrap();
    fs::remove_file(&files[2]).unwrap();
    for again in [false, true] {
        let log = Log::open(dir.path(), u64::MAX);
        let all = read_all(&log, 0);
        assert_whole(&all, 0, last);
        let gap = |event: &&Event| matches!(event.kind, EventKind::Gap { .. });
        assert_eq!(all.iter().filter(gap).count(), 1, "again: {again}");
        assert!(all.iter().filter(|event| !gap(event)).all(|event| whole.contains(event)));
        assert_eq!(log.last(), last, "again: {again}");
    }
    // The newest is damaged, and nothing came after it: no number is given to two facts.
    fs::write(&files[3], "nonsense").unwrap();
    fs::write(dir.path().join("open"), "").unwrap();
    let log = Log::open(dir.path(), u64::MAX);
    log.begin("another", None);
    let all = read_all(&log, 0);
    assert_eq!(all.last().unwrap().seq, log.last());
    assert_whole(&all, 0, log.last());
    assert!(log.last() >= last, "{} facts after {last}", log.last());
}

#[test]
fn without_room_for_files_the_log_is_in_memory() {
    let fill = |log: &Log| {
        log.append_all((0..100).map(|n| line(n, 4000)));
        log.begin("step", None);
        assert_whole(&read_all(log, 0), 0, 101);
    };
    fill(&Log::open(Path::new("/dev/null/log"), u64::MAX));
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), u64::MAX);
    // Writing to this device fails as on a full file system. The log makes the file anew with each chunk.
    let open = dir.path().join("open");
    fs::remove_file(&open).unwrap();
    std::os::unix::fs::symlink("/dev/full", open).unwrap();
    fill(&log);
}

#[test]
fn gaps_that_claim_to_be_larger_than_anything_are_joined() {
    let gap = |seq| Event {
        seq,
        uptime_ms: 0,
        wall_ms: 0,
        kind: EventKind::Gap { first: seq, last: seq, bytes: u64::MAX - 1 },
    };
    let joined = chunk::thin(vec![gap(1), gap(2)], Keep::All);
    assert!(matches!(joined[..], [Event { seq: 2, kind: EventKind::Gap { first: 1, last: 2, bytes: u64::MAX }, .. }]));
}
