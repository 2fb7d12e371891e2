//! Answers of a real `ssh -G`, and no answer at all.

use std::ffi::OsString;
use std::fs;
use std::time::Instant;

use super::*;

const WEB: &str = include_str!("fixtures/web");
const DEFAULTS: &str = include_str!("fixtures/defaults");

fn local() -> Local {
    Local {
        home: "/home/me".into(),
        user: Some("me".into()),
        uid: Some(1000),
        environment: [("KEYS".into(), "/keys".into())].into(),
    }
}

fn paths(files: &[&str]) -> Vec<PathBuf> {
    files.iter().map(PathBuf::from).collect()
}

#[test]
fn a_configured_host() {
    let expected = Effective {
        host_name: "web.example.org".into(),
        port: 2222,
        way: Way::through("bastion").unwrap(),
        algorithms: Algorithms::default(),
        user: "deploy".into(),
        identity_files: paths(&["/home/me/.ssh/web.example.org_key", "/home/me/.ssh/two", "/keys/with space/k"]),
        identities_given: false,
        certificate_files: vec![],
        identities_only: true,
        agent: Agent::Socket("/home/me/.agent/deploy.sock".into()),
        user_known_hosts: paths(&["/home/me/.ssh/kh_web.example.org", "/keys/known hosts"]),
        global_known_hosts: paths(&["/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"]),
        revoked_host_keys: vec![],
        host_key_alias: Some("webalias".into()),
        hash_known_hosts: true,
        strict_host_key_checking: Some("ask".into()),
        unsupported: None,
        notes: vec![],
    };
    let effective = resolve("web", WEB, Some("deploy"), &Overrides::default(), &local());
    assert_eq!(effective, expected);
    assert_eq!(effective.known_hosts_name(), ("webalias", 22));
    assert_eq!(effective.known_hosts_files().count(), 4);
}

#[test]
fn hosts_toml_wins() {
    let overrides = Overrides {
        user: Some("root".into()),
        port: Some(22),
        identity_files: paths(&["/k"]),
        known_hosts: Some("/known".into()),
        proxy_jump: None,
    };
    let effective = resolve("web", WEB, Some("deploy"), &overrides, &local());
    assert_eq!((effective.user.as_str(), effective.port), ("root", 22));
    assert_eq!(effective.host_name, "web.example.org", "HostName still applies");
    assert!(effective.identities_given);
    assert_eq!(effective.identity_files, paths(&["/k"]));
    assert_eq!(effective.known_hosts_files().collect::<Vec<_>>(), [Path::new("/known")], "nothing but the file given");
}

#[test]
fn an_unconfigured_host_is_root_s() {
    let effective = resolve("web", DEFAULTS, None, &Overrides::default(), &local());
    assert_eq!((effective.host_name.as_str(), effective.user.as_str(), effective.port), ("web", "root", 22));
    assert_eq!(effective.known_hosts_name(), ("web", 22));
    assert_eq!(effective.agent, Agent::Environment);
    assert_eq!(effective.unsupported, None);
    assert_eq!(effective.user_known_hosts, paths(&["/home/me/.ssh/known_hosts", "/home/me/.ssh/known_hosts2"]));
    assert!(effective.identity_files.contains(&PathBuf::from("/home/me/.ssh/id_ed25519")));
    assert_eq!(effective.notes, [""; 0]);
}

#[test]
fn without_openssh_the_defaults_apply() {
    let effective = resolve("web", "", None, &Overrides::default(), &local());
    let expected = Effective {
        host_name: "web".into(),
        port: 22,
        way: Way::Direct,
        algorithms: Algorithms::default(),
        user: "root".into(),
        identity_files: paths(&["/home/me/.ssh/id_ed25519", "/home/me/.ssh/id_ecdsa", "/home/me/.ssh/id_rsa"]),
        identities_given: false,
        certificate_files: vec![],
        identities_only: false,
        agent: Agent::Environment,
        user_known_hosts: paths(&["/home/me/.ssh/known_hosts", "/home/me/.ssh/known_hosts2"]),
        global_known_hosts: paths(&["/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"]),
        revoked_host_keys: vec![],
        host_key_alias: None,
        hash_known_hosts: false,
        strict_host_key_checking: None,
        unsupported: None,
        notes: vec![],
    };
    assert_eq!(effective, expected);
}

