use std::num::NonZeroU16;
use std::sync::{Arc, Mutex};

use anemos_proto::event::{EventKind, Level, Outcome, Unit};
use vt100::Parser;

use super::samples::{T0, event, log, progress, report, step, summary};
use crate::report::{Ending, Phase, Report, Update};
use crate::screen::Show;
use crate::screen::live::LiveScreen;
use crate::screen::text::Paint;

/// A terminal in memory, and a live screen on it.
struct Lab {
    terminal: Arc<Mutex<Parser>>,
    size: Arc<Mutex<(u16, u16)>>,
    screen: LiveScreen,
}

fn some(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

struct Input(Arc<Mutex<Parser>>);

impl std::io::Write for Input {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().process(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lab {
    fn new(hosts: &[&str], columns: u16, rows: u16) -> Self {
        Self::painted(hosts, columns, rows, Paint(false))
    }

    fn painted(hosts: &[&str], columns: u16, rows: u16, paint: Paint) -> Self {
        let terminal = Arc::new(Mutex::new(Parser::new(some(rows), some(columns), 10_000)));
        let size = Arc::new(Mutex::new((columns, rows)));
        let hosts: Vec<String> = hosts.iter().map(|&host| host.into()).collect();
        let (input, asked) = (Input(Arc::clone(&terminal)), Arc::clone(&size));
        let size_now = move || *asked.lock().unwrap();
        let screen = LiveScreen::new(&hosts, Box::new(input), Box::new(size_now), paint, true);
        Self { terminal, size, screen }
    }

    fn show(&mut self, reports: &[Report]) {
        for report in reports {
            self.screen.report(report);
        }
    }

    fn tick(&mut self, after_ms: u64) -> Vec<String> {
        self.screen.tick(T0 + after_ms);
        self.rows()
    }

    fn finish(&mut self, after_ms: u64) -> Vec<String> {
        self.screen.finish(T0 + after_ms);
        self.rows()
    }

    fn resize(&mut self, columns: u16, rows: u16) {
        *self.size.lock().unwrap() = (columns, rows);
        self.terminal.lock().unwrap().screen_mut().set_size(some(rows), some(columns));
    }

    /// What can be seen, without the empty rows at the end.
    fn rows(&self) -> Vec<String> {
        let terminal = self.terminal.lock().unwrap();
        let columns = self.size.lock().unwrap().0;
        let mut rows: Vec<String> = terminal.screen().rows(0, columns).map(|row| row.trim_end().into()).collect();
        while rows.last().is_some_and(String::is_empty) {
            rows.pop();
        }
        rows
    }
}

fn phase(host: &str, after_ms: u64, phase: Phase) -> Report {
    report(host, after_ms, Update::PhaseStarted(phase))
}

#[test]
fn one_line_a_host() {
    let mut lab = Lab::new(&["web1", "database"], 100, 24);
    lab.show(&[
        phase("web1", 0, Phase::Build),
        step("web1", 0, 1, "install packages"),
        progress("web1", 0, 1, 120, Some(480), Unit::Items),
    ]);
    let rows = lab.tick(65_000);
    assert_eq!(rows.len(), 2, "{rows:#?}");
    assert!(rows[0].contains(" web1      build       1m05s  install packages "), "{rows:#?}");
    assert!(rows[0].ends_with("120/480, 3m15s left"), "{rows:#?}");
    assert_eq!((rows[0].matches('━').count(), rows[0].matches('╌').count()), (4, 12), "a quarter: {rows:#?}");
    assert_eq!(rows[1], "· database                     waiting for its turn");
}

#[test]
fn a_host_that_waits_says_what_for() {
    let mut lab = Lab::new(&["web1", "web2"], 80, 10);
    lab.show(&[
        phase("web1", 0, Phase::Build),
        phase("web2", 0, Phase::Probe),
        report("web2", 10, Update::Waiting("waits for web1, which goes alone".into())),
    ]);
    assert_eq!(lab.tick(5000)[1], "· web2  waiting       5 s  waits for web1, which goes alone");
    lab.show(&[phase("web2", 6000, Phase::Upload)]);
    let row = lab.tick(7000)[1].clone();
    assert!(row.contains("upload") && !row.contains("waits"), "{row}");
}

#[test]
fn rows_are_replaced_not_repeated() {
    let mut lab = Lab::new(&["a", "b"], 80, 10);
    for i in 0..50 {
        lab.show(&[phase("a", i, Phase::ALL[i as usize % 8])]);
        assert_eq!(lab.tick(i * 1000).len(), 2);
    }
}

#[test]
fn log_of_a_single_host_scrolls_above_its_row() {
    let mut lab = Lab::new(&["web1"], 80, 10);
    lab.show(&[phase("web1", 0, Phase::Build)]);
    lab.tick(0);
    lab.show(&[log("web1", 1, b"Unpacking \x1b[1mbash\x1b[0m"), log("web1", 2, b" 10%\r 20%")]);
    let rows = lab.tick(1000);
    assert_eq!(rows[..2], ["Unpacking bash", " 20%"]);
    assert!(rows[2].contains("web1  build"), "{rows:#?}");
    assert_eq!(rows.len(), 3);
    for i in 0..100 {
        lab.show(&[log("web1", 2000, format!("line {i}").as_bytes())]);
        lab.tick(2000);
    }
    let rows = lab.rows();
    assert_eq!(rows.len(), 10);
    assert_eq!(rows[8], "line 99");
    assert!(rows[9].contains("web1  build"));
}

#[test]
fn long_lines_wrap_and_rows_stay_whole() {
    let mut lab = Lab::new(&["web1"], 40, 12);
    lab.show(&[phase("web1", 0, Phase::Build)]);
    for i in 0..5 {
        lab.show(&[log("web1", 0, "x".repeat(90).as_bytes())]);
        let rows = lab.tick(i);
        assert_eq!(rows.iter().filter(|row| row.contains("web1")).count(), 1, "{rows:#?}");
        assert_eq!(rows.len(), (3 * (i as usize + 1) + 1).min(12));
    }
    // A line that is as wide as the terminal takes one row.
    lab.show(&[log("web1", 0, "y".repeat(40).as_bytes()), log("web1", 0, b"z")]);
    let rows = lab.tick(9);
    assert_eq!(rows[9..11], ["y".repeat(40), "z".into()]);
}

#[test]
fn lines_end_where_they_end() {
    let mut lab = Lab::new(&["web1"], 40, 10);
    lab.show(&[phase("web1", 0, Phase::Build), log("web1", 0, b"short"), log("web1", 0, b"x")]);
    lab.tick(0);
    let terminal = lab.terminal.lock().unwrap();
    assert!(!terminal.screen().row_wrapped(0) && !terminal.screen().row_wrapped(1), "a reflow would join these rows");
}

#[test]
fn several_hosts_keep_their_log_to_themselves_until_they_fail() {
    let mut lab = Lab::new(&["a", "b"], 130, 24);
    lab.show(&[phase("a", 0, Phase::Build), phase("b", 0, Phase::Build)]);
    lab.show(&[log("a", 1, b"fine"), log("b", 1, b"first"), log("b", 1, b"mkfs: no space")]);
    assert_eq!(lab.tick(1000).len(), 2);
    lab.show(&[event(
        "b",
        2,
        EventKind::Outcome(Outcome::Failed { reason: "deploy ended with 1".into(), written: true }),
    )]);
    let rows = lab.tick(2000);
    assert_eq!(rows[0], "b  the payload FAILED: deploy ended with 1 (disks were written)");
    assert!(rows[1].contains(" a  build"));
    assert!(rows[2].starts_with("! b  build") && rows[2].ends_with("deploy ended with 1"), "{rows:#?}");
    assert_eq!(rows[3..], ["    first", "    mkfs: no space"]);
    lab.show(&[summary("b", 3, Ending::Held, "deploy ended with 1"), summary("a", 3, Ending::Deployed, "Debian 13")]);
    let rows = lab.finish(3000);
    assert!(rows.contains(&"b | mkfs: no space".to_owned()), "{rows:#?}");
    let table = rows.iter().position(|row| row.starts_with("HOST")).expect("a table");
    assert!(rows[table + 1].starts_with("a     deployed"), "{rows:#?}");
    assert!(rows[table + 2].starts_with("b     held"), "{rows:#?}");
    assert_eq!(rows.len(), table + 3, "nothing is left of the rows: {rows:#?}");
    assert!(!rows.iter().any(|row| row.contains("✔") || row.contains("✘")), "{rows:#?}");
}

#[test]
fn a_lost_link_is_seen_and_goes_away() {
    let mut lab = Lab::new(&["a", "b"], 80, 24);
    lab.show(&[phase("a", 0, Phase::Build), report("a", 1000, Update::LinkLost("timed out".into()))]);
    assert!(lab.tick(13_000)[0].ends_with("no connection for 12 s: timed out"));
    lab.show(&[report("a", 14_000, Update::LinkBack)]);
    assert!(!lab.tick(14_000)[0].contains("no connection"));
}

#[test]
fn five_hundred_hosts_on_24_rows() {
    let names: Vec<String> = (0..500).map(|i| format!("host-{i:03}")).collect();
    let mut lab = Lab::new(&names.iter().map(String::as_str).collect::<Vec<_>>(), 80, 24);
    for (i, name) in names.iter().enumerate().take(400) {
        let now = match i {
            0..100 => summary(name, 5, Ending::Deployed, "Debian"),
            100..250 => phase(name, 0, Phase::Build),
            250..300 => phase(name, 0, Phase::Boot),
            _ => phase(name, 0, Phase::Connect),
        };
        lab.show(&[now]);
    }
    lab.show(&[
        log("host-299", 1, b"panic"),
        event("host-299", 1, EventKind::Note { level: Level::Error, text: "no disk".into() }),
        report("host-399", 1, Update::LinkLost("reset".into())),
    ]);
    lab.tick(1000);
    // The last words of hosts scroll by; then there are only rows.
    let rows = lab.tick(2000);
    assert_eq!(rows.len(), 24);
    let rows = &rows[1..];
    assert!(rows[0].starts_with("! host-299") && rows[0].ends_with("no disk"), "{rows:#?}");
    assert_eq!(rows[1], "    panic");
    assert!(rows[2].starts_with("? host-399"), "{rows:#?}");
    assert!(rows[3].contains(" host-100  build"), "{rows:#?}");
    assert!(rows[21].contains(" host-118  build"), "{rows:#?}");
    assert_eq!(rows[22], "+479 more: 99 connecting, 49 booting, 131 building, 100 waiting, 100 deployed");
    // The same again: the order is stable and nothing grows.
    let again = lab.tick(2000);
    assert_eq!(&again[1..], rows);
    // Everybody is counted once.
    let counted: usize = rows[22]
        .split(&[':', ','])
        .skip(1)
        .map(|part| part.trim().split(' ').next().unwrap().parse::<usize>().unwrap())
        .sum();
    assert_eq!(counted, 479);
}

#[test]
fn many_failing_hosts_leave_room_for_rows() {
    let names: Vec<String> = (0..50).map(|i| format!("h{i:02}")).collect();
    let mut lab = Lab::new(&names.iter().map(String::as_str).collect::<Vec<_>>(), 80, 24);
    for name in &names {
        lab.show(&[phase(name, 0, Phase::Build), log(name, 1, b"one"), log(name, 1, b"two"), log(name, 1, b"three")]);
        lab.show(&[event(
            name,
            1,
            EventKind::StepFinished { step: 1, outcome: anemos_proto::event::StepOutcome::Failed("x".into()) },
        )]);
    }
    let rows = lab.tick(1000);
    assert_eq!(rows.len(), 24);
    let hosts = rows.iter().filter(|row| row.starts_with("! h")).count();
    let logs = rows.iter().filter(|row| *row == "    three").count();
    assert!(hosts >= 14 && logs >= 5, "{hosts} hosts, {logs} log lines: {rows:#?}");
    assert!(rows[23].starts_with(&format!("+{} more: {} failing", 50 - hosts, 50 - hosts)), "{rows:#?}");
}

#[test]
fn resizing_leaves_no_ghosts() {
    let mut lab = Lab::new(&["a", "b", "c"], 100, 24);
    for host in ["a", "b", "c"] {
        lab.show(&[phase(host, 0, Phase::Build), step(host, 0, 1, "install packages and a long name for it")]);
    }
    assert_eq!(lab.tick(0).len(), 3);
    for (columns, rows) in [(60, 24), (30, 24), (30, 10), (120, 10), (120, 40), (80, 24), (10, 3), (1, 1)] {
        lab.resize(columns, rows);
        for i in 0..3 {
            let seen = lab.tick(i);
            assert!(seen.len() <= usize::from(rows), "{columns}x{rows}: {seen:#?}");
            if columns >= 30 && rows >= 4 {
                let hosts = seen.iter().filter(|row| row.contains(" build ")).count();
                assert_eq!((hosts, seen.len()), (3, 3), "{columns}x{rows}: {seen:#?}");
            }
        }
    }
}

#[test]
fn no_row_is_wider_than_the_terminal() {
    for columns in 1..120 {
        let mut lab = Lab::new(&["web1", "国国国国"], columns, 24);
        lab.show(&[
            phase("web1", 0, Phase::Upload),
            report("web1", 0, Update::Uploaded { sent: 1_000_000, total: 1_900_000 }),
            phase("国国国国", 0, Phase::Build),
            step("国国国国", 0, 1, "国".repeat(80).as_str()),
            progress("国国国国", 0, 1, 5, None, Unit::Bytes),
        ]);
        let rows = lab.tick(100_000);
        assert_eq!(rows.len(), 2, "{columns}: {rows:#?}");
    }
}

#[test]
fn a_flood_is_counted_not_shown() {
    let mut lab = Lab::new(&["a"], 80, 24);
    lab.show(&[phase("a", 0, Phase::Build)]);
    for i in 0..2000 {
        lab.show(&[log("a", 0, format!("{i}").as_bytes())]);
    }
    lab.tick(0);
    let terminal = Arc::clone(&lab.terminal);
    terminal.lock().unwrap().screen_mut().set_scrollback(usize::MAX);
    let top = lab.rows();
    assert_eq!(top[0], "… 1500 lines too fast to show; `anemos logs` has them");
    assert_eq!(top[1], "1500");
}

#[test]
fn a_pause_clears_the_rows_and_loses_nothing() {
    let mut lab = Lab::new(&["a"], 80, 24);
    lab.show(&[phase("a", 0, Phase::Probe), log("a", 0, b"before")]);
    lab.tick(0);
    lab.screen.plans(&[super::plan::plan()], None, T0);
    lab.screen.pause();
    let rows = lab.rows();
    assert_eq!(rows[0], "before");
    assert!(rows[1].starts_with("web1  root@192.0.2.7:22"), "{rows:#?}");
    lab.terminal.lock().unwrap().process(b"Type `yes` to go on: yes\r\n");
    lab.show(&[log("a", 1, b"during")]);
    let rows_then = lab.tick(1);
    assert_eq!(rows_then.last().unwrap(), "Type `yes` to go on: yes");
    lab.screen.resume();
    let rows = lab.tick(2);
    let at = rows.iter().position(|row| row.contains("Type `yes`")).unwrap();
    assert_eq!(rows[at + 1], "during");
    assert!(rows[at + 2].contains(" a  probe"), "{rows:#?}");
    assert_eq!(rows.len(), at + 3);
}

#[test]
fn colours_only_if_wanted() {
    for (paint, coloured) in [(Paint(false), false), (Paint(true), true)] {
        let mut lab = Lab::painted(&["a"], 80, 24, paint);
        lab.show(&[phase("a", 0, Phase::Build), log("a", 0, b"dim")]);
        lab.tick(0);
        let terminal = lab.terminal.lock().unwrap();
        let cell = terminal.screen().cell(0, 0).unwrap();
        assert_eq!(cell.dim(), coloured);
        let mark = terminal.screen().cell(1, 0).unwrap();
        assert_eq!(mark.fgcolor() != vt100::Color::Default, coloured);
    }
}

#[test]
fn the_title_says_how_far_it_is_and_goes_back() {
    #[derive(Clone, Default)]
    struct Bytes(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Bytes {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let run = |titled: bool| {
        let bytes = Bytes::default();
        let hosts = ["a".to_owned(), "b\x07".to_owned()];
        let screen = LiveScreen::new(&hosts, Box::new(bytes.clone()), Box::new(|| (80, 24)), Paint(false), true);
        let mut screen = if titled { screen.titled() } else { screen };
        screen.tick(T0);
        screen.report(&summary("a", 0, Ending::Deployed, "Debian"));
        screen.tick(T0 + 1);
        screen.report(&summary("b\x07", 1, Ending::Held, "it failed"));
        screen.finish(T0 + 2);
        let bytes = bytes.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).unwrap();
        let mut titles: Vec<String> =
            text.split("\x1b]2;").skip(1).map(|rest| rest.split('\x07').next().unwrap().into()).collect();
        titles.push(format!("{} {}", text.matches("\x1b[22;2t").count(), text.matches("\x1b[23;2t").count()));
        titles
    };
    let expected = ["anemos: 2 hosts", "anemos: 2 hosts, 1 deployed", "anemos: 2 hosts, 1 held, 1 deployed", "1 1"];
    assert_eq!(run(true), expected);
    assert_eq!(run(false), ["0 0"]);
}
