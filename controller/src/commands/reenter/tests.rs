use anemos_proto::Secret;
use anemos_proto::config::Finish;
use tokio::sync::watch;

use super::*;
use crate::journal::RunFile;
use crate::report::PhaseSeconds;

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
        let key = RunKey::from_seed(&Secret::new(vec![3; 32])).unwrap();
        let host = |name: &&str| HostEntry {
            name: (*name).into(),
            address: Address { host: "192.0.2.1".into(), port: 22 },
            user: "root".into(),
            agent_socket: None,
            identities_only: true,
            identity_files: Vec::new(),
            agent_key: key.public(),
            check: None,
            finish: Finish::Reboot,
            boot_s: 1,
            build_s: 1,
            reboot_s: 1,
            verify_s: 1,
            ack_s: 1,
            dead_man_s: 1,
        };
        let file = RunFile {
            format: RunFile::FORMAT,
            run: "20261123-093000-0a1b".parse().unwrap(),
            started_ms: 1,
            hosts_file: "/x/hosts.toml".into(),
            pid: 1,
            hosts: names.iter().map(host).collect(),
        };
        let (run, lock) = RunStore::at(dir.path().join("runs")).create(&file, &key).unwrap();
        for name in names {
            Appender::open(&run.journal(name)).unwrap();
        }
        Self { _dir: dir, run, lock: Some(lock), hosts: file.hosts }
    }

    fn write(&self, host: &str, records: impl IntoIterator<Item = Record>) {
        let (mut journal, _) = Appender::open(&self.run.journal(host)).unwrap();
        for record in records {
            journal.append(&record).unwrap();
        }
    }
}

fn said(text: &str) -> Record {
    Record::Told { wall_ms: 1, update: Update::Message(Level::Info, text.into()) }
}

fn ended(host: &str, outcome: Ending) -> Record {
    let summary = Summary {
        host: host.into(),
        outcome,
        reason: "so it went".into(),
        uploaded_bytes: 0,
        received_bytes: 0,
        host_downloaded_bytes: 0,
        initramfs_bytes: 0,
        seconds: PhaseSeconds::default(),
        first_event_seconds: None,
        total_seconds: 0.0,
    };
    Record::Told { wall_ms: 2, update: Update::Summary(Box::new(summary)) }
}

/// What the screen got until nobody had more to say: host, and text or outcome.
async fn shown(mut received: mpsc::UnboundedReceiver<Report>) -> Vec<(String, String)> {
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
    let (reports, received) = mpsc::unbounded_channel();
    let (_stopping, stop) = watch::channel(false);
    let asks: Arc<dyn Passphrases> = Arc::new(Nobody);
    let (run, hosts) = (begun.run.clone(), begun.hosts.clone());
    let looking =
        tokio::spawn(async move { follow(&run, hosts, None, &|| Wish::Follow, (&asks, LINES), reports, &stop).await });
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
    let (reports, _received) = mpsc::unbounded_channel();
    let (_stopping, stop) = watch::channel(false);
    let asks: Arc<dyn Passphrases> = Arc::new(Nobody);
    let (run, hosts) = (begun.run.clone(), begun.hosts.clone());
    let looking =
        tokio::spawn(async move { follow(&run, hosts, None, &|| Wish::Follow, (&asks, LINES), reports, &stop).await });
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
    let (reports, received) = mpsc::unbounded_channel();
    let (_stopping, stop) = watch::channel(false);
    let asks: Arc<dyn Passphrases> = Arc::new(Nobody);
    let lock = begun.lock.take();
    let wish = || Wish::Retry(None);
    let followed = follow(&begun.run, begun.hosts.clone(), lock, &wish, (&asks, LINES), reports, &stop).await.unwrap();
    assert_eq!(followed.problems, [""; 0]);
    let ends = [Some(Ending::Deployed), Some(Ending::Held), Some(Ending::Untouched)];
    assert_eq!(outcomes(&followed.ends), ends);
    let shown = shown(received).await;
    for (host, outcome) in [("web1", "deployed"), ("web2", "held"), ("web3", "untouched")] {
        assert!(shown.contains(&(host.into(), outcome.into())), "no summary of {host} in {shown:?}");
    }
    // Those that stay as they are were not taken up again.
    assert!(read(&begun.run, "web2").unwrap().summary.is_some());

    let error = some_in_ram(&begun.run, &begun.hosts).unwrap_err();
    assert_eq!(error.status, Status::BadInput);
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
