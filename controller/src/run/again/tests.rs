use anemos_proto::Secret;
use anemos_proto::config::Finish;
use anemos_proto::event::{Event, EventKind, Level, Stream};
use tokio::sync::watch;

use super::*;
use crate::engine::Blob;
use crate::journal::samples::{ended, run_file, run_key};
use crate::journal::{Appender, OldSystem, Record, RunStore};
use crate::report::{Reports, Speaker, Update, What, Wished, feed, is_line};
use crate::run::find::some_in_ram;
use crate::run::intent::LINES;
use crate::run::member::{Standing, standing};
use crate::run::onlook::FOLLOW_EVERY;
use crate::run::{Kind, forget};

fn looking_on() -> Intent {
    Intent { lines: Some(LINES), ..Intent::default() }
}

/// A terminal with nobody at it.
#[derive(Debug)]
struct Nobody;

impl Passphrases for Nobody {
    fn possible(&self) -> bool {
        false
    }

    fn ask(&self, _: String) -> std::pin::Pin<Box<dyn Future<Output = Result<Secret, String>> + Send + '_>> {
        Box::pin(async { Err("nobody".into()) })
    }
}

/// A run of which nothing is known but that it was begun, so that nobody is asked over the network.
struct Begun {
    _dir: tempfile::TempDir,
    run: RunDir,
    lock: Option<Lock>,
    hosts: Vec<HostEntry>,
}

impl Begun {
    fn new(names: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = run_file("20261123-093000-0a1b", names);
        let (run, lock) = RunStore::at(dir.path().join("runs")).create(&file, &run_key()).unwrap();
        for name in names {
            Appender::open(&run.journal(name), Keep::All).unwrap();
        }
        Self { _dir: dir, run, lock: Some(lock), hosts: file.hosts }
    }

    fn write(&self, host: &str, records: impl IntoIterator<Item = Record>) {
        let (mut journal, _) = Appender::open(&self.run.journal(host), Keep::All).unwrap();
        for record in records {
            journal.append(&record).unwrap();
        }
    }
}

fn said(text: &str) -> Record {
    Record::Told { wall_ms: 1, update: Update::Message(Level::Info, text.into()) }
}

/// What the screen got until nobody had more to say: host, and text or outcome.
async fn shown(mut received: Reports) -> Vec<(String, String)> {
    let text = |report: Report| match report.update {
        Update::Message(_, text) => (report.host, text),
        Update::Summary(summary) => (report.host, summary.outcome.to_string()),
        other => (report.host, format!("{other:?}")),
    };
    let mut shown = Vec::new();
    while let Some(report) = received.recv().await {
        shown.push(text(report));
    }
    shown
}

