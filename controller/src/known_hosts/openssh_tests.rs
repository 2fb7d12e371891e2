//! known_hosts as the installed OpenSSH reads and writes it.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::{KnownHosts, KnownKey, PublicKey, Verdict, add_line};

/// Runs a program of OpenSSH's to its end.
fn run(program: &str, args: &[&str]) -> Output {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    output.unwrap_or_else(|error| {
        panic!("`{program}` can't be run ({error}): this test needs OpenSSH's client and server")
    })
}

fn path(dir: &Path, name: &str) -> String {
    dir.join(name).into_os_string().into_string().unwrap()
}

/// Makes a key pair and returns the public one.
fn make_key(dir: &Path, name: &str, algorithm: &str) -> PublicKey {
    let file = path(dir, name);
    let made = run("ssh-keygen", &["-q", "-t", algorithm, "-N", "", "-C", "me@here", "-f", &file]);
    assert!(made.status.success(), "{made:?}");
    PublicKey::parse(&fs::read_to_string(format!("{file}.pub")).unwrap()).unwrap()
}

/// Lines of `file` that `ssh-keygen -F` finds for `name`, each with its marker.
fn found(name: &str, file: &str) -> Vec<(usize, String)> {
    let output = run("ssh-keygen", &["-F", name, "-f", file]);
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().filter_map(|line| line.split_once(" found: line ")?.1.split_once(' '));
    lines.map(|(line, marker)| (line.parse().unwrap(), marker.to_owned())).collect()
}

#[test]
fn ssh_keygen_finds_the_same_lines() {
    let dir = tempfile::tempdir().unwrap();
    let key = make_key(dir.path(), "key", "ed25519");
    let file = path(dir.path(), "known_hosts");
    let names = [
        "h.test",
        "*.test",
        "?.test",
        "!h.test,*",
        "*,!h.test",
        "h.test,i.test",
        "H.Test",
        "192.0.2.*",
        "[h.test]:2222",
        "[*]:2222",
        "*:2222",
        "[h.test]:*",
        "2001:db8::1",
        "[2001:db8::1]:2222",
        "*",
        "**",
        "h*t",
        "h.tes",
        "h.test.",
        "",
        "!",
        "!*",
    ];
    let mut text = String::new();
    for name in names {
        for marker in ["", "@revoked ", "@cert-authority "] {
            writeln!(text, "{marker}{name} {key}").unwrap();
        }
    }
    fs::write(&file, &text).unwrap();
    let known_hosts = KnownHosts::load(&[&file]);
    let mut lines = 0;
    for (host, port) in [
        ("h.test", 22),
        ("h.test", 2222),
        ("i.test", 22),
        ("192.0.2.7", 22),
        ("2001:db8::1", 22),
        ("2001:db8::1", 2222),
    ] {
        let full = if port == 22 { host.to_owned() } else { format!("[{host}]:{port}") };
        let known = known_hosts.lookup(host, port, None);
        let numbers = |keys: &[KnownKey]| keys.iter().map(|known| known.place.line).collect::<Vec<_>>();
        let expected = |name: &str, marker: &str| {
            found(name, &file).into_iter().filter(|(_, m)| m == marker).map(|(line, _)| line).collect::<Vec<_>>()
        };
        assert!(!known.by_plain_name);
        assert_eq!(numbers(&known.keys), expected(&full, ""), "{full}");
        // What is revoked for the plain name is revoked for each of its ports.
        let mut revoked = expected(&full, "REVOKED");
        if port != 22 {
            revoked.extend(expected(host, "REVOKED"));
        }
        revoked.sort_unstable();
        revoked.dedup();
        let mut ours = numbers(&known.revoked);
        ours.sort_unstable();
        assert_eq!(ours, revoked, "{full}");
        lines += known.keys.len();
    }
    assert!(lines > 20, "{lines} lines are not much of a test");
}

#[test]
fn ssh_keygen_finds_what_is_added_and_its_hashes_are_understood() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (make_key(dir.path(), "one", "ed25519"), make_key(dir.path(), "two", "ecdsa"));
    let file = path(dir.path(), "known_hosts");
    add_line(file.as_ref(), "Plain.test", 22, &one, false).unwrap();
    add_line(file.as_ref(), "plain.test", 2222, &two, false).unwrap();
    add_line(file.as_ref(), "Hashed.test", 22, &one, true).unwrap();
    add_line(file.as_ref(), "hashed.test", 2222, &two, true).unwrap();
    for (line, name) in ["plain.test", "[plain.test]:2222", "hashed.test", "[hashed.test]:2222"].into_iter().enumerate()
    {
        assert_eq!(found(name, &file), [(line + 1, String::new())], "{name}");
    }

    let hashed = run("ssh-keygen", &["-H", "-f", &file]);
    assert!(hashed.status.success(), "{hashed:?}");
    let text = fs::read_to_string(&file).unwrap();
    assert!(!text.contains("plain.test"), "{text}");
    let known_hosts = KnownHosts::load(&[&file]);
    assert_eq!(known_hosts.warnings(), []);
    for (host, port, key) in [("plain.test", 22, &one), ("plain.test", 2222, &two), ("HASHED.test", 2222, &two)] {
        assert!(matches!(known_hosts.check(host, port, key), Verdict::Match(_)), "{host} {port}");
    }

    for (name, key) in [("one", &one), ("two", &two)] {
        let shown = run("ssh-keygen", &["-l", "-f", &format!("{}.pub", path(dir.path(), name))]);
        let shown = String::from_utf8(shown.stdout).unwrap();
        assert_eq!(shown.split(' ').nth(1), Some(key.fingerprint().as_str()));
    }
}