#[test]
fn paths_are_expanded_or_left_out_with_a_note() {
    let answer = "hostname h\nidentityfile ${KEYS}/%u-%r-%i-%p-%n\nidentityfile ~other/k\nidentityfile %Z\n\
                  identityfile ${NONE}/k\nidentityfile 100%%\nidentityfile none\nidentityagent none\n\
                  userknownhostsfile none\n";
    let effective = resolve("web", answer, None, &Overrides::default(), &local());
    assert_eq!(effective.identity_files, paths(&["/keys/me-root-1000-22-web", "100%"]));
    assert_eq!(effective.agent, Agent::Disabled);
    assert_eq!(effective.user_known_hosts, paths(&[]));
    assert_eq!(
        effective.notes,
        [
            "ssh_config's IdentityFile ~other/k is left out: it can't be expanded here",
            "ssh_config's IdentityFile %Z is left out: it can't be expanded here",
            "ssh_config's IdentityFile ${NONE}/k is left out: it can't be expanded here",
        ]
    );
    let by_variable = resolve("web", "identityagent $KEYS\n", None, &Overrides::default(), &local());
    assert_eq!(by_variable.agent, Agent::Socket("/keys".into()));
}

#[test]
fn the_way_is_that_of_ssh() {
    let at = |answer: &str| {
        let answer = format!("hostname 10.0.0.5\nport 24\nhostkeyalias key%alias\n{answer}\n");
        resolve("web", &answer, Some("me"), &Overrides::default(), &local())
    };
    let command = |text: &str| Way::Command(text.into());
    let bound = |family, address: Option<&str>, interface: Option<&str>| {
        Way::Bound(Origin { family, address: address.map(str::to_owned), interface: interface.map(str::to_owned) })
    };
    let ways = [
        ("proxycommand none", Way::Direct),
        ("addressfamily any", Way::Direct),
        ("addressfamily inet6", bound(Some(Family::Inet6), None, None)),
        (
            "addressfamily inet\nbindaddress 192.0.2.7\nbindinterface eth1",
            bound(Some(Family::Inet), Some("192.0.2.7"), Some("eth1")),
        ),
        ("addressfamily inet6\nproxyjump a", Way::through("a").unwrap()),
        ("proxyusefdpass yes", Way::Direct),
        ("proxyjump a,u@[::1]:23", Way::through("a,u@[::1]:23").unwrap()),
        ("proxyjump %r@jump-%h-%n-%p-%k%%:24", Way::through("me@jump-10.0.0.5-web-24-key%alias%:24").unwrap()),
        ("proxycommand nc -X 5 %h %p", command("nc -X 5 %h %p")),
        (
            "proxycommand aws %r@%n --key %k 100%% ${A} ~/x # %h",
            command("aws me@web --key key%%alias 100%% ${A} ~/x # %h"),
        ),
        ("proxycommand 50%%%h%%%%p", command("50%%%h%%%%p")),
    ];
    for (answer, way) in ways {
        let found = at(answer);
        assert_eq!((found.way, found.unsupported), (way, None), "{answer}");
    }
    let refused = [
        (
            "proxyusefdpass yes\nproxycommand nc -F %h %p",
            "ssh_config reaches web by ProxyCommand (nc -F %h %p), which can't be taken: with ProxyUseFdpass it hands \
             over a connection, and does not lead there itself",
        ),
        ("proxycommand -", "ssh_config reaches web by ProxyCommand (-), which can't be taken: that is this terminal"),
        (
            "proxycommand nc %C",
            "ssh_config reaches web by ProxyCommand (nc %C), which can't be taken: it can't have the token %C",
        ),
        (
            "proxyjump a,[b",
            "ssh_config reaches web by ProxyJump (a,[b), which can't be taken: `[b` is no jump host: its brackets are \
             not in order",
        ),
    ];
    for (answer, why) in refused {
        assert_eq!(at(answer).unsupported.as_deref(), Some(why), "{answer}");
    }
}

/// A script that stands for `ssh`. The shell reads it: a file just written can't always be executed, as another test's
/// child may still have it open.
fn script(dir: &Path, text: &str) -> Vec<OsString> {
    let path = dir.join("ssh");
    fs::write(&path, text).unwrap();
    vec!["/bin/sh".into(), path.into()]
}

/// The real one, which reads the fixture.
fn real(dir: &Path, config: &Path) -> OpenSsh {
    // Of several `-F` the last counts, so that of the question for the user does.
    let command = script(dir, &format!("exec ssh -F '{}' \"$@\"", config.display()));
    OpenSsh::new(command, vec![config.to_owned()], DEADLINE)
}

