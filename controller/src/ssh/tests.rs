//! Against the OpenSSH server of this machine, on a free loopback port, with keys of its own.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anemos_proto::Secret;
use tempfile::TempDir;
use tokio::time::Instant;

use super::*;
use crate::known_hosts::add_line;

mod through;
mod trunk;

pub(super) const SSHD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sshd.sh");

/// Who runs the tests, and whom the server therefore may let in.
pub(super) fn user() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A server; its directory has `host`, `user` and their `.pub`.
pub(crate) struct Server {
    pub(super) dir: TempDir,
    pub(super) port: u16,
    pub(super) child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(super) fn keygen(path: &Path, kind: &str, passphrase: &str) {
    let status = Command::new("ssh-keygen")
        .args(["-q", "-t", kind, "-N", passphrase, "-f"])
        .arg(path)
        .status()
        .expect("ssh-keygen (package openssh-client) is needed by this test");
    assert!(status.success());
}

impl Server {
    pub(crate) fn start(host_kinds: &[&str], more: &str) -> Self {
        Self::launch("", host_kinds, |_| more.to_owned())
    }

    /// One in whose mount namespace `setup` is done first, which only root can do.
    pub(crate) fn prepared(setup: &str, host_kinds: &[&str], more: &str) -> Self {
        Self::launch(setup, host_kinds, |_| more.to_owned())
    }

    /// `more` is called once the keys are there, for more of the configuration.
    pub(super) fn start_with(host_kinds: &[&str], more: impl FnOnce(&Path) -> String) -> Self {
        Self::launch("", host_kinds, more)
    }

