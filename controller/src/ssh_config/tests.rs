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
        user: "deploy".into(),
        identity_files: paths(&["/home/me/.ssh/web.example.org_key", "/home/me/.ssh/two", "/keys/with space/k"]),
        identities_only: true,
        agent: Agent::Socket("/home/me/.agent/deploy.sock".into()),
        user_known_hosts: paths(&["/home/me/.ssh/kh_web.example.org", "/keys/known hosts"]),
        global_known_hosts: paths(&["/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"]),
        host_key_alias: Some("webalias".into()),
        hash_known_hosts: true,
        strict_host_key_checking: Some("ask".into()),
        unsupported: Some("ssh_config reaches web by ProxyJump (bastion), which Anemos does not do yet".into()),
        notes: vec![],
    };
    let effective = resolve("web", WEB, DEFAULTS, &Overrides::default(), &local());
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
    };
    let effective = resolve("web", WEB, DEFAULTS, &overrides, &local());
    assert_eq!((effective.user.as_str(), effective.port), ("root", 22));
    assert_eq!(effective.host_name, "web.example.org", "HostName still applies");
    assert_eq!(effective.identity_files, paths(&["/k"]));
    assert_eq!(effective.known_hosts_files().collect::<Vec<_>>(), [Path::new("/known")], "nothing but the file given");
}

#[test]
fn an_unconfigured_host_is_root_s() {
    let effective = resolve("web", DEFAULTS, DEFAULTS, &Overrides::default(), &local());
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
    let effective = resolve("web", "", "", &Overrides::default(), &local());
    let expected = Effective {
        host_name: "web".into(),
        port: 22,
        user: "root".into(),
        identity_files: paths(&["/home/me/.ssh/id_ed25519", "/home/me/.ssh/id_ecdsa", "/home/me/.ssh/id_rsa"]),
        identities_only: false,
        agent: Agent::Environment,
        user_known_hosts: paths(&["/home/me/.ssh/known_hosts", "/home/me/.ssh/known_hosts2"]),
        global_known_hosts: paths(&["/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"]),
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
                  userknownhostsfile none\nproxycommand nc -X 5 %h %p\n";
    let effective = resolve("web", answer, "", &Overrides::default(), &local());
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
    assert_eq!(
        effective.unsupported.as_deref(),
        Some("ssh_config reaches web by ProxyCommand (nc -X 5 %h %p), which Anemos does not do yet")
    );
    let by_variable = resolve("web", "identityagent $KEYS\n", "", &Overrides::default(), &local());
    assert_eq!(by_variable.agent, Agent::Socket("/keys".into()));
}

/// A script that stands for `ssh`. The shell reads it: a file just written can't always be executed, as another test's
/// child may still have it open.
fn script(dir: &Path, text: &str) -> Vec<OsString> {
    let path = dir.join("ssh");
    fs::write(&path, text).unwrap();
    vec!["/bin/sh".into(), path.into()]
}

#[tokio::test]
async fn the_real_ssh_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ssh_config/fixtures/config");
    // The options that come after it win, so `-F none` still does.
    let command = script(dir.path(), &format!("exec ssh -F '{}' \"$@\"", config.display()));
    let open_ssh = OpenSsh { command, deadline: DEADLINE };
    let overrides = Overrides { port: Some(7), ..Overrides::default() };
    let web = open_ssh.effective("web", &overrides, &Local::here()).await;
    assert_eq!(web.notes, [""; 0], "is OpenSSH's client installed?");
    assert_eq!((web.host_name.as_str(), web.user.as_str(), web.port), ("web.example.org", "deploy", 7));
    assert_eq!(web.host_key_alias.as_deref(), Some("webalias"));
    let overrides = Overrides { user: Some("toor".into()), ..overrides };
    let Agent::Socket(socket) = open_ssh.effective("web", &overrides, &Local::here()).await.agent else { panic!() };
    assert!(socket.ends_with(".agent/toor.sock"), "%r is the user that logs in: {}", socket.display());
    let other = open_ssh.effective("-oProxyCommand=x", &Overrides::default(), &Local::here()).await;
    assert_eq!(other.unsupported, None, "a name is never an option");
    assert_eq!((other.user.as_str(), other.port), ("root", 22));
}

#[tokio::test]
async fn an_ssh_that_is_missing_fails_or_hangs_is_a_note() {
    let dir = tempfile::tempdir().unwrap();
    let notes = |command: Vec<OsString>, deadline| async move {
        let open_ssh = OpenSsh { command, deadline };
        let effective = open_ssh.effective("web", &Overrides::default(), &local()).await;
        assert_eq!((effective.host_name.as_str(), effective.user.as_str()), ("web", "root"));
        effective.notes
    };
    assert_eq!(
        notes(vec![dir.path().join("ssh").into()], DEADLINE).await,
        ["OpenSSH's `ssh` is not installed, so ~/.ssh/config is not read; using Anemos' own defaults for SSH"]
    );
    assert_eq!(
        notes(script(dir.path(), "echo 'config: line 3: Bad option' >&2; exit 255"), DEADLINE).await,
        ["`ssh -G web` failed (exit status: 255): config: line 3: Bad option; using Anemos' own defaults for SSH",]
    );
    let start = Instant::now();
    assert_eq!(
        notes(script(dir.path(), "exec sleep 60"), Duration::from_secs(1)).await,
        ["`ssh -G web` did not end within 1 s; using Anemos' own defaults for SSH"]
    );
    assert!(start.elapsed() < Duration::from_secs(20));
}
