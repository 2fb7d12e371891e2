//! Through jump hosts that want what only a person knows.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use super::through::{Net, until};
use super::*;
use crate::ssh::askpass::handed_on;
use crate::ssh::login_tests::{PAM, SECRET, with_password};
use crate::ssh::trunk::Trunks;

/// What `ssh` starts for a question in these tests: it runs the next one.
const ASKS: &str = r#"#!/bin/sh
TESTED="$0" TESTED_WITH="$1" exec EXECUTABLE --exact ssh::tests::trunk::a_question_is_handed_on 3>&1 >/dev/null 2>&1
"#;

/// No test but when it is run by another: the executable itself would take a question for the name of a test.
#[test]
fn a_question_is_handed_on() {
    let named = ["TESTED", "TESTED_WITH"].map(std::env::var_os);
    let [Some(name), Some(question)] = named else { return };
    let answer = handed_on([name, question].into_iter()).unwrap().unwrap();
    std::fs::OpenOptions::new().write(true).open("/proc/self/fd/3").unwrap().write_all(&answer).unwrap();
}

/// Jump hosts by these names, to which a key and a password lead, and the server behind them.
struct Place {
    net: Net,
    server: Server,
    answers: Arc<Answers>,
    trunks: Arc<Trunks>,
}

impl Place {
    /// `None` without root's rights. `typed` is what is typed, the last first.
    fn new(names: &[&'static str], typed: &[&'static str]) -> Option<Self> {
        let shadow = format!("{SECRET}:19000:0:99999:7:::");
        let wants = "AuthenticationMethods publickey,keyboard-interactive";
        let jumps: Option<Vec<_>> =
            names.iter().map(|name| Some((*name, with_password(&shadow, Some(PAM), wants)?))).collect();
        let net = Net::of(jumps?);
        for jump in &net.hosts {
            std::fs::copy(jump.path("user.pub"), jump.path("authorized")).unwrap();
        }
        let asks = net.hosts[0].path("asks");
        let executable = std::env::current_exe().unwrap().display().to_string();
        std::fs::write(&asks, ASKS.replace("EXECUTABLE", &executable)).unwrap();
        std::fs::set_permissions(&asks, std::fs::Permissions::from_mode(0o755)).unwrap();
        let answers = Arc::new(Answers::default());
        answers.typed.lock().unwrap().extend(typed);
        let person: Arc<dyn Passphrases> = Arc::clone(&answers) as _;
        let ssh = ["ssh".to_owned(), "-F".to_owned(), net.config().display().to_string()];
        let trunks = Arc::new(Trunks::new(&person, ssh.to_vec(), asks));
        Some(Self { net, server: Server::start(&["ed25519"], ""), answers, trunks })
    }

    async fn connect(&self, jumps: &str) -> Result<Connected, ConnectError> {
        let address = Address { way: Way::through(jumps).unwrap(), ..self.server.address() };
        let policy = Policy::pinned(vec![self.server.host_key("ed25519")]);
        connect_by(Some(&self.trunks), &address, &policy, &Arc::default(), soon(), &Tuning::default()).await
    }

    /// Connects and logs in, and has the host say something.
    async fn goes(&self, jumps: &str) {
        let connected = self.connect(jumps).await.unwrap();
        let session = connected.authenticate(&user(), &self.server.user(&["user"]), soon()).await.unwrap();
        let (stdout, ..) = session.output("echo here", 100, soon()).await.unwrap();
        assert_eq!(stdout, b"here\n");
        session.close().await;
    }

    async fn is_refused(&self) -> String {
        match self.connect("one").await {
            Err(ConnectError::Way { fault: Fault::Refused, said, .. }) => said,
            other => panic!("{other:?}"),
        }
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.answers.asked.lock().unwrap())
    }

    async fn up(&self) {
        for jump in self.net.hosts.iter().chain([&self.server]) {
            drop(reach(&[jump.address()], Knocking::CALM, Instant::now(), soon()).await.unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_asked_once_for_what_a_jump_host_wants() {
    let Some(place) = Place::new(&["one"], &["for the next", "secret"]) else { return };
    place.up().await;
    tokio::join!(place.goes("one"), place.goes("one"));
    place.goes("one").await;
    assert_eq!(place.asked(), ["Through one: (root@one) Password: "]);
    // A host that nobody is at is none that the jump host would not let us to.
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let way = Way::through("one").unwrap();
    let address = Address { port: nobody, way: way.clone(), ..place.server.address() };
    let policy = Policy::pinned(Vec::new());
    let error = connect_by(Some(&place.trunks), &address, &policy, &Arc::default(), soon(), &Tuning::default()).await;
    let Err(ConnectError::Way { fault: Fault::Target, .. }) = error else { panic!("{error:?}") };

    // Once the connection has ended, the next one is asked for.
    let Way::Jump(hops) = &way else { panic!("{way:?}") };
    let shared = place.trunks.shared(hops).unwrap();
    let ended = Command::new("ssh").arg("-S").arg(&shared).args(["-O", "exit", "one"]).output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    until("the connection is gone, and what it was shared by", || !shared.parent().unwrap().exists()).await;
    *place.answers.typed.lock().unwrap() = vec!["for the next", "secret"];
    place.goes("one").await;
    assert_eq!(place.asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_jump_host_on_the_way_may_want_something() {
    let Some(place) = Place::new(&["one", "two"], &["for the next", "secret", "secret"]) else { return };
    place.up().await;
    place.goes("one,two").await;
    assert_eq!(place.asked(), ["one", "two"].map(|name| format!("Through one and two: (root@{name}) Password: ")));
    place.goes("one,two").await;
    assert_eq!(place.asked(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jump_host_that_does_not_open_is_not_tried_for_ever() {
    let Some(place) = Place::new(&["one"], &["unused", "w3", "w2", "w1"]) else { return };
    place.up().await;
    for _ in 0..2 {
        let said = place.is_refused().await;
        assert!(said.contains("Permission denied (keyboard-interactive)"), "{said}");
    }
    assert_eq!(place.asked().len(), 3);
    // Where nobody can be asked, it is said what is wanted.
    let Some(place) = Place::new(&["one"], &[]) else { return };
    place.up().await;
    let said = place.is_refused().await;
    assert!(said.contains("root@127.0.0.1: Permission denied (keyboard-interactive)"), "{said}");
    assert!(place.asked().is_empty());
}
