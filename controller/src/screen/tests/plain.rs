use anemos_proto::event::{EventKind, Level, Outcome, StepOutcome, Unit};

use super::samples::{Sink, event, every_report, log, progress, report, step, summary};
use crate::report::{Ending, Phase, Report, Update};
use crate::screen::Screen;
use crate::screen::logs::{LogWriter, Wanted};
use crate::screen::plain::PlainLines;

fn lines(reports: &[Report]) -> String {
    let mut plain = PlainLines::new(&[]);
    reports.iter().filter_map(|report| plain.line(report)).map(|line| line + "\n").collect()
}

#[test]
fn every_kind_of_report() {
    let expected = "\
2026-11-23T09:30:00Z web1 connect: connecting to the old system
09:30:01Z web1 connect: done in 0.4 s
09:30:02Z web1 connect: Debian GNU/Linux 12 (bookworm), Linux 6.1.0-28-cloud-amd64, x86_64, UEFI, 2.0 GiB of memory, \
         /dev/vda 20.0 GiB, /dev/vdb 2.0 TiB
09:30:05Z web1 connect: connection lost: connection reset; trying again
09:30:06Z web1 connect: connected again
09:30:07Z web1 connect: warning: the host's clock is 3 s off
09:30:08Z web1 connect: partition: started
09:30:09Z web1 connect: mkfs: started
09:30:10Z web1 connect: mkfs: done in 1.0 s
09:30:11Z web1 connect: step 2: skipped: there is one
09:30:12Z web1 connect: partition: FAILED in 4.0 s: no space left
web1 | Unpacking bash
web1 | \u{fffd}\u{fffd}
web1 | kernel: EXT4-fs (vda2): mounted
09:30:16Z web1 connect: all well
09:30:17Z web1 connect: warning: no swap
09:30:18Z web1 connect: ERROR: no disk
09:30:19Z web1 connect: the agent is starting
09:30:20Z web1 connect: the agent is ready
09:30:21Z web1 connect: the payload is running
09:30:22Z web1 connect: HELD, waiting for a person: deploy ended with 1
09:30:23Z web1 connect: the payload succeeded
09:30:24Z web1 connect: going back to the old system: nobody came
09:30:25Z web1 connect: events 5 to 9 (4.0 KiB) were dropped on the host: its log was full
09:30:26Z web1 connect: attempt 2
09:30:27Z web1 connect: written: /dev/vda 1.0 MiB
09:30:28Z web1 connect: host keys of the new system: ssh-ed25519 SHA256:m2/uOnFhGy2DVkdfR258s0OEx/ByEymn6LcQQ7NKyLU
09:30:29Z web1 connect: 39.1 MiB put in the new system's cache
09:30:30Z web1 connect: the payload ended well
09:30:31Z web1 connect: the payload FAILED: deploy ended with 1 (disks were written)
09:30:32Z web1 connect: all disks are read-only, and nothing was written to any
09:30:33Z web1 connect: somebody got a shell or ran a command in RAM
09:30:34Z web1 connect: waits for web0, which goes alone
09:30:35Z web1 connect: ann (process 77) asks the host to run another payload (retry)
09:30:36Z web1 connect: refused: the payload is running
09:30:37Z web1 connect: ann (process 77) asks the host to boot the new system by kexec (finish)
09:30:38Z web1 connect: accepted
09:30:40Z web1 connect: ann (process 77) approved the plan
09:30:41Z web1 connect: HELD: deploy ended with 1; 3m53s in all, 1.2 MiB sent, 46.9 KiB received
";
    assert_eq!(lines(&every_report()), expected);
}

#[test]
fn a_line_has_the_date_where_the_day_is_another() {
    let day = 86_400_000;
    let back = || Update::LinkBack;
    let reports = [report("a", 0, back()), report("a", 1, back()), report("a", day, back()), report("b", 2, back())];
    let text = lines(&reports);
    let stamps: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(stamps, ["2026-11-23T09:30:00Z", "09:30:00Z", "2026-11-24T09:30:00Z", "2026-11-23T09:30:00Z"]);
}

#[test]
fn nothing_is_lost_but_progress() {
    for report in every_report() {
        let shown = PlainLines::new(&[]).line(&report).is_some();
        let elsewhere = matches!(report.update, Update::Planned { .. });
        let may_be_silent = elsewhere || matches!(report.update, Update::Progress(..) | Update::Uploaded { .. });
        assert!(shown || may_be_silent, "{report:?}");
    }
}

#[test]
fn fast_progress_is_silent() {
    let mut reports = vec![report("a", 0, Update::PhaseStarted(Phase::Build)), step("a", 0, 1, "install")];
    reports.extend((0..=1000).map(|i| progress("a", i, 1, i, Some(1000), Unit::Items)));
    assert_eq!(lines(&reports).lines().count(), 2);
}

#[test]
fn slow_progress_each_ten_seconds() {
    let mut reports = vec![report("a", 0, Update::PhaseStarted(Phase::Build)), step("a", 0, 1, "fetch")];
    reports.extend((0..60).map(|i| progress("a", i * 1000, 1, i << 20, None, Unit::Bytes)));
    let text = lines(&reports);
    let shown: Vec<&str> = text.lines().skip(2).collect();
    assert_eq!(shown.len(), 5, "{text}");
    assert_eq!(shown[0], "09:30:10Z a build: fetch: 10.0 MiB");
}