#[tokio::test]
async fn the_real_ssh_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ssh_config/fixtures/config");
    let open_ssh = real(dir.path(), &config);
    let ask = async |alias: &str, overrides: &Overrides| {
        open_ssh.effective(alias, overrides, &Local::here()).await.expect("is OpenSSH's client installed?")
    };
    let overrides = Overrides { port: Some(7), ..Overrides::default() };
    let web = ask("web", &overrides).await;
    assert_eq!(web.notes, [""; 0], "is OpenSSH's client installed?");
    assert_eq!((web.host_name.as_str(), web.user.as_str(), web.port), ("web.example.org", "deploy", 7));
    assert_eq!(web.host_key_alias.as_deref(), Some("webalias"));
    assert_eq!(web.way, Way::through("bastion").unwrap());
    for (jumps, way) in [("none", Way::Direct), ("me@a:24,b", Way::through("me@a:24,b").unwrap())] {
        let overrides = Overrides { proxy_jump: Some(jumps.into()), ..Overrides::default() };
        assert_eq!(ask("web", &overrides).await.way, way, "hosts.toml wins");
    }
    let overrides = Overrides { user: Some("toor".into()), ..overrides };
    let Agent::Socket(socket) = ask("web", &overrides).await.agent else { panic!() };
    assert!(socket.ends_with(".agent/toor.sock"), "%r is the user that logs in: {}", socket.display());
    let other = ask("other", &Overrides::default()).await;
    assert_eq!((other.user.as_str(), other.port), ("root", 22));
    // A name is never an option, though some versions refuse it as a name.
    match open_ssh.effective("-oProxyCommand=x", &Overrides::default(), &Local::here()).await {
        Ok(effective) => assert_eq!(effective.way, Way::Direct),
        Err(why) => assert!(why.contains("hostname contains invalid characters"), "{why}"),
    }
}

#[tokio::test]
async fn the_local_user_s_name_counts_if_a_file_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let output = std::process::Command::new("id").arg("-un").output().unwrap();
    let me = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    let config = dir.path().join("config");
    fs::write(&config, format!("Host mine\n User {me}\nHost his\n User him\n")).unwrap();
    let open_ssh = real(dir.path(), &config);
    for (alias, user) in [("mine", Some(me.as_str())), ("his", Some("him")), ("nobody", None)] {
        let answers = open_ssh.answers(alias, &[], true).await.ok().unwrap();
        assert_eq!(answers.named.as_deref(), user, "{alias}");
    }
}

#[tokio::test]
async fn algorithms_count_if_a_file_has_them_and_are_not_the_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config");
    let text = "Host few\n Ciphers aes256-ctr,aes128-ctr\n KexAlgorithms curve25519-sha256\n\
                Host less\n MACs -hmac-sha2-256\nHost odd\n Ciphers 3des-cbc\n VerifyHostKeyDNS yes\n\
                Host keys\n PubkeyAcceptedAlgorithms rsa-sha2-512,ssh-ed25519\n RequiredRSASize 3072\n\
                Host kerberos\n GSSAPIAuthentication yes\n PreferredAuthentications gssapi-with-mic\n";
    fs::write(&config, text).unwrap();
    let open_ssh = real(dir.path(), &config);
    let ask = async |alias: &str| {
        let named = Overrides { user: Some("me".into()), ..Overrides::default() };
        open_ssh.effective(alias, &named, &Local::here()).await.expect("is OpenSSH's client installed?")
    };
    let few = ask("few").await;
    assert_eq!(
        (few.algorithms.ciphers.join(","), few.algorithms.kex.join(",")),
        ("aes256-ctr,aes128-ctr".into(), "curve25519-sha256".into())
    );
    assert_eq!((few.algorithms.macs, few.notes), (Vec::new(), Vec::new()), "these are the defaults");
    let less = ask("less").await.algorithms;
    assert!(!less.macs.is_empty() && !less.macs.contains(&"hmac-sha2-256".to_owned()), "{less:?}");
    let keys = ask("keys").await;
    assert_eq!(
        (keys.algorithms.user_keys.join(","), keys.algorithms.rsa_bits, keys.notes),
        ("rsa-sha2-512,ssh-ed25519".into(), Some(3072), Vec::new())
    );
    let note = "ssh_config has GSSAPIAuthentication yes, and no other way to log in; Anemos passes over that";
    assert_eq!(ask("kerberos").await.notes, [note]);
    let plain = ask("plain").await;
    assert_eq!((plain.algorithms, plain.notes), (Algorithms::default(), Vec::new()));
    assert_eq!(
        ask("odd").await.notes,
        [
            "ssh_config has VerifyHostKeyDNS true, which Anemos passes over",
            "ssh_config's Ciphers has nothing that Anemos can use, so Anemos' own list is taken",
        ]
    );
}

