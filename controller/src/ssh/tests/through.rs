//! Through jump hosts: OpenSSH's servers behind each other, and its client with a configuration of its own.

use std::sync::atomic::Ordering;

use super::*;
use crate::ssh::through::Through;

/// Jump hosts, and a configuration for `ssh` that knows them by their names.
pub(super) struct Net {
    dir: TempDir,
    pub(super) hosts: Vec<Server>,
}

impl Net {
    /// These jump hosts, whose servers are configured with this.
    fn new(hosts: &[(&str, &str)]) -> Self {
        Self::of(hosts.iter().map(|(name, more)| (*name, Server::start(&["ed25519"], more))).collect())
    }

    /// These jump hosts.
    pub(super) fn of(hosts: Vec<(&str, Server)>) -> Self {
        let (names, hosts): (Vec<&str>, Vec<Server>) = hosts.into_iter().unzip();
        let net = Self { dir: tempfile::tempdir().unwrap(), hosts };
        let names = names.iter().zip(&net.hosts);
        let config: Vec<String> = names.clone().map(|(name, server)| net.table(name, server)).collect();
        let known: Vec<String> = names.map(|(name, server)| known(name, &server.host_key("ed25519"))).collect();
        std::fs::write(net.config(), config.concat()).unwrap();
        std::fs::write(net.known_hosts(), known.concat()).unwrap();
        net
    }

    fn table(&self, name: &str, server: &Server) -> String {
        format!(
            "Host {name}\n HostName 127.0.0.1\n Port {}\n User {}\n HostKeyAlias {name}\n IdentityFile {}\n \
             IdentityAgent none\n IdentitiesOnly yes\n UserKnownHostsFile {}\n GlobalKnownHostsFile none\n",
            server.port,
            user(),
            server.path("user").display(),
            self.known_hosts().display()
        )
    }

    pub(super) fn config(&self) -> PathBuf {
        self.dir.path().join("config")
    }

    fn known_hosts(&self) -> PathBuf {
        self.dir.path().join("known_hosts")
    }

    /// The way of `ProxyJump`, with the user's own `ssh` reading our configuration.
    fn way(&self, jumps: &str, to: &Address) -> Way {
        let config = self.config().display().to_string();
        let words = Way::through(jumps).unwrap().command(to, &["ssh", "-F", &config], None, "").unwrap();
        let quoted = words.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''").replace('%', "%%")));
        Way::Command(quoted.collect::<Vec<_>>().join(" "))
    }

    fn to(&self, jumps: &str, port: u16) -> Address {
        let to = Address { host: "127.0.0.1".into(), port, way: Way::Direct };
        Address { way: self.way(jumps, &to), ..to }
    }
}

fn known(name: &str, key: &HostKey) -> String {
    format!("{name} {}\n", key.line())
}

/// A port at which nobody listens.
fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn connect_to(address: &Address, key: HostKey) -> Result<Connected, ConnectError> {
    connect(address, &Policy::pinned(vec![key]), &Arc::default(), soon(), &Tuning::default()).await
}