    fn launch(setup: &str, host_kinds: &[&str], more: impl FnOnce(&Path) -> String) -> Self {
        let there = Path::new("/usr/sbin/sshd").exists();
        assert!(there, "this test needs OpenSSH's server: tests/install-tools.sh installs it");
        let dir = tempfile::tempdir().unwrap();
        keygen(&dir.path().join("user"), "ed25519", "");
        std::fs::copy(dir.path().join("user.pub"), dir.path().join("authorized")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let at = dir.path().display();
        for kind in host_kinds {
            keygen(&dir.path().join(format!("host_{kind}")), kind, "");
        }
        let host_keys: Vec<String> = host_kinds.iter().map(|kind| format!("HostKey {at}/host_{kind}")).collect();
        let host_keys = host_keys.join("\n");
        let more = more(dir.path());
        // The first of two values counts.
        let config = format!(
            "{more}\nPort {port}\nListenAddress 127.0.0.1\nPidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin \
             yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nLogLevel VERBOSE\n\
             AuthorizedKeysFile {at}/authorized\n{host_keys}\n"
        );
        std::fs::write(dir.path().join("config"), config).unwrap();
        let child = Command::new(SSHD)
            .arg("-D")
            .arg("-f")
            .arg(dir.path().join("config"))
            .arg("-E")
            .arg(dir.path().join("log"))
            .env("SERVER_ETC", dir.path().join("etc"))
            .env("SETUP", setup)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { dir, port, child }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn host_key(&self, kind: &str) -> HostKey {
        HostKey::parse(&std::fs::read_to_string(self.path(&format!("host_{kind}.pub"))).unwrap()).unwrap()
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn address(&self) -> Address {
        Address { host: "127.0.0.1".into(), port: self.port, way: Way::Direct }
    }

    pub(crate) fn user(&self, files: &[&str]) -> Credentials {
        self.user_who_types(files, &Arc::default())
    }

    pub(super) fn user_who_types(&self, files: &[&str], answers: &Arc<Answers>) -> Credentials {
        Credentials::User(Arc::new(UserCredentials {
            agent: None,
            identities_only: false,
            identity_files: files.iter().map(|name| self.path(name)).collect(),
            named_first: true,
            certificate_files: Vec::new(),
            algorithms: Algorithms::default(),
            asks: Arc::clone(answers) as Arc<dyn Passphrases>,
        }))
    }

    pub(super) async fn connect(
        &self,
        policy: &Policy,
        tuning: &Tuning,
    ) -> (Result<Connected, ConnectError>, Arc<Counters>) {
        let counters = Arc::new(Counters::default());
        let deadline = Instant::now() + Duration::from_secs(20);
        let result = match reach(&[self.address()], Knocking::CALM, Instant::now(), deadline).await {
            Ok(reached) => handshake(reached, policy, &counters, deadline, tuning).await,
            Err(error) => Err(error),
        };
        (result, counters)
    }

    pub(crate) async fn session(
        &self,
        credentials: &Credentials,
        tuning: &Tuning,
    ) -> Result<(Session, Arc<Counters>), AuthError> {
        let (connected, counters) = self.proved(tuning).await;
        let deadline = Instant::now() + Duration::from_secs(20);
        connected.authenticate(&user(), credentials, deadline).await.map(|session| (session, counters))
    }

    async fn proved(&self, tuning: &Tuning) -> (Connected, Arc<Counters>) {
        let policy = Policy::pinned(vec![self.host_key("ed25519")]);
        let (connected, counters) = self.connect(&policy, tuning).await;
        (connected.unwrap(), counters)
    }

    /// Logs in as another user, who has the user's key too.
    pub(crate) async fn session_of(&self, user: &str) -> Session {
        let (connected, _) = self.proved(&Tuning::default()).await;
        let deadline = Instant::now() + Duration::from_secs(20);
        connected.authenticate(user, &self.user(&["user"]), deadline).await.unwrap()
    }
}

/// Stands for the person who types passphrases: what they will type, the last first, and what they were asked.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    pub(crate) typed: Mutex<Vec<&'static str>>,
    pub(crate) asked: Mutex<Vec<String>>,
}

impl Passphrases for Answers {
    fn possible(&self) -> bool {
        !self.typed.lock().unwrap().is_empty()
    }

    fn ask(&self, prompt: String) -> Pin<Box<dyn Future<Output = Result<Secret, String>> + Send + '_>> {
        self.asked.lock().unwrap().push(prompt);
        let answer = self.typed.lock().unwrap().pop().ok_or_else(|| "nobody types".to_owned());
        Box::pin(async move { answer.map(|line| Secret::new(line.as_bytes().to_vec())) })
    }
}

pub(super) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn trust(server: &Server, known_hosts: &str, accept_new: bool) -> crate::engine::Trust {
    let file = server.path("known_hosts");
    std::fs::write(&file, known_hosts).unwrap();
    trust_in(server, file, accept_new)
}

fn trust_in(server: &Server, file: PathBuf, accept_new: bool) -> crate::engine::Trust {
    crate::engine::Trust::load(&effective(server, file), accept_new)
}

pub(super) fn effective(server: &Server, file: PathBuf) -> crate::ssh_config::Effective {
    crate::ssh_config::Effective {
        host_name: "127.0.0.1".into(),
        port: server.port,
        way: Way::Direct,
        algorithms: Algorithms::default(),
        user: user(),
        identity_files: Vec::new(),
        identities_given: false,
        certificate_files: Vec::new(),
        identities_only: false,
        agent: crate::ssh_config::Agent::Disabled,
        user_known_hosts: vec![file],
        global_known_hosts: Vec::new(),
        revoked_host_keys: Vec::new(),
        host_key_alias: None,
        hash_known_hosts: true,
        strict_host_key_checking: None,
        unsupported: None,
        notes: Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn host_keys_known_unknown_changed_and_revoked() {
    let server = Server::start(&["ed25519", "rsa"], "");
    let name = format!("[127.0.0.1]:{}", server.port);
    let right = server.host_key("rsa");
    let wrong = RunKey::from_seed(&new_seed().unwrap()).unwrap().public();
    let judged = async |known: String, accept_new| {
        let policy = trust(&server, &known, accept_new).policy();
        match server.connect(&policy, &Tuning::default()).await.0 {
            Ok(connected) => Ok(connected.host_key),
            Err(ConnectError::HostKey { judgement, .. }) => Err(judgement),
            Err(other) => panic!("{other}"),
        }
    };
    // known_hosts has only the RSA key, so the client must ask for that one, though the server prefers another.
    assert_eq!(judged(format!("{name} {}\n", right.line()), false).await, Ok(right.clone()));
    assert_eq!(judged(String::new(), false).await, Err(Judgement::Unknown));
    assert!(matches!(judged(format!("{name} {}\n", wrong.line()), true).await, Err(Judgement::Changed(_))));
    let ed25519 = server.host_key("ed25519");
    let revoked = format!("@revoked * {}\n", ed25519.line());
    let line = format!("@revoked in {}:1", server.path("known_hosts").display());
    assert_eq!(judged(revoked, true).await, Err(Judgement::Revoked(line)));

    let trust = trust(&server, "", true);
    let (connected, counters) = server.connect(&trust.policy(), &Tuning::default()).await;
    let connected = connected.unwrap();
    assert!(counters.sent() > 500 && counters.received() > 500);
    trust.remember(&connected.host_key).unwrap().unwrap();
    let written = std::fs::read_to_string(server.path("known_hosts")).unwrap();
    assert!(written.starts_with("|1|"), "hashed, as asked: {written}");
    assert_eq!(judged(written, false).await, Ok(connected.host_key));

    // A file that can't be read may hold another key of the host, so no key is accepted as new.
    let unreadable = server.path("a-directory");
    std::fs::create_dir(&unreadable).unwrap();
    let blind = trust_in(&server, unreadable, true);
    assert_eq!(blind.unread.len(), 1);
    let refused = server.connect(&blind.policy(), &Tuning::default()).await.0;
    assert!(matches!(refused, Err(ConnectError::HostKey { judgement: Judgement::Unknown, .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_in_files_and_what_was_tried() {
    let server = Server::start(&["ed25519"], "");
    keygen(&server.path("rsa"), "rsa", "");
    keygen(&server.path("stranger"), "ecdsa", "");
    let (session, _) = server.session(&server.user(&["absent", "stranger", "user"]), &Tuning::default()).await.unwrap();
    assert_eq!(session.our_key, HostKey::parse(&std::fs::read_to_string(server.path("user.pub")).unwrap()));

    let error =
        server.session(&server.user(&["absent", "stranger"]), &Tuning::default()).await.unwrap_err().to_string();
    assert!(error.contains("absent (not there)") && error.contains("stranger") && error.contains("refused"), "{error}");

    std::fs::copy(server.path("rsa.pub"), server.path("authorized")).unwrap();
    server.session(&server.user(&["rsa"]), &Tuning::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn passphrases_are_asked_for_when_they_help() {
    let server = Server::start(&["ed25519"], "");
    for name in ["first", "second", "third", "stranger"] {
        keygen(&server.path(name), "ed25519", "secret");
    }
    let authorized: String = ["first", "second", "third"]
        .map(|name| std::fs::read_to_string(server.path(&format!("{name}.pub"))).unwrap())
        .concat();
    std::fs::write(server.path("authorized"), authorized).unwrap();

    let answers = Arc::new(Answers { typed: Mutex::new(vec!["secret", "wrong"]), asked: Mutex::default() });
    let user = server.user_who_types(&["stranger", "first"], &answers);
    assert!(user.may_ask());
    server.session(&user, &Tuning::default()).await.unwrap();
    let asked = std::mem::take(&mut *answers.asked.lock().unwrap());
    assert!(asked.len() == 2 && asked.iter().all(|prompt| prompt.contains("first")), "{asked:?}");
    // The passphrase is not asked for a second time.
    server.session(&user, &Tuning::default()).await.unwrap();
    assert!(answers.asked.lock().unwrap().is_empty());

    answers.typed.lock().unwrap().extend(["not this", "nor this", "not that"]);
    let user = server.user_who_types(&["second"], &answers);
    let error = server.session(&user, &Tuning::default()).await.unwrap_err().to_string();
    assert!(error.contains("wrong 3 times") && !error.contains("nor this"), "{error}");

    let error = server.session(&server.user(&["third"]), &Tuning::default()).await.unwrap_err().to_string();
    assert!(error.contains("nobody types"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_in_an_agent() {
    let server = Server::start(&["ed25519"], "");
    let socket = server.path("agent");
    let mut agent = Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn().unwrap();
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while std::os::unix::net::UnixStream::connect(&socket).is_err() && std::time::Instant::now() < until {
        std::thread::yield_now();
    }
    keygen(&server.path("other"), "ed25519", "");
    for key in ["other", "user"] {
        let added =
            Command::new("ssh-add").arg("-q").arg(server.path(key)).env("SSH_AUTH_SOCK", &socket).status().unwrap();
        assert!(added.success());
    }
    let with = |identities_only, files: &[&str]| {
        Credentials::User(Arc::new(UserCredentials {
            agent: Some(socket.clone()),
            identities_only,
            identity_files: files.iter().map(|name| server.path(name)).collect(),
            named_first: false,
            certificate_files: Vec::new(),
            algorithms: Algorithms::default(),
            asks: Arc::new(Answers::default()),
        }))
    };
    let any = server.session(&with(false, &[]), &Tuning::default()).await;
    let none = server.session(&with(true, &["other.pub"]), &Tuning::default()).await;
    let named = server.session(&with(true, &["user.pub"]), &Tuning::default()).await;
    let _ = agent.kill();
    let _ = agent.wait();
    any.unwrap();
    none.unwrap_err();
    named.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_take_little_are_reached() {
    let little = [
        "KexAlgorithms ecdh-sha2-nistp256\nCiphers aes128-gcm@openssh.com",
        "KexAlgorithms ecdh-sha2-nistp384\nCiphers aes128-ctr\nMACs hmac-sha2-256",
        "KexAlgorithms ecdh-sha2-nistp521",
    ];
    for config in little {
        let server = Server::start(&["ed25519"], config);
        let (session, _) = server.session(&server.user(&["user"]), &Tuning::default()).await.expect(config);
        let (stdout, ..) = session.output("echo here", 100, soon()).await.expect(config);
        assert_eq!(stdout, b"here\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ssh_config_says_what_may_be_used() {
    let server = Server::start(&["ed25519", "rsa"], "Ciphers aes256-ctr\nMACs hmac-sha2-512");
    let told = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let connected = async |algorithms: Algorithms| {
        let tuning = Tuning { algorithms, ..Tuning::default() };
        let any = Policy::new(Vec::new(), false, |_, _| Judgement::Trusted);
        server.connect(&any, &tuning).await.0.map(|connected| connected.host_key.algorithm().to_owned())
    };
    let only = Algorithms {
        ciphers: told(&["aes128-ctr", "aes256-ctr"]),
        host_keys: told(&["rsa-sha2-512"]),
        ..Algorithms::default()
    };
    assert_eq!(connected(only).await.unwrap(), "ssh-rsa");
    let error = connected(Algorithms { ciphers: told(&["aes128-ctr"]), ..Algorithms::default() }).await.unwrap_err();
    assert!(error.to_string().contains("no common cipher"), "{error}");
    let error = connected(Algorithms { macs: told(&["hmac-sha2-256"]), ..Algorithms::default() }).await.unwrap_err();
    assert!(error.to_string().contains("no common MAC"), "{error}");
    let long =
        |least| Algorithms { host_keys: told(&["rsa-sha2-512"]), rsa_bits: Some(least), ..Algorithms::default() };
    assert_eq!(connected(long(2048)).await.unwrap(), "ssh-rsa");
    let error = connected(long(10_000)).await.unwrap_err();
    assert!(error.to_string().contains("its host key is too short: it has "), "{error}");
}

/// New keys in the middle of a stream must not lose, repeat or stall anything.
#[tokio::test(flavor = "multi_thread")]
async fn rekeying_under_load() {
    let server = Server::start(&["ed25519"], "RekeyLimit 1M");
    let tuning = Tuning { rekey_bytes: Some(1 << 20), ..Tuning::default() };
    let (session, counters) = server.session(&server.user(&["user"]), &tuning).await.unwrap();
    let mut exec = session.exec("cat").await.unwrap();
    let data: Vec<u8> = (0..8_u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let writer = exec.writer().clone();
    let sent = data.clone();
    let sending = tokio::spawn(async move {
        for chunk in sent.chunks(100_000) {
            writer.send(chunk.to_vec()).await?;
        }
        writer.end().await
    });
    let mut back = Vec::new();
    let receive = async {
        while let Some(output) = exec.next().await {
            if let Output::Stdout(bytes) = output {
                back.extend(bytes);
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(120), receive).await.expect("the stream came to an end");
    sending.await.unwrap().unwrap();
    assert!(back == data, "{} bytes of {} came back, or others", back.len(), data.len());
    assert_eq!(exec.exit(), Exit::Status(0));
    assert!(counters.sent() > 8 << 20 && counters.received() > 8 << 20);
    assert!(session.rekey().await);
    let (stdout, ..) = session.output("echo after", 100, soon()).await.unwrap();
    assert_eq!(stdout, b"after\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_end_as_they_end() {
    let server = Server::start(&["ed25519"], "");
    let (session, _) = server.session(&server.user(&["user"]), &Tuning::default()).await.unwrap();
    let (stdout, stderr, exit) = session.output("echo out; echo err >&2; exit 3", 100, soon()).await.unwrap();
    assert_eq!((&stdout[..], &stderr[..], exit), (&b"out\n"[..], &b"err\n"[..], Exit::Status(3)));
    assert!(matches!(session.subsystem("nonesuch").await, Err(ExecError::Refused { .. })));
    let late = session.output("sleep 60", 100, Instant::now() + Duration::from_millis(300)).await;
    assert!(matches!(late, Err(ExecError::Timeout { .. })), "{late:?}");
}

/// A shell that nobody types into.
async fn bridged(session: &Session, command: &str) -> Result<Exit, ShellError> {
    shell::bridge(session, Some(command), false, tokio::io::empty()).await
}

/// Whether this process has something of its own for SIGTERM.
fn hears_sigterm() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap() >> (libc::SIGTERM - 1) & 1 == 1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_says_how_it_ended() {
    let server = Server::start(&["ed25519"], "");
    let user = server.user(&["user"]);
    let (session, _) = server.session(&user, &Tuning::default()).await.unwrap();
    let mut shell = tokio::spawn(async move { bridged(&session, "exec sleep 600").await });
    while !hears_sigterm() && !shell.is_finished() {
        tokio::task::yield_now().await;
    }
    // The first may come before somebody listens.
    let ended = loop {
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM).unwrap();
        if let Ok(ended) = tokio::time::timeout(Duration::from_millis(100), &mut shell).await {
            break ended.unwrap();
        }
    };
    assert!(matches!(ended, Err(ShellError::Ended(libc::SIGTERM))), "{ended:?}");

    let (session, _) = server.session(&user, &Tuning::default()).await.unwrap();
    assert!(matches!(bridged(&session, "exit 7").await, Ok(Exit::Status(7))));
    let lost = bridged(&session, "kill -9 $PPID").await;
    assert!(matches!(lost, Err(ShellError::Lost)), "{lost:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_ends_with_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let address = Address { host: "127.0.0.1".into(), port, way: Way::Direct };
    let started = Instant::now();
    // This listener takes connections and says nothing.
    let error = reach(std::slice::from_ref(&address), Knocking::BRISK, started, started + Duration::from_secs(1))
        .await
        .unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(3), "{error}");
    drop(listener);
    let error = connect(&address, &Policy::pinned(Vec::new()), &Arc::default(), soon(), &Tuning::default()).await;
    assert!(matches!(error, Err(ConnectError::Tcp { .. })), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_server_is_asked_again() {
    use std::io::Write;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port(), way: Way::Direct };
    let server = std::thread::spawn(move || {
        for words in ["Exceeded MaxStartups\r\n", "Not allowed at this time\r\n", "Welcome\r\nSSH-2.0-here\r\n"] {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(words.as_bytes()).unwrap();
        }
        listener
    });
    let reached = reach(std::slice::from_ref(&address), Knocking::BRISK, Instant::now(), soon()).await.unwrap();
    let _listener = server.join().unwrap();
    let mut said = [0; 64];
    let Stream::Tcp(stream) = &reached.stream else { panic!("{reached:?}") };
    let length = stream.peek(&mut said).await.unwrap();
    assert_eq!(&said[..length], b"Welcome\r\nSSH-2.0-here\r\n");
}

/// Its key is another in each run: whoever does not know it must not remember it, nor forget the host's for it.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_not_taken_for_a_system() {
    use std::io::Write;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port(), way: Way::Direct };
    let server = std::thread::spawn(move || {
        let mut heard = Vec::new();
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"SSH-2.0-anemos_0.1.0\r\n").unwrap();
            let (mut said, mut piece) = (Vec::new(), [0; 1024]);
            while let Ok(length @ 1..) = std::io::Read::read(&mut stream, &mut piece) {
                said.extend_from_slice(&piece[..length]);
                if said.starts_with(b"SSH-") {
                    break;
                }
            }
            heard.push(!said.is_empty());
        }
        heard
    });
    let anyone = Policy::new(Vec::new(), false, |_, _| Judgement::Trusted);
    let refused = connect(&address, &anyone, &Arc::default(), soon(), &Tuning::default()).await.unwrap_err();
    assert!(matches!(refused, ConnectError::Agent { .. }), "{refused}");
    assert!(refused.why().contains("the host is in RAM"), "{}", refused.why());
    // Whoever looks for the agent talks to it.
    let pinned = Policy::pinned(Vec::new());
    let error = connect(&address, &pinned, &Arc::default(), soon(), &Tuning::default()).await.unwrap_err();
    assert!(!matches!(error, ConnectError::Agent { .. }), "{error}");
    assert_eq!(server.join().unwrap(), [false, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_made_from_where_ssh_config_says() {
    let server = Server::start(&["ed25519"], "");
    drop(server.session(&server.user(&["user"]), &Tuning::default()).await.unwrap());
    let from = async |origin: Origin| {
        let address = Address { way: Way::bound(origin), ..server.address() };
        let policy = Policy::pinned(vec![server.host_key("ed25519")]);
        let connected = connect(&address, &policy, &Arc::default(), soon(), &Tuning::default()).await?;
        let session = connected.authenticate(&user(), &server.user(&["user"]), soon()).await.unwrap();
        let (seen, ..) = session.output("echo $SSH_CONNECTION", 100, soon()).await.unwrap();
        Ok::<_, ConnectError>(String::from_utf8(seen).unwrap().split(' ').next().unwrap_or_default().to_owned())
    };
    let origin = |address: &str, interface: Option<&str>| Origin {
        family: Some(Family::Inet),
        address: Some(address.into()),
        interface: interface.map(str::to_owned),
    };
    assert_eq!(from(origin("127.0.0.5", None)).await.unwrap(), "127.0.0.5");
    assert_eq!(from(origin("127.0.0.6", Some("lo"))).await.unwrap(), "127.0.0.6");
    for (origin, why) in [
        (origin("192.0.2.1", None), "BindAddress 192.0.2.1: "),
        (origin("::1", None), "BindAddress ::1: it is of the other version of IP"),
        (origin("127.0.0.5", Some("none0")), "BindInterface none0: "),
        (Origin { family: Some(Family::Inet6), ..Origin::default() }, "no address of the AddressFamily"),
    ] {
        let error = from(origin).await.unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

/// A way to the server that swallows what comes from the client, once told to, without a word.
async fn swallowing(server: &Server) -> (Address, Arc<std::sync::atomic::AtomicBool>) {
    use std::sync::atomic::{AtomicBool, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port(), way: Way::Direct };
    let swallows = Arc::new(AtomicBool::new(false));
    let (told, port) = (Arc::clone(&swallows), server.port);
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let there = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let ((mut from, mut to_client), (mut from_there, mut to)) = (client.into_split(), there.into_split());
        tokio::spawn(async move { tokio::io::copy(&mut from_there, &mut to_client).await });
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut bytes).await {
            if told.load(Ordering::Relaxed) {
                // Both connections stay open.
                std::future::pending::<()>().await;
            }
            to.write_all(&bytes[..count]).await.unwrap();
        }
    });
    (address, swallows)
}

/// A link that takes nothing any more is dead, also for who is in the middle of sending.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_swallows_an_upload_ends() {
    let server = Server::start(&["ed25519"], "");
    // The server is up once it was reached.
    drop(server.session(&server.user(&["user"]), &Tuning::default()).await.unwrap());
    let (address, swallows) = swallowing(&server).await;
    let tuning = Tuning { stalled: Duration::from_secs(2), keepalive: Duration::from_secs(3600), ..Tuning::default() };
    let policy = Policy::pinned(vec![server.host_key("ed25519")]);
    let connected = connect(&address, &policy, &Arc::default(), soon(), &tuning).await.unwrap();
    let session = connected.authenticate(&user(), &server.user(&["user"]), soon()).await.unwrap();
    let exec = session.exec("cat >/dev/null").await.unwrap();
    exec.writer().send(vec![0; 100_000]).await.unwrap();
    swallows.store(true, std::sync::atomic::Ordering::Relaxed);
    let upload = async { while exec.writer().send(vec![0; 100_000]).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(60), upload).await.expect("the upload ends with its link");
}

#[test]
fn a_remembered_key_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("known_hosts");
    let key = RunKey::from_seed(&new_seed().unwrap()).unwrap().public();
    let parsed = crate::known_hosts::PublicKey::parse(key.line()).unwrap();
    add_line(&file, "example.org", 2222, &parsed, false).unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text, format!("[example.org]:2222 {}\n", key.line()));
}
