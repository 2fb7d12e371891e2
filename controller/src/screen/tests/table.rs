use super::samples::summary_of;
use crate::report::{Ending, Phase, Summary};
use crate::screen::status::{StatusRow, status};
use crate::screen::table::summaries;
use crate::screen::text::Paint;

#[test]
fn end_of_a_run() {
    let all = [
        summary_of("web1", Ending::Deployed, "Debian GNU/Linux 13 (trixie)"),
        Summary { total_seconds: 4.2, ..summary_of("database-with-a-very-long-name", Ending::Untouched, "a\x1b[31mb") },
        summary_of("db", Ending::Held, &"deploy ended with 1 ".repeat(5)),
    ];
    let expected = "\
HOST                      OUTCOME    CONNECT  PROBE  UPLOAD  STAGE   BOOT  BUILD  REBOOT  VERIFY  TOTAL     SENT  WHAT
web1                      deployed     0.4 s  1.2 s   9.0 s   32 s  6.1 s  3m05s       -       -  3m53s  1.2 MiB  \
         Debian GNU/Linux 13 (trixie)
database-with-a-very-lo…  untouched    0.4 s  1.2 s   9.0 s   32 s  6.1 s  3m05s       -       -  4.2 s  1.2 MiB  ab
db                        held         0.4 s  1.2 s   9.0 s   32 s  6.1 s  3m05s       -       -  3m53s  1.2 MiB  \
         deploy ended with 1 deploy ended with 1 deploy ended with 1…

db: deploy ended with 1 deploy ended with 1 deploy ended with 1 deploy ended with 1 deploy ended with 1 
";
    assert_eq!(summaries(&all.iter().collect::<Vec<_>>(), Paint(false), Some(180)), expected);
}

#[test]
fn end_of_a_run_on_a_narrow_terminal() {
    let summary = summary_of("web1", Ending::Deployed, "Debian GNU/Linux 13 (trixie)");
    let expected = "\
web1  deployed  Debian GNU/Linux 13 (trixie)
  connect 0.4 s, probe 1.2 s, upload 9.0 s, stage 32 s, boot 6.1 s, build 3m05s,
  3m53s in all; 1.2 MiB sent
";
    assert_eq!(summaries(&[&summary], Paint(false), Some(80)), expected);
    assert!(summaries(&[&summary], Paint(false), Some(90)).starts_with("web1"), "no room for the reason");
    for columns in 1..200 {
        let text = summaries(&[&summary], Paint(false), Some(columns));
        let fits = text.lines().all(|line| crate::screen::text::width(line) <= columns);
        assert!(fits || text.starts_with("web1"), "{columns}: {text}");
    }
    let long = summary_of("db", Ending::Held, &"deploy ended with 1 ".repeat(5));
    let (wide, narrower) = (170, 130);
    for columns in [wide, narrower] {
        let text = summaries(&[&summary, &long], Paint(false), Some(columns));
        assert!(text.starts_with("HOST"), "{text}");
        assert!(text.lines().take(3).all(|line| crate::screen::text::width(line) <= columns), "{columns}: {text}");
        assert!(text.trim_end().ends_with(long.reason.trim_end()), "in full: {text}");
    }
}

#[test]
fn status_of_a_run() {
    let rows = [
        StatusRow {
            host: "web1".into(),
            phase: Some(Phase::Build),
            state: "install packages".into(),
            outcome: None,
            reason: None,
            last_event_seconds: Some(3.0),
        },
        StatusRow {
            host: "db".into(),
            phase: None,
            state: "not started".into(),
            outcome: Some(Ending::Untouched),
            reason: Some("connect: no route to host".into()),
            last_event_seconds: None,
        },
    ];
    let expected = "\
run 20261123-093000-0a1b
HOST  PHASE  STATE             OUTCOME    LAST EVENT  WHAT
web1  build  install packages  -           3.0 s ago
db    -      not started       untouched           -  connect: no route to host
";
    assert_eq!(status("20261123-093000-0a1b", &rows, Paint(false)), expected);
}