/// What OpenSSH's client makes of a server's key.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Outcome {
    Accepted,
    Changed,
    Revoked,
    Unknown,
}

fn outcome_of(verdict: &Verdict) -> Outcome {
    match verdict {
        Verdict::Match(_) => Outcome::Accepted,
        Verdict::Changed(_) | Verdict::OtherAlgorithm(_) => Outcome::Changed,
        Verdict::Revoked(_) => Outcome::Revoked,
        Verdict::Unknown => Outcome::Unknown,
    }
}

/// The installed client's judgement of `host:port` showing the key in `dir`/host, by a server that talks through a
/// pipe.
fn ask_ssh(dir: &Path, known_hosts: &str, host: &str, port: u16) -> Outcome {
    let sshd = concat!("ProxyCommand='", env!("CARGO_MANIFEST_DIR"), "/tests/sshd.sh'");
    let server = format!("{sshd} -i -f {}", path(dir, "sshd_config"));
    let known = format!("UserKnownHostsFile={known_hosts}");
    let options = [
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        "GlobalKnownHostsFile=/dev/null",
        "PreferredAuthentications=none",
        "ConnectTimeout=20",
        &known,
        &server,
    ];
    let port = port.to_string();
    let mut args = vec!["-F", "none", "-T", "-p", &port];
    args.extend(options.iter().flat_map(|option| ["-o", *option]));
    args.extend([host, "true"]);
    let said = String::from_utf8_lossy(&run("ssh", &args).stderr).into_owned();
    let signs = [
        ("REMOTE HOST IDENTIFICATION HAS CHANGED", Outcome::Changed),
        ("REVOKED HOST KEY DETECTED", Outcome::Revoked),
        ("host key is known for", Outcome::Unknown),
        // The key was good: only then is a login tried, which this server refuses.
        ("Permission denied", Outcome::Accepted),
    ];
    let found = signs.into_iter().find(|(sign, _)| said.contains(sign)).map(|(_, outcome)| outcome);
    found.unwrap_or_else(|| panic!("ssh said something else:\n{said}"))
}

#[test]
fn ssh_judges_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).unwrap();
    let shown = make_key(dir, "host", "ed25519");
    let (other, ecdsa) = (make_key(dir, "other", "ed25519"), make_key(dir, "ecdsa", "ecdsa"));
    fs::write(
        dir.join("sshd_config"),
        format!("HostKey {}\nUsePAM no\nPasswordAuthentication no\n", path(dir, "host")),
    )
    .unwrap();
    let file = path(dir, "known_hosts");
    let mut seen = Vec::new();
    for (port, text) in [
        (22, String::new()),
        (22, format!("h.test {shown}")),
        (22, format!("h.test {other}")),
        (22, format!("h.test {ecdsa}")),
        (22, format!("h.test {other}\nh.test {shown}")),
        (22, format!("H.TEST,!i.test {shown}")),
        (22, format!("[h.test]:22 {shown}")),
        (22, format!("@revoked * {shown}\nh.test {shown}")),
        (22, format!("@cert-authority * {shown}")),
        (2222, format!("[h.test]:2222 {shown}")),
        (2222, format!("[h.test]:2222 {ecdsa}\nh.test {shown}")),
        (2222, format!("[h.test]:* {shown}")),
        (2222, format!("* {shown}")),
        (2222, format!("h.test {shown}")),
        (2222, format!("h.test {other}")),
        (2222, format!("h.test {shown}\n[h.test]:2222 {other}")),
        (2222, format!("h.test {shown}\n@revoked [h.test]:2222 {shown}")),
    ] {
        fs::write(&file, format!("{text}\n")).unwrap();
        let theirs = ask_ssh(dir, &file, "h.test", port);
        let ours = outcome_of(&KnownHosts::load(&[&file]).check("h.test", port, &shown));
        assert_eq!(ours, theirs, "port {port}\n{text}");
        seen.push(theirs);
    }
    for outcome in [Outcome::Accepted, Outcome::Changed, Outcome::Revoked, Outcome::Unknown] {
        assert!(seen.contains(&outcome), "no case is {outcome:?}");
    }

    // Stricter, and so documented in the module: a key revoked for the plain name is revoked for its ports too.
    fs::write(&file, format!("[h.test]:2222 {shown}\n@revoked h.test {shown}\n")).unwrap();
    assert_eq!(ask_ssh(dir, &file, "h.test", 2222), Outcome::Accepted);
    assert_eq!(outcome_of(&KnownHosts::load(&[&file]).check("h.test", 2222, &shown)), Outcome::Revoked);
}