/// Waits until something is so.
pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = soon();
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// How many processes have this word in their command lines.
fn processes(word: &str) -> usize {
    let all = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let lines = all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).contains(word)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_reached_through_one_and_several() {
    let server = Server::start(&["ed25519"], "");
    let net = Net::new(&[("one", ""), ("two", "")]);
    let config = net.config().display().to_string();
    for (jumps, programs) in [("one", 1), ("one,two", 2)] {
        let address = net.to(jumps, server.port);
        let reached = reach(&[address], Knocking::BRISK, Instant::now(), soon()).await.unwrap();
        let policy = Policy::pinned(vec![server.host_key("ed25519")]);
        let connected = handshake(reached, &policy, &Arc::default(), soon(), &Tuning::default()).await.unwrap();
        let session = connected.authenticate(&user(), &server.user(&["user"]), soon()).await.unwrap();
        let data = vec![7; 3 << 20];
        let exec = session.exec("wc -c").await.unwrap();
        exec.writer().send(data).await.unwrap();
        exec.writer().end().await.unwrap();
        let mut exec = exec;
        assert_eq!(exec.next().await, Some(Output::Stdout(b"3145728\n".into())), "{jumps}");
        assert_eq!(processes(&config).min(2), programs, "{jumps}");
        session.close().await;
        until("the programs are gone", || processes(&config) == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_at_fault_is_told() {
    let server = Server::start(&["ed25519"], "");
    let net = Net::new(&[("one", ""), ("closed", "AllowTcpForwarding no"), ("strange", ""), ("shut", "")]);
    let key = server.host_key("ed25519");
    let mut config = std::fs::read_to_string(net.config()).unwrap();
    config = format!("Host gone\n HostName 127.0.0.1\n Port {}\n{config}", closed_port());
    std::fs::write(net.config(), config).unwrap();
    let other = RunKey::from_seed(&new_seed().unwrap()).unwrap().public();
    let named = ["one", "closed", "shut"].into_iter().zip([&net.hosts[0], &net.hosts[1], &net.hosts[3]]);
    let lines = named.map(|(name, server)| known(name, &server.host_key("ed25519")));
    std::fs::write(net.known_hosts(), lines.collect::<String>() + &known("strange", &other)).unwrap();
    std::fs::write(net.hosts[3].path("authorized"), "").unwrap();
    let nobody = closed_port();
    let cases = [
        ("one", nobody, Fault::Target, "connect failed: Connection refused"),
        ("closed", server.port, Fault::Forbidden, "administratively prohibited"),
        ("gone", server.port, Fault::Unreached, "Connection refused"),
        ("strange", server.port, Fault::Identity, "HAS CHANGED"),
        ("shut", server.port, Fault::Refused, "Permission denied"),
        ("gone,one", server.port, Fault::Unreached, "Connection refused"),
        ("one,gone", server.port, Fault::Unreached, "connect failed: Connection refused"),
        ("shut,one", server.port, Fault::Refused, "Permission denied"),
    ];
    // The servers are up once they were reached.
    for jump in &net.hosts {
        drop(reach(&[jump.address()], Knocking::CALM, Instant::now(), soon()).await.unwrap());
    }
    for (jumps, port, wanted, words) in cases {
        let error = connect_to(&net.to(jumps, port), key.clone()).await.unwrap_err();
        let ConnectError::Way { fault, said, .. } = &error else { panic!("{jumps}: {error}") };
        assert_eq!(*fault, wanted, "{jumps}: {error}");
        assert!(said.contains(words), "{jumps}: {error}");
    }
}

/// An impostor behind the jump host has nothing but another key.
#[tokio::test(flavor = "multi_thread")]
async fn keys_are_pinned_through_a_jump_host() {
    let impostor = Server::start(&["ed25519"], "");
    let net = Net::new(&[("one", "")]);
    let right = RunKey::from_seed(&new_seed().unwrap()).unwrap().public();
    let address = net.to("one", impostor.port);
    let reached = reach(&[address], Knocking::CALM, Instant::now(), soon()).await.unwrap();
    let counters = Arc::new(Counters::default());
    let refused = handshake(reached, &Policy::pinned(vec![right]), &counters, soon(), &Tuning::default()).await;
    let Err(ConnectError::HostKey { key, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(key, impostor.host_key("ed25519"));
    assert!(counters.sent() > 0 && counters.received() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_says_nothing_is_ended_with_the_deadline() {
    let key = RunKey::from_seed(&new_seed().unwrap()).unwrap().public();
    // It takes no notice of being told to end, and neither does what it has started.
    let command = "sh -c 'trap \"\" TERM HUP; sleep 600.25 & sleep 600.25'".to_owned();
    let address = Address { host: "h".into(), port: 22, way: Way::Command(command) };
    let deadline = Instant::now() + Duration::from_secs(2);
    let policy = Policy::pinned(vec![key]);
    let error = connect(&address, &policy, &Arc::default(), deadline, &Tuning::default()).await.unwrap_err();
    assert!(Instant::now() < deadline + Duration::from_secs(3), "{error}");
    assert_eq!(
        error.to_string(),
        "h port 22 through its ProxyCommand did not answer in time while waiting for its SSH server to speak"
    );
    until("the program is gone", || processes("600.25") == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_program_says_is_shown_without_what_a_terminal_would_obey() {
    let key = RunKey::from_seed(&new_seed().unwrap()).unwrap().public();
    let said = async |command: &str| {
        let address = Address { host: "10.0.0.5".into(), port: 24, way: Way::Command(command.into()) };
        connect_to(&address, key.clone()).await.unwrap_err().to_string()
    };
    assert_eq!(
        said(r"printf 'no \033[2Jway\r\n\342\200\256to %%s port %%s\n' %h %p >&2").await,
        "no connection to 10.0.0.5 port 24 through its ProxyCommand: the way there ended: no way; to 10.0.0.5 port \
         24"
    );
    let much = said("sh -c 'i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i + 1)); done >&2'").await;
    assert!(much.len() < 8192 && much.ends_with("line 2999"), "{much}");
    let error = said("/nonexistent/program").await;
    assert!(error.contains("/nonexistent/program"), "{error}");
    let banner = said("echo Exceeded MaxStartups").await;
    assert!(banner.contains("it said \"Exceeded MaxStartups\""), "{banner}");
}

/// A program that takes nothing any more leads nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_takes_nothing_is_given_up() {
    use tokio::io::AsyncWriteExt;
    let mut through =
        Through::start(&["sh", "-c", "echo SSH-2.0-x; exec sleep 600.75"].map(str::to_owned)).await.unwrap();
    through.peek().await.unwrap();
    through.give_up_after(Duration::from_millis(500));
    let upload = async {
        loop {
            if let Err(error) = through.write_all(&[0; 16_000]).await {
                return error.kind();
            }
        }
    };
    assert_eq!(tokio::time::timeout(Duration::from_secs(20), upload).await, Ok(std::io::ErrorKind::TimedOut));
    let life = through.life();
    drop(through);
    life.end(Duration::from_secs(20)).await;
    assert_eq!(processes("600.75"), 0);
}

/// So does one that takes everything, for a link that is dead further on: the host does not answer any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_dead_behind_a_program_ends() {
    let server = Server::start(&["ed25519"], "");
    drop(server.session(&server.user(&["user"]), &Tuning::default()).await.unwrap());
    let (address, swallows) = swallowing(&server).await;
    let net = Net::new(&[]);
    let relay = net.dir.path().join("relay");
    std::fs::write(&relay, "exec 3<>/dev/tcp/127.0.0.1/$1; cat <&3 & cat >&3").unwrap();
    let address = Address { way: Way::Command(format!("bash {} %p", relay.display())), ..address };
    let tuning = Tuning { keepalive: Duration::from_secs(1), keepalive_max: 2, ..Tuning::default() };
    let policy = Policy::pinned(vec![server.host_key("ed25519")]);
    let connected = connect(&address, &policy, &Arc::default(), soon(), &tuning).await.unwrap();
    let session = connected.authenticate(&user(), &server.user(&["user"]), soon()).await.unwrap();
    let exec = session.exec("cat >/dev/null").await.unwrap();
    exec.writer().send(vec![0; 100_000]).await.unwrap();
    swallows.store(true, Ordering::Relaxed);
    let upload = async { while exec.writer().send(vec![0; 100_000]).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(60), upload).await.expect("the upload ends with its link");
}

/// What was said last to a host arrives, though nobody waits for an answer.
#[tokio::test(flavor = "multi_thread")]
async fn last_words_go_all_the_way() {
    use tokio::io::AsyncWriteExt;
    let dir = tempfile::tempdir().unwrap();
    let (heard, begun) = (dir.path().join("heard"), dir.path().join("begun"));
    // It is slow to take what it is sent.
    let script =
        format!("echo SSH-2.0-x; until [ -e {} ]; do sleep 0.05; done; cat >{}", begun.display(), heard.display());
    let mut through = Through::start(&["sh", "-c", &script].map(str::to_owned)).await.unwrap();
    assert_eq!(through.peek().await.unwrap(), b"SSH-2.0-x\n");
    through.write_all(&[b'x'; 16_000]).await.unwrap();
    let life = through.life();
    drop(through);
    std::fs::write(&begun, "").unwrap();
    life.end(Duration::from_secs(20)).await;
    assert_eq!(std::fs::metadata(&heard).unwrap().len(), 16_000);
}

/// A host that boots is not knocked at as often as one that is reached straight: each knock is a login at the jump
/// host.
#[tokio::test(flavor = "multi_thread")]
async fn knocks_through_a_program_are_few() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let way = Way::Command(format!("sh -c 'echo knock >>{}; sleep 1000'", log.display()));
    let address = Address { host: "h".into(), port: 22, way };
    let began = Instant::now();
    let error = reach(&[address], Knocking::BRISK, began, began + Duration::from_secs(7)).await.unwrap_err();
    assert!(matches!(error, ConnectError::Timeout { .. }), "{error}");
    let knocks = std::fs::read_to_string(&log).unwrap().lines().count();
    assert_eq!(knocks, 2, "one at once, and one after six seconds");
}