#[test]
fn progress_of_one_step_does_not_silence_another() {
    let reports = [
        step("a", 0, 1, "one"),
        step("b", 0, 1, "one"),
        step("a", 0, 2, "two"),
        progress("a", 1, 1, 1, Some(10), Unit::Items),
        progress("b", 1, 1, 1, Some(10), Unit::Items),
        progress("a", 1, 2, 1, Some(10), Unit::Items),
        progress("a", 10_001, 1, 5, Some(10), Unit::Items),
        progress("b", 10_002, 1, 5, Some(10), Unit::Items),
        progress("a", 10_003, 2, 5, Some(10), Unit::Items),
        progress("a", 10_004, 1, 6, Some(10), Unit::Items),
    ];
    assert_eq!(lines(&reports).lines().count(), 6);
}

#[test]
fn remote_text_is_harmless() {
    let nasty = "\x1b[2J\x1b]0;title\x07\r\u{202e}x\ny";
    let reports = [
        log("a", 0, nasty.as_bytes()),
        step("a\x1b[31m", 0, 1, nasty),
        event("a", 0, EventKind::Outcome(Outcome::Failed { reason: nasty.into(), written: false })),
        report("a", 0, Update::LinkLost(nasty.into())),
        summary("a", 0, Ending::Held, nasty),
    ];
    let text = lines(&reports);
    assert_eq!(text.lines().count(), reports.len());
    assert!(!text.lines().any(|line| line.chars().any(|c| c.is_control() || c == '\u{202e}')), "{text:?}");
}

#[test]
fn several_hosts_end_with_a_table() {
    let run = |hosts: &[&str]| {
        let sink = Sink::default();
        let names: Vec<String> = hosts.iter().map(|&host| host.into()).collect();
        let mut screen = Screen::plain(Box::new(sink.clone()), &names);
        for host in hosts {
            screen.report(&summary(host, 0, Ending::Deployed, "Debian"));
        }
        screen.finish();
        sink.text()
    };
    assert!(run(&["a", "b"]).contains("\nHOST  OUTCOME"));
    assert!(!run(&["a"]).contains("HOST"));
}

struct Closed;

impl std::io::Write for Closed {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn reader_that_went_away_is_no_error() {
    let mut screen = Screen::plain(Box::new(Closed), &["a".into()]);
    for i in 0..10_000 {
        screen.report(&log("a", i, b"a line that nobody reads"));
        screen.tick();
    }
    screen.finish();
}

#[test]
fn logs_are_harmless_unless_raw_and_tell_what_is_missing() {
    let gap = event("a", 2, EventKind::Gap { first: 3, last: 5, bytes: 2048 });
    let reports = || vec![step("a", 0, 1, "s"), log("a", 1, b"\x1b[31mred\xff"), gap.clone(), log("a", 3, b"x")];
    let written = |wanted| {
        let mut out = Vec::new();
        let mut writer = LogWriter::new(&mut out, wanted, 1, 0);
        for report in reports() {
            writer.write(&report);
        }
        writer.finish();
        out
    };
    let missing = "[2.0 KiB, events 3 to 5, were dropped on the host]";
    assert_eq!(written(Wanted::RawOutput), [b"\x1b[31mred\xff\n", missing.as_bytes(), b"\nx\n"].concat());
    assert_eq!(written(Wanted::Output), format!("red\u{fffd}\n{missing}\nx\n").as_bytes());
    let everything = String::from_utf8(written(Wanted::Everything)).unwrap();
    assert!(everything.starts_with("2026-11-23T09:30:00Z a start: s: started\na | red\u{fffd}\n"), "{everything}");
}

#[test]
fn of_logs_the_last_lines_or_what_was_since() {
    let reports: Vec<Report> =
        (0..5).map(|n| Report { wall_ms: 1000 + n, ..log("a", n, format!("{n}").as_bytes()) }).collect();
    let written = |hosts, since, last: Option<usize>| {
        let mut out = Vec::new();
        let mut writer = LogWriter::new(&mut out, Wanted::Output, hosts, since);
        if let Some(last) = last {
            writer.hold(last);
        }
        reports[..4].iter().for_each(|report| writer.write(report));
        writer.release();
        writer.write(&reports[4]);
        writer.finish();
        String::from_utf8(out).unwrap()
    };
    assert_eq!(written(1, 0, None), "0\n1\n2\n3\n4\n");
    assert_eq!(written(1, 1003, None), "3\n4\n");
    // What is new once they were written comes as well.
    assert_eq!(written(1, 0, Some(2)), "2\n3\n4\n");
    assert_eq!(written(1, 0, Some(0)), "4\n");
    assert_eq!(written(1, 1003, Some(2)), "3\n4\n");
    assert_eq!(written(2, 1004, None), "a | 4\n");
}

#[test]
fn who_wants_few_lines_gets_what_went_wrong_and_the_ends() {
    let sink = Sink::default();
    let mut screen = Screen::quiet(Box::new(sink.clone()), &["a".into()]);
    let failed = EventKind::StepFinished { step: 1, outcome: StepOutcome::Failed("no room".into()) };
    for report in [
        step("a", 0, 1, "copy"),
        log("a", 1, b"chatter"),
        report("a", 2, Update::Message(Level::Info, "by the way".into())),
        report("a", 3, Update::Message(Level::Warning, "look out".into())),
        event("a", 4, failed),
        summary("a", 5, Ending::Held, "it failed"),
    ] {
        screen.report(&report);
    }
    screen.finish();
    let said: Vec<String> = sink.text().lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect();
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(said[0].ends_with("warning: look out") && said[1].contains("no room"), "{said:?}");
    assert!(said[2].contains("HELD: it failed"), "{said:?}");
}