#[test]
fn gssapi_is_named_where_it_is_the_only_way_in() {
    let only = |answer: &str| has_only_gssapi(&Options(&format!("gssapiauthentication yes\n{answer}")));
    assert!(!has_only_gssapi(&Options("preferredauthentications gssapi-with-mic\n")), "it is switched off");
    assert!(!only("pubkeyauthentication true\n"), "as distributions have it");
    assert!(!only("preferredauthentications gssapi-with-mic,password\n"));
    assert!(only("preferredauthentications gssapi-with-mic,hostbased\n"));
    let no = "pubkeyauthentication no\npasswordauthentication no\n";
    assert!(!only(no) && only(&format!("{no}kbdinteractiveauthentication no\n")));
}

#[test]
fn revoked_keys_are_read_or_the_host_is_refused() {
    let resolve = |answer: &str| resolve("web", answer, None, &Overrides::default(), &local());
    let two = resolve("revokedhostkeys /etc/ssh/revoked ~/.ssh/krl_%h\n");
    assert_eq!(two.revoked_host_keys, paths(&["/etc/ssh/revoked", "/home/me/.ssh/krl_web"]));
    assert_eq!(two.unsupported, None);
    let unread = resolve("revokedhostkeys /etc/ssh/revoked %Z\n");
    let why = unread.unsupported.unwrap();
    assert!(why.contains("RevokedHostKeys /etc/ssh/revoked %Z") && why.contains("can't be expanded"), "{why}");
    let none = resolve("revokedhostkeys none\n");
    assert_eq!((none.revoked_host_keys, none.unsupported), (paths(&[]), None));
}

#[test]
fn certificates_of_the_user_are_found() {
    let answer = "certificatefile ~/.ssh/a-cert.pub\ncertificatefile /b\ncertificatefile %Z\n";
    let effective = resolve("web", answer, None, &Overrides::default(), &local());
    assert_eq!(effective.certificate_files, paths(&["/home/me/.ssh/a-cert.pub", "/b"]));
    assert_eq!(effective.notes, ["ssh_config's CertificateFile %Z is left out: it can't be expanded here"]);
    assert!(!effective.identities_given);
}

#[tokio::test]
async fn without_an_answer_nothing_is_guessed_unless_there_is_no_ssh() {
    let dir = tempfile::tempdir().unwrap();
    let ask = |command: Vec<OsString>, deadline| async move {
        OpenSsh::new(command, Vec::new(), deadline).effective("web", &Overrides::default(), &local()).await
    };
    let missing = ask(vec![dir.path().join("ssh").into()], DEADLINE).await.unwrap();
    assert_eq!((missing.host_name.as_str(), missing.user.as_str()), ("web", "root"));
    assert_eq!(
        missing.notes,
        ["OpenSSH's `ssh` is not installed, so ~/.ssh/config is not read; using Anemos' own defaults for SSH"]
    );
    let through = Overrides { proxy_jump: Some("jump".into()), ..Overrides::default() };
    let gone = OpenSsh::new(vec![dir.path().join("ssh").into()], Vec::new(), DEADLINE);
    let why = gone.effective("web", &through, &local()).await.unwrap_err();
    assert_eq!(why, "`proxy_jump` needs OpenSSH's `ssh`, which is not installed");
    let failed = ask(script(dir.path(), "echo 'config: line 3: Bad option' >&2; exit 255"), DEADLINE).await;
    assert_eq!(
        failed.unwrap_err(),
        "`ssh -G web` failed (exit status: 255): config: line 3: Bad option. `ssh web` would fail too; mend your \
         ssh_config"
    );
    let path = ask(script(dir.path(), "printf 'identityfile /k\\377\\n'"), DEADLINE).await;
    assert!(path.unwrap_err().contains("not UTF-8"));
    let start = Instant::now();
    let hangs = ask(script(dir.path(), "exec sleep 60"), Duration::from_secs(1)).await;
    assert!(hangs.unwrap_err().starts_with("`ssh -G web` did not end within 1 s"));
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn the_agent_is_that_of_this_process_unless_one_is_named() {
    assert_eq!(Agent::Socket("/a".into()).socket(), Some("/a".into()));
    assert_eq!(Agent::Disabled.socket(), None);
    let here = std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty()).map(PathBuf::from);
    assert_eq!(Agent::Environment.socket(), here);
}
