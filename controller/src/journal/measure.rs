//! Writes runs with journals as a deployment does, for measuring what they take and how fast they are read:
//! docs/BENCHMARKS.md has the commands and what came out.
//!
//! `ANEMOS_JOURNALS="DIR RUNS LINES [LOG]"` makes RUNS runs of one host in DIR/anemos/runs, each of LINES lines of
//! output. They are made up, and come as fast as they are taken, or are those of the file LOG (from its beginning again
//! as often as need be), about twelve a second.

use std::path::Path;

use anemos_proto::event::{Event, EventKind, Stream};

use super::samples::{run_file, run_key};
use super::{Appender, Keep, Record, RunFile, RunStore};
use crate::report::{Phase, Speaker, Update};

/// When the first line was printed, in milliseconds since the Unix epoch.
const START: u64 = 1_795_860_000_000;

/// The controller acknowledges, and so syncs, after so many lines or milliseconds.
const SYNC: (u64, u64) = (64, 2000);

/// It writes down the sums of bytes as often.
const COUNT_MS: u64 = 30_000;

/// Numbers that are the same every time (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// A line like those of a long build: words that come again, and numbers that don't.
fn made_up(numbers: &mut Numbers) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "drivers", "net", "core", "crypto", "kernel", "sched", "fs", "ext4", "mm", "block", "lib", "sound", "arch",
        "x86", "virt", "include",
    ];
    let [a, b, c] = [(); 3].map(|()| WORDS[(numbers.next() % 16) as usize]);
    let n = numbers.next();
    let (unit, size) = (n % 10_000, (n >> 20) % 100_000);
    format!(
        "[{:6}/{:6}] Building object {a}/{b}/{c}/unit_{unit:04}.o, -O2 -fstack-protector-strong \
         -Wformat ({size} bytes in {} ms)",
        n >> 44,
        1_000_000,
        (n >> 8) % 900
    )
    .into_bytes()
}

#[test]
#[ignore = "it measures, and writes where ANEMOS_JOURNALS says: docs/BENCHMARKS.md"]
fn journals() -> Result<(), Box<dyn std::error::Error>> {
    let args = std::env::var("ANEMOS_JOURNALS").map_err(|_| "ANEMOS_JOURNALS is not set: DIR RUNS LINES [LOG]")?;
    let args: Vec<&str> = args.split(' ').collect();
    let (dir, runs, lines, log) = match args[..] {
        [dir, runs, lines] => (dir, runs, lines, None),
        [dir, runs, lines, log] => (dir, runs, lines, Some(std::fs::read(log)?)),
        _ => return Err("ANEMOS_JOURNALS is not DIR RUNS LINES [LOG]".into()),
    };
    let (runs, lines): (u32, u64) = (runs.parse()?, lines.parse()?);
    let log: Option<Vec<&[u8]>> = log.as_deref().map(|log| log.split(|byte| *byte == b'\n').collect());
    let store = RunStore::at(Path::new(dir).join("anemos/runs"));
    for run in 0..runs {
        let (text, size) = write(&store, run, lines, log.as_deref())?;
        println!(
            "run {run}: {lines} lines, {text} bytes of text, {size} of journal: {:.1} %",
            100.0 * size as f64 / text as f64
        );
    }
    Ok(())
}

fn write(
    store: &RunStore,
    run: u32,
    lines: u64,
    log: Option<&[&[u8]]>,
) -> Result<(u64, u64), Box<dyn std::error::Error>> {
    let id = format!("20261128-12{:02}{:02}-{run:04x}", run / 60 % 60, run % 60);
    let file = RunFile { started_ms: START, pid: std::process::id(), ..run_file(&id, &["web1"]) };
    let (dir, _lock) = store.create(&file, &run_key())?;
    let (mut journal, _) = Appender::open(&dir.journal("web1"), Keep::All)?;
    journal.append(&Record::Told { wall_ms: START, update: Update::PhaseStarted(Phase::Build) })?;
    let mut numbers = Numbers(u64::from(run));
    let (mut text, mut uptime, mut received, mut counted, mut synced) = (0, 60_000, 0, 0, (0, 0));
    for seq in 1..=lines {
        let line = match log {
            Some(log) => log[seq as usize % log.len()].to_vec(),
            None => made_up(&mut numbers),
        };
        // A package manager prints two or three lines at once, and then works.
        uptime += match log {
            Some(_) if numbers.next().is_multiple_of(3) => numbers.next() % 480,
            Some(_) => numbers.next() % 3,
            None => numbers.next() % 2,
        };
        text += line.len() as u64 + 1;
        received += line.len() as u64 / 6;
        let wall_ms = START + uptime + 20 + numbers.next() % 9;
        let event = Event {
            seq,
            uptime_ms: uptime,
            wall_ms: START + uptime,
            kind: EventKind::Log { stream: Stream::Stdout, line },
        };
        journal.append(&Record::Told { wall_ms, update: Update::Event(Speaker::Agent, event) })?;
        if wall_ms.saturating_sub(counted) >= COUNT_MS {
            journal.append(&Record::Counted { sent: 2_000_000 + 60 * (seq / SYNC.0), received })?;
            counted = wall_ms;
        }
        if seq - synced.0 >= SYNC.0 || wall_ms.saturating_sub(synced.1) >= SYNC.1 {
            journal.sync()?;
            synced = (seq, wall_ms);
        }
    }
    journal.sync()?;
    Ok((text, std::fs::metadata(dir.journal("web1"))?.len()))
}
