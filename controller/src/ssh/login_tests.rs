//! What is shown to servers in what order, certificates of users and hosts, passwords, and algorithms; against the real
//! servers of this machine.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use ring::digest::{SHA256, digest};
use ring::signature::{Ed25519KeyPair, KeyPair};
use russh::keys::PrivateKey;
use russh::keys::ssh_key::{LineEnding, private, public};
use tempfile::TempDir;

use super::tests::{Answers, SSHD, Server, effective, keygen, soon, user};
use super::*;
use crate::engine::Trust;

fn run(program: &str, args: &[&str], dir: &Path) -> std::process::Output {
    let output = Command::new(program).args(args).current_dir(dir).stdin(Stdio::null()).output();
    output.unwrap_or_else(|error| panic!("`{program}` can't be run ({error}): this test needs OpenSSH"))
}

/// Runs `ssh-keygen`, which must do what it is told.
fn ssh_keygen(args: &[&str], dir: &Path) {
    let output = run("ssh-keygen", args, dir);
    assert!(output.status.success(), "{args:?}: {output:?}");
}

/// An agent of OpenSSH's with these keys, and whatever lies beside them.
struct Agent {
    child: Child,
    socket: PathBuf,
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Agent {
    fn with(keys: &[PathBuf], socket: PathBuf) -> Self {
        let child = Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn().unwrap();
        let agent = Self { child, socket };
        let until = std::time::Instant::now() + Duration::from_secs(20);
        while UnixStream::connect(&agent.socket).is_err() && std::time::Instant::now() < until {
            std::thread::yield_now();
        }
        for key in keys {
            let added = Command::new("ssh-add").arg("-q").arg(key).env("SSH_AUTH_SOCK", &agent.socket).status();
            assert!(added.unwrap().success());
        }
        agent
    }
}

fn nobody() -> Arc<Answers> {
    Arc::default()
}

/// Somebody who types these, the first first.
fn typing(lines: &[&'static str]) -> Arc<Answers> {
    Arc::new(Answers { typed: Mutex::new(lines.iter().rev().copied().collect()), asked: Mutex::default() })
}

fn credentials(server: &Server, files: &[&str]) -> UserCredentials {
    UserCredentials {
        agent: None,
        identities_only: false,
        identity_files: files.iter().map(|name| server.path(name)).collect(),
        named_first: true,
        certificate_files: Vec::new(),
        algorithms: Algorithms::default(),
        asks: nobody(),
    }
}

async fn log_in(server: &Server, credentials: UserCredentials) -> Result<Session, AuthError> {
    let policy = Policy::pinned(vec![server.host_key("ed25519")]);
    let connected = server.connect(&policy, &Tuning::default()).await.0.unwrap();
    connected.authenticate_or_ask(&user(), &Credentials::User(Arc::new(credentials)), soon()).await
}

/// Fingerprints of the keys that the server has refused, in order.
fn refused(server: &Server) -> Vec<String> {
    let log = std::fs::read_to_string(server.path("log")).unwrap();
    let lines = log.lines().filter(|line| line.contains("Failed publickey"));
    lines.map(|line| line.split(' ').find(|word| word.starts_with("SHA256:")).unwrap().to_owned()).collect()
}

fn fingerprint(server: &Server, name: &str) -> String {
    HostKey::parse(&std::fs::read_to_string(server.path(&format!("{name}.pub"))).unwrap()).unwrap().fingerprint()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_shown_in_order_and_over_several_connections() {
    let server = Server::start_with(&["ed25519"], |dir| {
        std::fs::write(dir.join("banner"), "Please log in as\nadmin\n").unwrap();
        format!("MaxAuthTries 3\nBanner {}/banner", dir.display())
    });
    let names = ["one", "two", "three", "four", "five", "six"];
    for name in names {
        keygen(&server.path(name), "ed25519", "");
    }
    let in_agent: Vec<PathBuf> = names[..4].iter().chain(&["user"]).map(|name| server.path(name)).collect();
    let agent = Agent::with(&in_agent, server.path("agent"));
    let with = |files: &[&str], named_first| UserCredentials {
        agent: Some(agent.socket.clone()),
        named_first,
        ..credentials(&server, files)
    };
    let prints = |names: &[&str]| names.iter().map(|name| fingerprint(&server, name)).collect::<Vec<_>>();

    // What hosts.toml names comes first, in its order and also where the agent lacks it.
    log_in(&server, with(&["five", "two", "user"], true)).await.unwrap();
    assert_eq!(refused(&server), prints(&["five", "two"]));

    // As OpenSSH: what the agent has of the named, what else it has, then files. One connection is not enough for it;
    // no key is shown twice.
    std::fs::write(server.path("log"), "").unwrap();
    std::fs::copy(server.path("six.pub"), server.path("authorized")).unwrap();
    let session = log_in(&server, with(&["six", "three"], false)).await.unwrap();
    assert_eq!(session.our_key.unwrap().fingerprint(), fingerprint(&server, "six"));
    assert_eq!(refused(&server), prints(&["three", "one", "two", "four", "user"]));

    // A server is not left more than twice.
    std::fs::write(server.path("log"), "").unwrap();
    std::fs::write(server.path("authorized"), "").unwrap();
    for name in ["seven", "eight", "nine", "ten"] {
        keygen(&server.path(name), "ed25519", "");
    }
    let all = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];
    let error = log_in(&server, credentials(&server, &all)).await.unwrap_err().to_string();
    assert_eq!(refused(&server), prints(&all[..9]));
    assert!(error.contains("Too many authentication failures"), "{error}");
    assert!(error.contains("not tried: ") && error.contains("the server says: Please log in as admin"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_users() {
    let server = Server::start_with(&["ed25519"], |dir| {
        keygen(&dir.join("ca"), "ed25519", "");
        format!("TrustedUserCAKeys {}/ca.pub", dir.display())
    });
    std::fs::write(server.path("authorized"), "").unwrap();
    let dir = server.dir.path();
    let principal = user();
    let sign = |validity: &str, key: &str| {
        ssh_keygen(&["-q", "-s", "ca", "-I", "me", "-n", &principal, "-V", validity, &format!("{key}.pub")], dir);
    };
    keygen(&server.path("rsa"), "rsa", "");
    keygen(&server.path("locked"), "ecdsa", "secret");
    for key in ["user", "rsa", "locked"] {
        let error = log_in(&server, credentials(&server, &[key])).await.unwrap_err().to_string();
        assert!(error.contains("refused"), "{error}");
        sign("-1h:+1h", key);
    }
    // Beside their keys.
    for key in ["user", "rsa"] {
        let session = log_in(&server, credentials(&server, &[key])).await.expect(key);
        assert_eq!(session.our_key.unwrap().fingerprint(), fingerprint(&server, key));
    }
    let locked = UserCredentials { asks: typing(&["secret"]), ..credentials(&server, &["locked"]) };
    log_in(&server, locked).await.unwrap();
    // From elsewhere, with the key in a file or in an agent; and with its key in the agent.
    std::fs::rename(server.path("user-cert.pub"), server.path("elsewhere.pub")).unwrap();
    log_in(&server, credentials(&server, &["user"])).await.unwrap_err();
    let elsewhere = |files: &[&str]| UserCredentials {
        certificate_files: vec![server.path("elsewhere.pub")],
        ..credentials(&server, files)
    };
    log_in(&server, elsewhere(&["user"])).await.unwrap();
    let error = log_in(&server, elsewhere(&[])).await.unwrap_err().to_string();
    assert!(error.contains("its private key is nowhere"), "{error}");
    let agent = Agent::with(&[server.path("user")], server.path("agent"));
    log_in(&server, UserCredentials { agent: Some(agent.socket.clone()), ..elsewhere(&[]) }).await.unwrap();
    drop(agent);
    let agent = Agent::with(&[server.path("rsa")], server.path("agent2"));
    log_in(&server, UserCredentials { agent: Some(agent.socket.clone()), ..credentials(&server, &[]) }).await.unwrap();

    sign("-2h:-1h", "user");
    let error = log_in(&server, credentials(&server, &["user"])).await.unwrap_err().to_string();
    assert!(error.contains("user-cert.pub (the certificate expired at 20"), "{error}");
    sign("+1h:+2h", "user");
    let error = log_in(&server, credentials(&server, &["user"])).await.unwrap_err().to_string();
    assert!(error.contains("is not valid before 20"), "{error}");
}

/// Whether we trust the server, or why not; held against what the installed OpenSSH does.
async fn judged(server: &Server, known_hosts: &str, revoked: Option<&str>) -> Result<bool, Judgement> {
    let file = server.path("known_hosts");
    std::fs::write(&file, known_hosts).unwrap();
    let mut ssh = effective(server, file.clone());
    ssh.revoked_host_keys = revoked.iter().map(|name| server.path(name)).collect();
    let trust = Trust::load(&ssh, false);
    let ours = match server.connect(&trust.policy(), &Tuning::default()).await.0 {
        Ok(connected) => Ok(connected.certified),
        Err(ConnectError::HostKey { judgement, .. }) => Err(judgement),
        Err(other) => panic!("{other}"),
    };
    let port = server.port.to_string();
    let (key, file) = (server.path("user"), format!("UserKnownHostsFile={}", file.display()));
    let mut command = Command::new("ssh");
    command.args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", &file]);
    command.args(["-o", "GlobalKnownHostsFile=none", "-o", "IdentityAgent=none", "-p", &port, "-i"]).arg(key);
    if let Some(revoked) = ssh.revoked_host_keys.first() {
        command.arg("-o").arg(format!("RevokedHostKeys={}", revoked.display()));
    }
    let theirs = command.arg(format!("{}@127.0.0.1", user())).arg("true").stdin(Stdio::null()).output().unwrap();
    assert_eq!(ours.is_ok(), theirs.status.success(), "we: {ours:?}, ssh: {theirs:?}");
    ours
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_hosts() {
    let certified = |names: &'static str, validity: &'static str| {
        Server::start_with(&["ed25519"], move |dir| {
            keygen(&dir.join("ca"), "ed25519", "");
            keygen(&dir.join("other"), "ed25519", "");
            let mut args = vec!["-q", "-s", "ca", "-h", "-I", "web1", "-z", "7", "-V", validity];
            args.extend((!names.is_empty()).then_some(["-n", names]).into_iter().flatten());
            args.push("host_ed25519.pub");
            ssh_keygen(&args, dir);
            format!("HostCertificate {}/host_ed25519-cert.pub", dir.display())
        })
    };
    let read = |server: &Server, name: &str| std::fs::read_to_string(server.path(name)).unwrap();
    let undecided = |judgement: Result<bool, Judgement>, word: &str| match judgement {
        Err(Judgement::Undecided(why)) => assert!(why.contains(word), "{why}"),
        other => panic!("{other:?}"),
    };
    let server = certified("web1.example.org,127.0.0.1", "-1h:+1h");
    let here = format!("[127.0.0.1]:{}", server.port);
    let (ca, other, plain) = (read(&server, "ca.pub"), read(&server, "other.pub"), read(&server, "host_ed25519.pub"));
    for name in [here.as_str(), "127.0.0.1", "*"] {
        assert_eq!(judged(&server, &format!("@cert-authority {name} {ca}"), None).await, Ok(true), "{name}");
    }
    undecided(judged(&server, &format!("@cert-authority {here} {other}"), None).await, "not a @cert-authority");
    assert_eq!(judged(&server, &format!("@cert-authority elsewhere {ca}"), None).await, Err(Judgement::Unknown));
    assert!(judged(&server, &format!("{here} {ca}"), None).await.is_err(), "an authority has no host's key");
    // A certificate that proves nothing does no harm to a known key.
    assert_eq!(judged(&server, &format!("@cert-authority {here} {other}{here} {plain}"), None).await, Ok(true));

    // Revoked: the authority or the key, in known_hosts, in a list, in a KRL; and the certificate alone.
    let trusted = format!("@cert-authority {here} {ca}");
    for key in [&ca, &plain] {
        let revoked = judged(&server, &format!("{trusted}@revoked * {key}"), None).await;
        assert!(matches!(&revoked, Err(Judgement::Revoked(by)) if by.contains("@revoked in ")), "{revoked:?}");
    }
    let dir = server.dir.path();
    std::fs::write(server.path("serial"), "serial: 7\n").unwrap();
    std::fs::write(server.path("another"), "serial: 8\n").unwrap();
    for (krl, of) in [("krl-ca", "ca.pub"), ("krl-key", "host_ed25519.pub"), ("krl-other", "other.pub")] {
        ssh_keygen(&["-q", "-k", "-f", krl, of], dir);
    }
    for (krl, of) in [("krl-serial", "serial"), ("krl-another", "another")] {
        ssh_keygen(&["-q", "-k", "-f", krl, "-s", "ca.pub", of], dir);
    }
    for file in ["ca.pub", "host_ed25519.pub", "krl-ca", "krl-key", "krl-serial"] {
        let revoked = judged(&server, &trusted, Some(file)).await;
        assert!(matches!(&revoked, Err(Judgement::Revoked(by)) if by.ends_with(file)), "{file}: {revoked:?}");
    }
    for file in ["other.pub", "krl-other", "krl-another"] {
        assert_eq!(judged(&server, &trusted, Some(file)).await, Ok(true), "{file}");
    }
    undecided(judged(&server, &trusted, Some("absent")).await, "can't be read");
    std::fs::write(server.path("nonsense"), format!("{other}nonsense\n")).unwrap();
    undecided(judged(&server, &trusted, Some("nonsense")).await, "has no key on line 2");
    std::fs::write(server.path("cut"), &std::fs::read(server.path("krl-ca")).unwrap()[..40]).unwrap();
    undecided(judged(&server, &trusted, Some("cut")).await, "can't be judged");

    for (names, validity, word) in [
        ("web2.example.org", "-1h:+1h", "is for web2.example.org, not for 127.0.0.1"),
        ("127.0.0.*", "-1h:+1h", "is for 127.0.0.*, not for"),
        ("127.0.0.1", "-2h:-1h", "expired at"),
        ("127.0.0.1", "+1h:+2h", "not valid before"),
    ] {
        let server = certified(names, validity);
        undecided(judged(&server, &format!("@cert-authority * {}", read(&server, "ca.pub")), None).await, word);
    }
    let any = certified("", "always:forever");
    assert_eq!(judged(&any, &format!("@cert-authority * {}", read(&any, "ca.pub")), None).await, Ok(true));
}

/// An agent whose only key is a FIDO token's, which is always touched.
struct Token {
    pair: Ed25519KeyPair,
}

const FIDO: &[u8] = b"sk-ssh-ed25519@openssh.com";

fn string(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

impl Token {
    fn blob(&self) -> Vec<u8> {
        [string(FIDO), string(self.pair.public_key().as_ref()), string(b"ssh:")].concat()
    }

    /// Answers one client until it leaves.
    fn serve(&self, mut client: UnixStream) {
        let mut length = [0; 4];
        while client.read_exact(&mut length).is_ok() {
            let mut request = vec![0; u32::from_be_bytes(length) as usize];
            client.read_exact(&mut request).unwrap();
            let answer = match request[0] {
                11 => [&[12][..], &1_u32.to_be_bytes(), &string(&self.blob()), &string(b"token")].concat(),
                13 => {
                    let blob = string(&self.blob());
                    assert_eq!(request[1..][..blob.len()], blob);
                    let rest = &request[1 + blob.len()..];
                    let data = &rest[4..][..u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize];
                    // Touched; its counter stands at 42.
                    let state = [&[1][..], &42_u32.to_be_bytes()].concat();
                    let hash = |bytes: &[u8]| digest(&SHA256, bytes).as_ref().to_vec();
                    let signed = self.pair.sign(&[&hash(b"ssh:")[..], &state, &hash(data)].concat());
                    let signature = [string(FIDO), string(signed.as_ref()), state].concat();
                    [&[14][..], &string(&signature)].concat()
                }
                _ => vec![5],
            };
            client.write_all(&string(&answer)).unwrap();
        }
    }
}

/// The server logs the signature's algorithm as it is on the wire.
#[tokio::test(flavor = "multi_thread")]
async fn ssh_config_says_which_keys_are_shown_and_how_they_sign() {
    let server = Server::start_with(&["ed25519"], |_| "LogLevel DEBUG".into());
    keygen(&server.path("rsa"), "rsa", "");
    let keys = ["user", "rsa"].map(|name| std::fs::read_to_string(server.path(&format!("{name}.pub"))).unwrap());
    std::fs::write(server.path("authorized"), keys.concat()).unwrap();
    let with = |names: &[&str], rsa_bits| UserCredentials {
        algorithms: Algorithms {
            user_keys: names.iter().map(|&name| name.to_owned()).collect(),
            rsa_bits,
            ..Algorithms::default()
        },
        ..credentials(&server, &["user", "rsa"])
    };
    let opened_by = async |credentials| log_in(&server, credentials).await.unwrap().our_key.unwrap().fingerprint();
    assert_eq!(opened_by(with(&["rsa-sha2-256"], None)).await, fingerprint(&server, "rsa"));
    let log = std::fs::read_to_string(server.path("log")).unwrap();
    assert!(log.contains("pkalg rsa-sha2-256") && !log.contains("pkalg rsa-sha2-512"), "{log}");
    assert_eq!(opened_by(with(&["rsa-sha2-512", "ssh-ed25519"], None)).await, fingerprint(&server, "user"));
    let error = log_in(&server, with(&["rsa-sha2-512"], Some(10_000))).await.unwrap_err().to_string();
    for part in ["(ssh_config's PubkeyAcceptedAlgorithms leaves it out)", "ssh_config's RequiredRSASize is 10000)"] {
        assert!(error.contains(part), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fido_keys_sign_through_an_agent_only() {
    let server = Server::start(&["ed25519"], "");
    let token = Token { pair: Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap() };
    let key = public::Ed25519PublicKey(token.pair.public_key().as_ref().try_into().unwrap());
    let handle = private::SkEd25519::new(public::SkEd25519::new(key, "ssh:"), 1, vec![1; 32]).unwrap();
    let key = PrivateKey::from(handle);
    std::fs::write(server.path("token"), key.to_openssh(LineEnding::LF).unwrap()).unwrap();
    let user_key = std::fs::read_to_string(server.path("user.pub")).unwrap();
    let fido_key = format!("{}\n", key.public_key().to_openssh().unwrap());
    std::fs::write(server.path("authorized"), &fido_key).unwrap();

    let error = log_in(&server, credentials(&server, &["token"])).await.unwrap_err().to_string();
    assert!(
        error.contains("it is a FIDO key") && error.contains(&format!("`ssh-add {}", server.path("").display())),
        "{error}"
    );
    // The next key is tried.
    std::fs::write(server.path("authorized"), format!("{fido_key}{user_key}")).unwrap();
    log_in(&server, credentials(&server, &["token", "user"])).await.unwrap();

    std::fs::write(server.path("authorized"), &fido_key).unwrap();
    let listener = UnixListener::bind(server.path("agent")).unwrap();
    let agent = std::thread::spawn(move || token.serve(listener.accept().unwrap().0));
    let with_agent = UserCredentials { agent: Some(server.path("agent")), ..credentials(&server, &["token"]) };
    let session = log_in(&server, with_agent).await.unwrap();
    assert_eq!(session.our_key, HostKey::parse(&fido_key));
    agent.join().unwrap();
}

/// A server with root's account as `shadow` has it; `pam` where it asks through PAM. `None` without root's rights.
pub(super) fn with_password(shadow: &str, pam: Option<&str>, more: &str) -> Option<Server> {
    if !rustix::process::getuid().is_root() {
        eprintln!("skipped: a server that checks passwords needs root");
        return None;
    }
    let methods = if pam.is_some() { "UsePAM yes\nKbdInteractiveAuthentication" } else { "PasswordAuthentication" };
    Some(Server::start_with(&["ed25519"], |dir| {
        std::fs::create_dir_all(dir.join("etc")).unwrap();
        std::fs::write(dir.join("etc/shadow"), format!("root:{shadow}\n")).unwrap();
        if let Some(pam) = pam {
            std::fs::create_dir(dir.join("etc/pam.d")).unwrap();
            std::fs::write(dir.join("etc/pam.d/sshd"), pam).unwrap();
        }
        std::fs::write(dir.join("authorized"), "").unwrap();
        format!("{methods} yes\n{more}")
    }))
}

/// `secret`, as crypt(3) has it.
pub(super) const SECRET: &str =
    "$6$anemostests$MpVOwR7YAovKGUh6/mBkUbFupHCAoFv1aOONNhzEckqskXg7QQ8RPVBT0oQFAGLUapFzfKUH/NlUXuZNUndE40";

pub(super) const PAM: &str = "auth required pam_unix.so\naccount required pam_unix.so\npassword required pam_unix.so\n\
                   session required pam_permit.so\n";

fn asked(answers: &Answers) -> Vec<String> {
    std::mem::take(&mut *answers.asked.lock().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_are_asked_for_where_nothing_else_opens() {
    let valid = format!("{SECRET}:19000:0:99999:7:::");
    for pam in [None, Some(PAM)] {
        let Some(server) = with_password(&valid, pam, "") else { return };
        // Three times, and no more; nor for whoever can't type.
        let answers = typing(&["wrong", "more wrong", "wrong again", "secret"]);
        let with = |answers: &Arc<Answers>| UserCredentials {
            asks: Arc::clone(answers) as Arc<dyn Passphrases>,
            ..credentials(&server, &["user"])
        };
        let error = log_in(&server, with(&answers)).await.unwrap_err().to_string();
        let prompts = asked(&answers);
        assert_eq!(prompts.len(), 3, "{prompts:?} {error}");
        assert!(prompts[0].contains("root@127.0.0.1") && prompts[1].starts_with("That was not it"), "{prompts:?}");
        assert!(!error.contains("wrong"), "{error}");
        let error = log_in(&server, with(&nobody())).await.unwrap_err().to_string();
        assert!(error.contains("asks for it only on a terminal"), "{error}");

        // A key that opens is enough.
        let answers = typing(&["secret"]);
        std::fs::copy(server.path("user.pub"), server.path("authorized")).unwrap();
        assert!(!log_in(&server, with(&answers)).await.unwrap().by_password);
        assert_eq!(asked(&answers), [""; 0]);

        // Without one the password opens, and is known from then on to this process, for this host.
        std::fs::write(server.path("authorized"), "").unwrap();
        let session = log_in(&server, with(&answers)).await.unwrap();
        assert!(session.by_password);
        assert_eq!(session.our_key.unwrap().fingerprint(), fingerprint(&server, "user"));
        assert_eq!(asked(&answers).len(), 1);
        let policy = Policy::pinned(vec![server.host_key("ed25519")]);
        let connected = server.connect(&policy, &Tuning::default()).await.0.unwrap();
        let again = connected.authenticate("root", &Credentials::User(Arc::new(with(&nobody()))), soon()).await;
        assert!(again.unwrap().by_password);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_and_then_a_password() {
    let valid = format!("{SECRET}:19000:0:99999:7:::");
    let more = "AuthenticationMethods publickey,keyboard-interactive:pam\nMaxAuthTries 2";
    let Some(server) = with_password(&valid, Some(PAM), more) else { return };
    keygen(&server.path("stranger"), "ed25519", "");
    std::fs::copy(server.path("user.pub"), server.path("authorized")).unwrap();
    // The wrong password is the second failure: the server hangs up, and the key is shown again.
    let answers = typing(&["wrong", "secret"]);
    let with = UserCredentials {
        asks: Arc::clone(&answers) as Arc<dyn Passphrases>,
        ..credentials(&server, &["stranger", "user"])
    };
    let session = log_in(&server, with).await.unwrap();
    assert_eq!(session.our_key.unwrap().fingerprint(), fingerprint(&server, "user"));
    assert_eq!(asked(&answers).len(), 2);
    assert_eq!(refused(&server), [fingerprint(&server, "stranger")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_password_is_said_to_be() {
    // Last changed on day 0: to be changed at the next login.
    let Some(server) = with_password(&format!("{SECRET}:0:0:99999:7:::"), Some(PAM), "") else { return };
    let answers = typing(&["secret"]);
    let with = UserCredentials { asks: Arc::clone(&answers) as Arc<dyn Passphrases>, ..credentials(&server, &[]) };
    let error = log_in(&server, with).await.unwrap_err().to_string();
    let prompts = asked(&answers);
    assert!(prompts.iter().any(|prompt| prompt.contains("required to change your password")), "{prompts:?} {error}");
}

/// What OpenSSH's servers take by default, as far as the one here knows it.
const DEFAULTS: &[(&str, &str)] = &[
    (
        "OpenSSH 7.4",
        "KexAlgorithms curve25519-sha256,curve25519-sha256@libssh.org,ecdh-sha2-nistp256,ecdh-sha2-nistp384,\
         ecdh-sha2-nistp521,diffie-hellman-group-exchange-sha256,diffie-hellman-group16-sha512,\
         diffie-hellman-group18-sha512,diffie-hellman-group-exchange-sha1,diffie-hellman-group14-sha256,\
         diffie-hellman-group14-sha1\n\
         Ciphers chacha20-poly1305@openssh.com,aes128-ctr,aes192-ctr,aes256-ctr,aes128-gcm@openssh.com,\
         aes256-gcm@openssh.com,aes128-cbc,aes192-cbc,aes256-cbc\n\
         MACs umac-64-etm@openssh.com,umac-128-etm@openssh.com,hmac-sha2-256-etm@openssh.com,\
         hmac-sha2-512-etm@openssh.com,hmac-sha1-etm@openssh.com,umac-64@openssh.com,umac-128@openssh.com,\
         hmac-sha2-256,hmac-sha2-512,hmac-sha1\n\
         HostKeyAlgorithms ecdsa-sha2-nistp256,ssh-ed25519,rsa-sha2-512,rsa-sha2-256,ssh-rsa",
    ),
    (
        "OpenSSH 10",
        "KexAlgorithms sntrup761x25519-sha512@openssh.com,curve25519-sha256,curve25519-sha256@libssh.org,\
         ecdh-sha2-nistp256,ecdh-sha2-nistp384,ecdh-sha2-nistp521\n\
         Ciphers chacha20-poly1305@openssh.com,aes128-gcm@openssh.com,aes256-gcm@openssh.com,aes128-ctr,aes192-ctr,\
         aes256-ctr\n\
         HostKeyAlgorithms ssh-ed25519,rsa-sha2-512,rsa-sha2-256",
    ),
    (
        "dropbear 2018",
        "KexAlgorithms curve25519-sha256@libssh.org,ecdh-sha2-nistp521,ecdh-sha2-nistp384,ecdh-sha2-nistp256,\
         diffie-hellman-group14-sha256,diffie-hellman-group14-sha1\n\
         Ciphers aes128-ctr,aes256-ctr,aes128-cbc,aes256-cbc,3des-cbc\n\
         MACs hmac-sha1-96,hmac-sha1,hmac-sha2-256",
    ),
    (
        "RHEL in FIPS mode",
        "KexAlgorithms ecdh-sha2-nistp256,ecdh-sha2-nistp384,ecdh-sha2-nistp521,\
         diffie-hellman-group-exchange-sha256,diffie-hellman-group14-sha256\n\
         Ciphers aes256-gcm@openssh.com,aes256-ctr,aes128-gcm@openssh.com,aes128-ctr\n\
         MACs hmac-sha2-256-etm@openssh.com,hmac-sha2-256,hmac-sha2-512\n\
         HostKeyAlgorithms rsa-sha2-256",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_servers_take_by_default_is_spoken() {
    for (name, config) in DEFAULTS {
        let server = Server::start(&["rsa", "ecdsa", "ed25519"], config);
        let policy = Policy::pinned(["rsa", "ecdsa", "ed25519"].map(|kind| server.host_key(kind)).into());
        let connected = server.connect(&policy, &Tuning::default()).await.0.expect(name);
        let session = connected.authenticate(&user(), &server.user(&["user"]), soon()).await.expect(name);
        let (stdout, ..) = session.output("echo here", 100, soon()).await.expect(name);
        assert_eq!(stdout, b"here\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_anything_common_both_lists_are_named() {
    for (config, kind, theirs, ours) in [
        ("Ciphers 3des-cbc", "no common cipher", "3des-cbc", "aes128-ctr"),
        ("KexAlgorithms diffie-hellman-group14-sha1", "exchange keys", "group14-sha1", "curve25519-sha256"),
        ("Ciphers aes128-ctr\nMACs hmac-sha1", "no common MAC", "hmac-sha1", "hmac-sha2-256"),
        ("HostKeyAlgorithms ssh-rsa", "kind of host key", "takes ssh-rsa", "which is broken"),
    ] {
        let server = Server::start(&["rsa"], config);
        let error = server.connect(&Policy::pinned(Vec::new()), &Tuning::default()).await.0.unwrap_err().to_string();
        assert!([kind, theirs, ours].iter().all(|word| error.contains(word)), "{config}: {error}");
    }
}

/// Debian's dropbear, which lets `user` into root's account. `None` where it can't be had.
fn dropbear(kind: &str) -> Option<Server> {
    if !rustix::process::getuid().is_root() || !Path::new("/usr/sbin/dropbear").exists() {
        eprintln!("skipped: dropbear is not installed (tests/install-tools.sh does that), or this is not root");
        return None;
    }
    let dir = TempDir::new().unwrap();
    keygen(&dir.path().join("user"), "ed25519", "");
    std::fs::create_dir_all(dir.path().join("home/.ssh")).unwrap();
    std::fs::copy(dir.path().join("user.pub"), dir.path().join("home/.ssh/authorized_keys")).unwrap();
    let made = run("dropbearkey", &["-t", kind, "-f", "host"], dir.path());
    let said = String::from_utf8(made.stdout).unwrap();
    let public = said.lines().find(|line| line.contains(" AAAA")).expect("dropbearkey prints the public key");
    std::fs::write(dir.path().join(format!("host_{kind}.pub")), public).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let child = Command::new(SSHD)
        .args(["-F", "-E", "-p", &format!("127.0.0.1:{port}"), "-r"])
        .arg(dir.path().join("host"))
        .arg("-P")
        .arg(dir.path().join("pid"))
        .env("SERVER", "/usr/sbin/dropbear")
        .env("SERVER_HOME", dir.path().join("home"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Some(Server { dir, port, child })
}

#[tokio::test(flavor = "multi_thread")]
async fn dropbear_is_spoken_to() {
    for kind in ["ed25519", "ecdsa", "rsa"] {
        let Some(server) = dropbear(kind) else { return };
        let policy = Policy::pinned(vec![server.host_key(kind)]);
        let connected = server.connect(&policy, &Tuning::default()).await.0.expect(kind);
        keygen(&server.path("stranger"), "rsa", "");
        let session = connected.authenticate("root", &server.user(&["stranger", "user"]), soon()).await.expect(kind);
        let (stdout, ..) = session.output("echo here", 100, soon()).await.unwrap();
        assert_eq!(stdout, b"here\n");
    }
}
