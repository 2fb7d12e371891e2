//! `anemos logs`: what payloads and kernels wrote, by the journals. No host is asked.

use std::io::{self, BufWriter, ErrorKind};
use std::time::Duration;

use super::{CommandError, Status, asked};
use crate::cli;
use crate::engine::now_ms;
use crate::journal::{JournalError, Reader, Record, RunDir};
use crate::report::{Report, Update};
use crate::run::Found;
use crate::screen;
use crate::screen::logs::{LogWriter, Wanted};

/// Time between two looks at journals that another process writes.
const FOLLOW_EVERY: Duration = Duration::from_millis(250);

pub(super) async fn logs(args: &cli::Logs) -> Result<Status, CommandError> {
    let Found { run, hosts, .. } = asked(&args.of, false).find()?;
    let wanted = match (args.all, args.raw) {
        (true, _) => Wanted::Everything,
        (false, true) => Wanted::RawOutput,
        (false, false) => Wanted::Output,
    };
    let since = args.since.map_or(0, |since| since.wall_ms(now_ms()));
    let mut log = LogWriter::new(BufWriter::new(io::stdout()), wanted, hosts.len(), since).local();
    let mut tails = Vec::new();
    for host in &hosts {
        let mut tail = Tail { host: &host.name, reader: Reader::new(&run.journal(&host.name))?, over: false };
        if let Some(last) = args.lines {
            log.hold(last);
        }
        tail.read(&mut log)?;
        log.release();
        tails.push(tail);
    }
    log.flush();
    if args.follow {
        follow(&run, &mut tails, &mut log).await?;
    }
    log.finish();
    for (tail, doubt) in tails.iter().filter_map(|tail| Some((tail, tail.reader.doubt()?))) {
        screen::warning(&format!("{}: {doubt}; what could not be read is left out", tail.host));
    }
    Ok(Status::Done)
}

/// Goes on as journals grow, until all of their hosts are over or nobody reads any more.
async fn follow<W: io::Write>(
    run: &RunDir,
    tails: &mut [Tail<'_>],
    log: &mut LogWriter<W>,
) -> Result<(), CommandError> {
    let mut ticks = tokio::time::interval(FOLLOW_EVERY);
    let mut told = false;
    loop {
        // Asked before reading: what the last process wrote before it ended is read below.
        let followed = run.follower().is_some();
        for tail in tails.iter_mut() {
            tail.read(log)?;
        }
        log.flush();
        if log.is_gone() || tails.iter().all(|tail| tail.over) {
            return Ok(());
        }
        if !followed && !told {
            let why = "nobody follows it now, so nothing new comes until `anemos attach` does";
            screen::note(&format!("run {}: {why}", run.id));
        }
        told |= !followed;
        ticks.tick().await;
    }
}

/// The journal of a host, as far as it was read.
struct Tail<'a> {
    host: &'a str,
    reader: Reader,
    /// The host has its end.
    over: bool,
}

impl Tail<'_> {
    /// Writes what is new.
    fn read<W: io::Write>(&mut self, log: &mut LogWriter<W>) -> Result<(), JournalError> {
        let Self { host, reader, over } = self;
        let read = reader.read_on(&mut |number, record| match record {
            Record::Told { wall_ms, update } => {
                *over |= matches!(update, Update::Summary(_));
                log.write(&Report { host: (*host).to_owned(), number: Some(number), wall_ms, update });
            }
            Record::Reopened { .. } => *over = false,
            _ => {}
        });
        match read {
            // It is not begun yet.
            Err(JournalError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(()),
            read => read,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::samples::{ended, run_file, run_key};
    use crate::journal::{Appender, Keep, RunStore};
    use crate::report::Ending;

    fn line(text: &str) -> Record {
        use anemos_proto::event::{Event, EventKind, Stream};
        let kind = EventKind::Log { stream: Stream::Stdout, line: text.into() };
        let event = Event { seq: 1, uptime_ms: 1, wall_ms: 1, kind };
        Record::Told { wall_ms: 1, update: Update::Event(crate::report::Speaker::Agent, event) }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_written_meanwhile_comes_until_all_are_over() {
        let dir = tempfile::tempdir().unwrap();
        let store = RunStore::at(dir.path().join("runs"));
        let (run, _lock) = store.create(&run_file("20261123-093000-0a1b", &["a", "b", "c"]), &run_key()).unwrap();
        let open = |host: &str| Appender::open(&run.journal(host), Keep::All).unwrap().0;
        // Lines of output wait to be written together.
        let write = |journal: &mut Appender, record: &Record| {
            journal.append(record).unwrap();
            journal.sync().unwrap();
        };
        let (mut a, mut b) = (open("a"), open("b"));
        write(&mut a, &line("one"));
        write(&mut b, &line("two"));
        write(&mut b, &ended("b", Ending::Deployed));
        let (mut reading, writing) = std::os::unix::net::UnixStream::pair().unwrap();
        let writer = std::thread::spawn({
            let run = run.clone();
            move || {
                use std::io::Read;
                let mut said = String::new();
                let mut read_to = |end: &str| {
                    while !said.ends_with(end) {
                        let mut byte = [0];
                        assert_eq!(reading.read(&mut byte).unwrap(), 1, "{said}");
                        said.push(char::from(byte[0]));
                    }
                };
                read_to("a | one\nb | two\n");
                write(&mut a, &line("three"));
                read_to("a | three\n");
                // One whose journal is only begun now.
                let mut c = Appender::open(&run.journal("c"), Keep::All).unwrap().0;
                write(&mut c, &line("four"));
                read_to("c | four\n");
                write(&mut a, &ended("a", Ending::Held));
                write(&mut a, &Record::Reopened { wall_ms: 3 });
                write(&mut a, &line("five"));
                write(&mut c, &ended("c", Ending::Held));
                read_to("a | five\n");
                write(&mut a, &ended("a", Ending::Deployed));
                said
            }
        });
        let mut log = LogWriter::new(writing, Wanted::Output, 3, 0);
        let mut tails =
            ["a", "b", "c"].map(|host| Tail { host, reader: Reader::new(&run.journal(host)).unwrap(), over: false });
        let followed = tokio::time::timeout(Duration::from_secs(60), follow(&run, &mut tails, &mut log)).await;
        followed.expect("it ends with its hosts").unwrap();
        let said = writer.join().unwrap();
        assert_eq!(said, "a | one\nb | two\na | three\nc | four\na | five\n");
    }
}