fn outcomes(ends: &[Option<Summary>]) -> Vec<Option<Ending>> {
    ends.iter().map(|end| end.as_ref().map(|summary| summary.outcome)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_onlooker_goes_on_where_the_other_stopped() {
    let mut begun = Begun::new(&["web1", "web2"]);
    begun.write("web1", [said("one"), ended("web1", Ending::Held)]);
    begun.write("web2", [said("two")]);
    let (reports, received) = feed();
    let (_stopping, stop) = watch::channel(Stop::No);
    let asks: Arc<dyn Passphrases> = Arc::new(Nobody);
    let (run, hosts) = (begun.run.clone(), begun.hosts.clone());
    let looking = tokio::spawn(async move { follow(&run, hosts, None, &looking_on(), &asks, reports, &stop).await });
    tokio::time::sleep(3 * FOLLOW_EVERY).await;
    assert!(!looking.is_finished(), "it left while somebody else followed the run");
    begun.write("web2", [said("the last word")]);
    drop(begun.lock.take());
    let followed = tokio::time::timeout(Duration::from_secs(30), looking).await.expect("it hangs").unwrap().unwrap();
    assert!(followed.lock.is_some() && followed.problems.is_empty(), "{:?}", followed.problems);
    assert_eq!(outcomes(&followed.ends), [Some(Ending::Held), Some(Ending::Untouched)]);
    // Each fact once, whoever followed the host when it happened.
    let shown = shown(received).await;
    let of =
        |name: &str| shown.iter().filter(|(host, _)| host == name).map(|(_, text)| text.as_str()).collect::<Vec<_>>();
    assert_eq!(of("web1"), ["one", "held"]);
    assert_eq!(of("web2"), ["two", "the last word", "the other anemos is gone; this one goes on", "untouched"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_onlooker_leaves_with_the_last_summary() {
    let begun = Begun::new(&["web1", "web2"]);
    begun.write("web1", [ended("web1", Ending::Deployed)]);
    begun.write("web2", [ended("web2", Ending::Held), Record::Reopened { wall_ms: 3 }]);
    let (reports, _received) = feed();
    let (_stopping, stop) = watch::channel(Stop::No);
    let asks: Arc<dyn Passphrases> = Arc::new(Nobody);
    let (run, hosts) = (begun.run.clone(), begun.hosts.clone());
    let looking = tokio::spawn(async move { follow(&run, hosts, None, &looking_on(), &asks, reports, &stop).await });
    tokio::time::sleep(3 * FOLLOW_EVERY).await;
    assert!(!looking.is_finished(), "a host was taken up again and has no end yet");
    begun.write("web2", [ended("web2", Ending::Deployed)]);
    let followed = tokio::time::timeout(Duration::from_secs(30), looking).await.expect("it hangs").unwrap().unwrap();
    assert!(followed.lock.is_none());
    assert_eq!(outcomes(&followed.ends), [Some(Ending::Deployed), Some(Ending::Deployed)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_for_all_is_for_those_in_ram() {
    let mut begun = Begun::new(&["web1", "web2", "web3"]);
    begun.write("web1", [said("one"), ended("web1", Ending::Deployed)]);
    let left = Record::Left { wall_ms: 1, finish: Some(Finish::PowerOff), reason: String::new() };
    begun.write("web2", [left, ended("web2", Ending::Held)]);
    begun.write("web3", [said("three")]);
    some_in_ram(&begun.run, &begun.hosts).unwrap();
    let (reports, received) = feed();
    let (_stopping, stop) = watch::channel(Stop::No);
    let asks: Arc<dyn Passphrases> = Arc::new(Nobody);
    let lock = begun.lock.take();
    let retry = Intent { wish: Some(Wish::Retry(None)), ..looking_on() };
    let followed = follow(&begun.run, begun.hosts.clone(), lock, &retry, &asks, reports, &stop).await.unwrap();
    assert_eq!(followed.problems, ["web3: it is not in RAM"]);
    let ends = [Some(Ending::Deployed), Some(Ending::Held), Some(Ending::Untouched)];
    assert_eq!(outcomes(&followed.ends), ends);
    let shown = shown(received).await;
    for (host, outcome) in [("web1", "deployed"), ("web2", "held"), ("web3", "untouched")] {
        assert!(shown.contains(&(host.into(), outcome.into())), "no summary of {host} in {shown:?}");
    }
    // Those that stay as they are were not taken up again.
    assert!(read(&begun.run, "web2").unwrap().summary.is_some());

    let error = some_in_ram(&begun.run, &begun.hosts).unwrap_err();
    assert_eq!(error.kind, Kind::BadInput);
    assert!(error.message.contains("web1: the host is deployed already: so it went\nweb2: the host has left RAM"));
}

#[test]
fn the_key_goes_with_the_last_host() {
    let begun = Begun::new(&["web1", "web2"]);
    let forgotten = || {
        forget(&begun.run, &begun.hosts);
        begun.run.key().unwrap().is_none()
    };
    begun.write("web1", [ended("web1", Ending::Untouched)]);
    assert!(!forgotten(), "web2 has no end");
    begun.write("web2", [ended("web2", Ending::Held)]);
    assert!(!forgotten(), "web2 may be in RAM");
    begun.write("web2", [Record::Reopened { wall_ms: 3 }]);
    assert!(!forgotten(), "web2 was taken up again");
    begun.write("web2", [ended("web2", Ending::Deployed)]);
    assert!(forgotten());
}

/// What a host comes to by its journal: how it is taken up, and whether the run may forget its key.
fn verdict(begun: &Begun) -> (String, bool) {
    let standing = match digest(&begun.run.journal("web1"), Keep::Nothing) {
        Err(_) => "unreadable".to_owned(),
        Ok(journal) => match standing(&journal, true) {
            Standing::Over(summary) => summary.outcome.to_string(),
            Standing::Unbooted => "unbooted".into(),
            // The engine holds it, whatever it finds.
            Standing::Booted(_) if journal.damaged.is_some() => "doubtful".into(),
            Standing::Booted(_) => format!("booted, attempt {}", journal.attempt),
            Standing::Doubtful(_) => "doubtful".into(),
        },
    };
    forget(&begun.run, &begun.hosts);
    (standing, begun.run.key().unwrap().is_none())
}

fn fact(seq: u64, kind: EventKind) -> Record {
    let event = Event { seq, uptime_ms: 10 * seq, wall_ms: 10 * seq, kind };
    Record::Told { wall_ms: 1000 + seq, update: Update::Event(Speaker::Agent, event) }
}

/// The journal of a deployment up to the time when its payload has written something.
fn deployment(key: &ssh::HostKey) -> Vec<Record> {
    let old = OldSystem {
        boot_id: "old".into(),
        proved: key.clone(),
        host_keys: vec![key.clone()],
        identity: "root".into(),
        agent_port: 22,
        downloaded: 0,
        initramfs: 0,
    };
    let line = |seq| fact(seq, EventKind::Log { stream: Stream::Stdout, line: b"formatting /dev/vda".to_vec() });
    vec![
        said("looking"),
        Record::Met { host_key: key.clone() },
        Record::OldSystem(old),
        Record::BootSent { wall_ms: 3 },
        Record::Ram { boot_id: "ram".into() },
        fact(1, EventKind::Attempt(1)),
        line(2),
        fact(3, EventKind::Written(vec![("vda".into(), 8)])),
        line(4),
    ]
}

/// Whatever happens to the bytes of a journal or of the file beside it, a host whose payload may have written is
/// followed by all that is left and says so, or nothing is concluded; and the key stays. That it was never booted, or
/// how it ended, is said only by what is whole.
#[test]
fn damage_leads_to_no_other_verdict() {
    let begun = Begun::new(&["web1"]);
    let path = begun.run.journal("web1");
    let second = path.with_extension("attempt");
    let key = begun.hosts[0].agent_key.clone();
    let (mut journal, _) = Appender::open(&path, Keep::All).unwrap();
    for record in deployment(&key) {
        if matches!(&record, Record::Told { update, .. } if is_line(update)) {
            journal.append(&record).unwrap();
            continue;
        }
        journal.append(&record).unwrap();
        journal.sync().unwrap();
        if let Record::Told { update: Update::Event(_, event), .. } = &record
            && let EventKind::Attempt(number) = event.kind
        {
            journal.attempt(number).unwrap();
        }
    }
    drop(journal);
    let running = std::fs::read(&path).unwrap();
    assert_eq!(verdict(&begun), ("booted, attempt 1".into(), false));
    begun.write("web1", [ended("web1", Ending::Held)]);
    begun.write("web1", [Record::Reopened { wall_ms: 9 }, said("again"), ended("web1", Ending::Deployed)]);
    let over = std::fs::read(&path).unwrap();
    let marker = std::fs::read(&second).unwrap();

    let seen = std::cell::RefCell::new(std::collections::BTreeSet::new());
    let check = |cut: bool, bytes: &[u8], what: &dyn std::fmt::Display| {
        std::fs::write(&path, bytes).unwrap();
        let (verdict, forgotten) = verdict(&begun);
        let allowed: &[&str] =
            if cut { &["booted, attempt 1", "doubtful", "unreadable"] } else { &["doubtful", "unreadable"] };
        assert!(allowed.contains(&verdict.as_str()), "{what}: {verdict}");
        assert!(!forgotten, "{what}: the key was deleted");
        seen.borrow_mut().insert((cut, verdict));
    };
    for length in 0..over.len() {
        check(true, &over[..length], &format_args!("cut at {length}"));
    }
    for (whole, flip) in [(&running, 1), (&over, 0x81)] {
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= flip;
            check(false, &bytes, &format_args!("{flip} flipped at {at} of {}", whole.len()));
        }
    }
    // Each way was gone.
    for (cut, verdict) in [(true, "booted, attempt 1"), (true, "doubtful"), (false, "doubtful")] {
        assert!(seen.borrow().contains(&(cut, verdict.to_owned())), "{seen:?}");
    }

    // The second file, damaged or lost in part, vouches for nothing, and what it knew the journal knows too if it is
    // gone.
    for at in 0..marker.len() {
        let mut flipped = marker.clone();
        flipped[at] ^= 1;
        for bytes in [&marker[..at], &flipped] {
            std::fs::write(&second, bytes).unwrap();
            check(false, &running, &format_args!("the second file, at {at}"));
            check(false, &over, &format_args!("the second file, at {at}"));
        }
    }
    std::fs::write(&second, &marker).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(verdict(&begun), ("doubtful".into(), false));
    std::fs::write(&path, &over).unwrap();
    assert_eq!(verdict(&begun), ("deployed".into(), true));
}

/// One that was never told to boot is never taken for anything worse than held, and only by what is whole for not
/// begun.
#[test]
fn damage_before_the_boot_concludes_nothing() {
    let begun = Begun::new(&["web1"]);
    let path = begun.run.journal("web1");
    let key = begun.hosts[0].agent_key.clone();
    begun.write("web1", deployment(&key).into_iter().take(3));
    let whole = std::fs::read(&path).unwrap();
    assert_eq!(verdict(&begun), ("unbooted".into(), false));
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let (verdict, forgotten) = verdict(&begun);
        assert!(["doubtful", "unreadable"].contains(&verdict.as_str()) && !forgotten, "flipped at {at}: {verdict}");
    }
}

/// One journal is damaged, one can't be read at all, one was begun by the build before: each has its say, and the
/// others go on.
#[tokio::test(flavor = "multi_thread")]
async fn each_host_by_itself() {
    let names = ["good", "damaged", "unreadable", "earlier", "earlier-over"];
    let mut begun = Begun::new(&names);
    let v3 = include_bytes!("../../journal/testdata/v3.journal");
    begun.write("good", [said("hello")]);
    begun.write("damaged", [said("first"), said("second"), ended("damaged", Ending::Deployed)]);
    let path = begun.run.journal("damaged");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    std::fs::write(begun.run.journal("unreadable"), b"what is this?").unwrap();
    std::fs::write(begun.run.journal("earlier"), &v3[..v3.len() - 4]).unwrap();
    std::fs::write(begun.run.journal("earlier-over"), v3).unwrap();

    let (reports, received) = feed();
    let (_stopping, stop) = watch::channel(Stop::No);
    let asks: Arc<dyn Passphrases> = Arc::new(Nobody);
    let lock = begun.lock.take();
    let followed = follow(&begun.run, begun.hosts.clone(), lock, &looking_on(), &asks, reports, &stop).await.unwrap();
    assert_eq!(outcomes(&followed.ends), [Some(Ending::Deployed), Some(Ending::Untouched), Some(Ending::Held)]);
    let held = followed.ends[2].as_ref().unwrap();
    assert!(held.reason.starts_with("whether a disk was written is not known: the journal is damaged at byte "));
    assert!(held.reason.contains("kept as damaged.journal.damaged"), "{}", held.reason);
    let problems = followed.problems.join("\n");
    assert!(problems.contains("unreadable: ") && problems.contains("does not begin like one"), "{problems}");
    assert!(problems.contains("earlier: the run was begun by an anemos before this one"), "{problems}");
    assert_eq!(followed.problems.len(), 2, "{problems}");
    let shown = shown(received).await;
    assert!(shown.contains(&("earlier".into(), "hello".into())) && shown.contains(&("good".into(), "hello".into())));
    forget(&begun.run, &begun.hosts);
    assert!(begun.run.key().unwrap().is_some(), "a host is held, one can't be read, one is not over");
    // Nor does a wish for all of them end with the first that can't be read.
    some_in_ram(&begun.run, &begun.hosts).unwrap();
}

/// Of many lines the last are shown, with a word about the others.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_lines_the_last_are_shown() {
    let mut begun = Begun::new(&["web1"]);
    let line = |seq: u64| fact(seq, EventKind::Log { stream: Stream::Stdout, line: format!("line {seq}").into() });
    begun.write("web1", std::iter::once(said("first")).chain((1..=2500).map(line)));
    begun.write("web1", [ended("web1", Ending::Deployed)]);
    for (most, after, lines, word) in [(Some(LINES), 0, 1000, true), (None, 0, 2500, false), (None, 2000, 501, false)] {
        let (reports, received) = feed();
        let (_stopping, stop) = watch::channel(Stop::No);
        let asks: Arc<dyn Passphrases> = Arc::new(Nobody);
        let lock = begun.lock.take();
        let run = begun.run.clone();
        let intent = Intent { wish: None, lines: most, after: HashMap::from([("web1".into(), after)]) };
        let follow = follow(&run, begun.hosts.clone(), lock, &intent, &asks, reports, &stop);
        begun.lock = follow.await.unwrap().lock;
        let shown = shown(received).await;
        assert_eq!(shown.iter().filter(|(_, text)| text.contains("Log")).count(), lines);
        assert_eq!(shown[0].1 == "first", after == 0);
        assert_eq!(
            shown[1].1.starts_with("1500 earlier lines are left out here; `anemos logs "),
            word,
            "{}",
            shown[1].1
        );
    }
}

/// What a host that is followed does with a wish, in place of one that would have to be reached.
type Doing = fn(Plea) -> Option<(oneshot::Sender<Answer>, Answer)>;

/// What it was asked: the wish's id, its author, and itself.
type Pleaded = (String, String, Wish);

fn answer(plea: Plea, refused: Option<&str>) -> (oneshot::Sender<Answer>, Answer) {
    let refused = refused.map(str::to_owned);
    (plea.answer, Answer { host: "web1".into(), number: Some(7), refused, made: true })
}

/// A process that follows the run, and takes one wish. `Doing` may swallow it.
fn follower(begun: &Begun, doing: Doing) -> (Inbox, tokio::task::JoinHandle<Option<Pleaded>>) {
    let (pleas, mut received) = mpsc::unbounded_channel::<Plea>();
    let inbox = Inbox::open(&begun.run, Arc::new(HashMap::from([("web1".into(), pleas)]))).unwrap();
    let task = tokio::spawn(async move {
        let plea = received.recv().await?;
        let heard = (plea.id.clone(), plea.author.clone(), plea.wish.clone());
        if let Some((to, answer)) = doing(plea) {
            to.send(answer).unwrap();
        }
        Some(heard)
    });
    (inbox, task)
}

fn retry_with(bytes: &[u8]) -> Wish {
    Wish::Retry(Some(Blob::new(bytes.to_vec())))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_reaches_the_process_that_follows() {
    let begun = Begun::new(&["web1"]);
    begun.write("web1", [said("one")]);
    let hosts = begun.hosts.clone();
    // More than a socket holds.
    let payload = vec![7; 3 << 20];
    let (inbox, heard) = follower(&begun, |plea| Some(answer(plea, None)));
    let heard_of = ask(&begun.run, &hosts, "id-1", &retry_with(&payload)).await.unwrap();
    let Heard::Answers(answers) = heard_of else { panic!("nobody answered") };
    assert_eq!(answers, [Answer { host: "web1".into(), number: Some(7), refused: None, made: true }]);
    let (id, author, wish) = heard.await.unwrap().unwrap();
    assert_eq!((id.as_str(), author), ("id-1", ourselves()), "the kernel says who asks");
    let Wish::Retry(Some(blob)) = wish else { panic!("{wish:?}") };
    assert!(blob.bytes[..] == payload[..]);
    drop(inbox);

    let (_inbox, _heard) = follower(&begun, |plea| Some(answer(plea, Some("the payload is running"))));
    let (reports, _received) = feed();
    let (_stopping, stop) = watch::channel(Stop::No);
    let asks: Arc<dyn Passphrases> = Arc::new(Nobody);
    let abort = Intent { wish: Some(Wish::Abort), ..looking_on() };
    let followed = follow(&begun.run, hosts, None, &abort, &asks, reports, &stop).await.unwrap();
    assert_eq!(followed.problems, ["web1: the payload is running"]);
    assert!(followed.lock.is_none() && followed.ends.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_outlives_the_process_that_was_asked() {
    let mut begun = Begun::new(&["web1"]);
    begun.write("web1", [said("one")]);
    // It dies before it answers: with it its end of the connection, its socket, and its lock.
    let (inbox, heard) = follower(&begun, |_| None);
    let lock = begun.lock.take();
    let dying = tokio::spawn(async move {
        heard.await.unwrap().expect("it was not asked");
        drop((inbox, lock));
    });
    let heard = ask(&begun.run, &begun.hosts, "id-1", &Wish::Abort).await.unwrap();
    assert!(matches!(heard, Heard::Nobody(_)), "the wish is this process's to make now");
    dying.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_does_not_answer_is_named() {
    let begun = Begun::new(&["web1"]);
    begun.write("web1", [said("one")]);
    // Nobody listens, as before there were wishes.
    let error = ask(&begun.run, &begun.hosts, "id-1", &Wish::Abort).await.err().unwrap();
    let pid = std::process::id();
    assert!(error.message.contains(&format!("(process {pid}), which takes no wishes")), "{error}");
    // What comes is no request.
    let (_inbox, _heard) = follower(&begun, |plea| Some(answer(plea, None)));
    let path = begun.run.path().join("inbox");
    for (said, why) in [
        ("what?\n", "no request"),
        ("{\"format\":99}\n", "another version"),
        ("{\"format\":1,\"id\":\"x\",\"hosts\":[],\"wish\":\"dance\"}\n", "no request"),
        ("{\"format\":1", "the request can't be read"),
    ] {
        use std::io::{Read, Write};
        let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
        stream.write_all(said.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut heard = String::new();
        tokio::task::block_in_place(|| stream.read_to_string(&mut heard)).unwrap();
        assert!(heard.starts_with("{\"error\":") && heard.contains(why), "{said}: {heard}");
    }
}

/// A wish that a process took before it died is answered by the next, which knows no more of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_wish_that_nobody_answered_is_answered_by_the_next() {
    let mut begun = Begun::new(&["web1"]);
    let wished = Wished { author: "ann".into(), id: "id-0".into(), what: What::Abort };
    begun.write("web1", [Record::Told { wall_ms: 1, update: Update::Wished(wished) }]);
    let (reports, mut received) = feed();
    let (_stopping, stop) = watch::channel(Stop::No);
    let asks: Arc<dyn Passphrases> = Arc::new(Nobody);
    let lock = begun.lock.take();
    follow(&begun.run, begun.hosts.clone(), lock, &looking_on(), &asks, reports, &stop).await.unwrap();
    let mut answers = Vec::new();
    while let Some(report) = received.recv().await {
        if let Update::Answered { wish, refused } = report.update {
            answers.push((report.number, wish, refused.unwrap_or_default()));
        }
    }
    assert!(matches!(&answers[..], [(Some(2), 1, why)] if why.contains("is not known")), "{answers:?}");
}

/// A host whose wish was refused is stopped alone; and all are stopped with Ctrl-C, also where nobody could stop one
/// alone any more.
#[tokio::test(flavor = "multi_thread")]
async fn one_host_is_stopped_alone_or_with_all() {
    let (all, stop) = watch::channel(Stop::No);
    let (halt, mut one) = own_stop(&stop);
    let (forgotten, mut other) = own_stop(&stop);
    drop(forgotten);
    halt.send_replace(Stop::Leave);
    one.wait_for(|stop| stop.asked()).await.unwrap();
    let stopped = tokio::time::timeout(Duration::from_millis(200), other.wait_for(|stop| stop.asked())).await.is_ok();
    assert!(!stopped, "the other was stopped, or left alone");
    all.send_replace(Stop::Leave);
    other.wait_for(|stop| stop.asked()).await.unwrap();
    all.send_replace(Stop::Now);
    one.wait_for(|stop| *stop == Stop::Now).await.unwrap();
    other.wait_for(|stop| *stop == Stop::Now).await.unwrap();
}

/// What the process that was asked has written down before it died decides whether the wish is made (again).
#[tokio::test(flavor = "multi_thread")]
async fn a_wish_is_made_once() {
    let told = |update| Record::Told { wall_ms: 1, update };
    let wished = || told(Update::Wished(Wished { author: "ann".into(), id: "id-0".into(), what: What::Abort }));
    let answered = |refused: Option<&str>| told(Update::Answered { wish: 2, refused: refused.map(str::to_owned) });
    let cases = [
        (vec![], Known::Nothing),
        (vec![wished()], Known::Open(2)),
        (vec![wished(), answered(None)], Known::Answered(Ok(()))),
        (vec![wished(), answered(Some("no"))], Known::Answered(Err("no".into()))),
    ];
    for (records, expected) in cases {
        let begun = Begun::new(&["web1"]);
        begun.write("web1", [said("one")].into_iter().chain(records));
        let (reports, _received) = feed();
        let (_stopping, stop) = watch::channel(Stop::No);
        let asks: Arc<dyn Passphrases> = Arc::new(Nobody);
        let entry = begun.hosts[0].clone();
        let (run, user) = (begun.run.clone(), credentials(&entry, &asks, None));
        let passwords = Passwords::new(&asks, []);
        let member = Member {
            run,
            entry,
            user,
            passwords,
            key: None,
            reports,
            stop,
            keep: Keep::Lines { last: 0, after: 0 },
            daemon: false,
        };
        assert_eq!(member.take_up(0, Some("id-0")).unwrap().wish, expected);
    }
}
