//! Against what OpenSSH's own tools said of the same files.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use proptest::prelude::*;

use super::key::KeyError;
use super::*;

const PLAIN: &str = include_str!("fixtures/plain");
const HASHED: &str = include_str!("fixtures/hashed");
const FOUND: &str = include_str!("fixtures/found");

fn read(text: &str) -> KnownHosts {
    KnownHosts::parse(text, Path::new("kh"))
}

/// A key of that algorithm, which nobody has.
fn key(algorithm: &str, seed: u8) -> PublicKey {
    let mut blob = (algorithm.len() as u32).to_be_bytes().to_vec();
    blob.extend(algorithm.as_bytes());
    blob.extend([seed; 36]);
    PublicKey::from_blob(blob).unwrap()
}

fn ed25519(seed: u8) -> PublicKey {
    key("ssh-ed25519", seed)
}

fn place(line: usize) -> Place {
    Place { file: "kh".into(), line }
}

#[test]
fn names_match_as_ssh_keygen_says() {
    let mut asked = 0;
    for answer in FOUND.split("$ ssh-keygen -F ").skip(1) {
        let (question, lines) = answer.split_once('\n').unwrap();
        let (name, file) = question.split_once(" -f ").unwrap();
        let known_hosts = read(if file == "plain" { PLAIN } else { HASHED });
        let expected: BTreeSet<(usize, &str)> = lines
            .lines()
            .map(|line| line.split_once(" found: line ").unwrap().1.split_once(' ').unwrap())
            .map(|(line, marker)| (line.parse().unwrap(), marker))
            // ssh-keygen finds names without a look at the key; ssh itself ignores such a line, as we do.
            .filter(|(line, _)| known_hosts.warnings.iter().all(|warning| warning.line != Some(*line)))
            .collect();
        // ssh lower-cases the user's name before it hashes it; ssh-keygen leaves that to its user.
        let under = known_hosts.under(&if file == "plain" { name.to_lowercase() } else { name.to_owned() });
        let marked = |keys: &[KnownKey], marker| keys.iter().map(|k| (k.place.line, marker)).collect::<Vec<_>>();
        let found =
            [marked(&under.keys, ""), marked(&under.revoked, "REVOKED"), marked(&under.authorities, "CA")].concat();
        let found: BTreeSet<_> = found.into_iter().collect();
        assert_eq!(found, expected, "{name} in {file}");
        asked += 1;
    }
    assert_eq!(asked, 30);
}

#[test]
fn bad_lines_are_warnings() {
    let shown: Vec<String> = read(PLAIN).warnings().iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "kh:14: it has a key of SSH protocol 1, which nothing uses any more",
            "kh:15: there is no key on it",
            "kh:16: it begins with a marker that is not known",
            "kh:17: the key is cut short or of another kind than it says",
            "kh:18: the hashed name is damaged",
        ]
    );
    assert_eq!(read(HASHED).warnings(), []);
    let unknown = read("h ssh-moon AAAA\n|2|AAAA|AAAA ssh-ed25519 AAAA");
    let shown: Vec<String> = unknown.warnings().iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        ["kh:1: `ssh-moon` is not a kind of key that is known", "kh:2: the name is hashed in a way that is not known"]
    );
}

#[test]
fn names_of_any_case_find_the_same_hashed_or_not() {
    for text in [PLAIN, HASHED] {
        let known_hosts = read(text);
        let known = known_hosts.lookup("WEB.example.org", 22, None);
        assert_eq!(known.algorithms(), ["ssh-ed25519", "ssh-rsa"]);
        assert_eq!(known_hosts.lookup("Upper.Example.org", 22, None).algorithms(), ["ssh-rsa"]);
        assert_eq!(known_hosts.lookup("2001:DB8::1", 2200, None).algorithms(), ["ssh-ed25519"]);
    }
}

#[test]
fn verdicts() {
    let (a, b, rsa) = (ed25519(1), ed25519(2), key("ssh-rsa", 1));
    // The comments are what OpenSSH 9.2's client does; openssh_tests.rs asks the one installed.
    let table: &[(String, u16, Verdict)] = &[
        (format!("h {a}"), 22, Verdict::Match(place(1))),
        (format!("[h]:22 {a}"), 22, Verdict::Unknown),
        (format!("h {b}"), 22, Verdict::Changed(KnownKey { key: b.clone(), place: place(1) })),
        (format!("h {b}\nh {a}"), 22, Verdict::Match(place(2))),
        (format!("h {b}\n@revoked h {a}\nh {a}"), 22, Verdict::Revoked(place(2))),
        (format!("h {a}\n@revoked * {a}"), 22, Verdict::Revoked(place(2))),
        (format!("h {a}\n@revoked * {b}"), 22, Verdict::Match(place(1))),
        // "identification has changed"; told apart here, as it needn't be an attack.
        (format!("h {rsa}"), 22, Verdict::OtherAlgorithm(vec![KnownKey { key: rsa.clone(), place: place(1) }])),
        (format!("@cert-authority h {a}"), 22, Verdict::Unknown),
        (format!("[h]:2222 {a}"), 2222, Verdict::Match(place(1))),
        (format!("[h]:2222 {a}"), 22, Verdict::Unknown),
        (format!("[h]:* {a}"), 2222, Verdict::Match(place(1))),
        (format!("* {a}"), 2222, Verdict::Match(place(1))),
        // The plain name confirms, and never contradicts.
        (format!("h {a}"), 2222, Verdict::Match(place(1))),
        (format!("h {b}"), 2222, Verdict::Unknown),
        (format!("h {a}\n[h]:2222 {b}"), 2222, Verdict::Changed(KnownKey { key: b.clone(), place: place(2) })),
        (format!("h {a}\n@revoked h {a}"), 2222, Verdict::Revoked(place(2))),
        // OpenSSH accepts this one: the port's own line is enough for it.
        (format!("[h]:2222 {a}\n@revoked h {a}"), 2222, Verdict::Revoked(place(2))),
        (String::new(), 22, Verdict::Unknown),
    ];
    for (text, port, verdict) in table {
        assert_eq!(read(text).check("h", *port, &a), *verdict, "{port}\n{text}");
    }
}

#[test]
fn a_key_revoked_for_the_address_is_revoked() {
    let (a, b) = (ed25519(1), ed25519(2));
    let known_hosts = read(&format!("h {a}\n@revoked 192.0.2.7 {a}\n@revoked [192.0.2.7]:2222 {b}\n192.0.2.7 {b}"));
    let addr = Some("192.0.2.7".parse().unwrap());
    assert_eq!(known_hosts.lookup("h", 22, addr).check(&a), Verdict::Revoked(place(2)));
    assert_eq!(known_hosts.lookup("h", 2222, addr).check(&b), Verdict::Revoked(place(3)));
    assert_eq!(known_hosts.lookup("h", 22, None).check(&a), Verdict::Match(place(1)));
    // The address' own key says nothing of the name.
    assert_eq!(known_hosts.lookup("i", 22, addr).check(&ed25519(3)), Verdict::Unknown);
}

#[test]
fn files_are_read_in_order_and_need_not_exist() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two, none) = (dir.path().join("one"), dir.path().join("two"), dir.path().join("none"));
    fs::write(&one, format!("\u{fffd}\r\nh {}\r\n", ed25519(1))).unwrap();
    fs::write(&two, [b"\xff\xfe\n".as_slice(), format!("h {}", ed25519(2)).as_bytes()].concat()).unwrap();
    let known_hosts = KnownHosts::load(&[&one, &none, &two, &dir.path().to_owned()]);
    let known = known_hosts.lookup("h", 22, None);
    let places: Vec<String> = known.keys.iter().map(|known| known.place.to_string()).collect();
    assert_eq!(places, [format!("{}:2", one.display()), format!("{}:2", two.display())]);
    let warned: Vec<&Path> = known_hosts.warnings().iter().map(|warning| warning.file.as_path()).collect();
    assert_eq!(warned, [one.as_path(), two.as_path(), dir.path()]);
}

#[test]
fn a_key_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("new/known_hosts");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    add_line(&file, "Web.example.org", 22, &ed25519(1), false).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), format!("web.example.org {}\n", ed25519(1)));
    assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
    add_line(&file, "web.example.org", 2222, &ed25519(2), true).unwrap();
    let text = fs::read_to_string(&file).unwrap();
    assert!(!text.lines().nth(1).unwrap().contains("web"), "{text}");
    let known_hosts = KnownHosts::load(&[&file]);
    assert!(matches!(known_hosts.check("web.example.org", 22, &ed25519(1)), Verdict::Match(_)));
    assert!(matches!(known_hosts.check("web.example.org", 2222, &ed25519(2)), Verdict::Match(_)));
    assert_eq!(known_hosts.warnings(), []);
}

#[test]
fn what_is_there_is_kept_even_a_line_cut_short() {
    let dir = tempfile::tempdir().unwrap();
    let (file, link) = (dir.path().join("file"), dir.path().join("link"));
    fs::write(&file, "# mine\nweb ssh-ed25519 AAAAC3Nz").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    symlink("file", &link).unwrap();
    add_line(&link, "h", 22, &ed25519(1), false).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
    let expected = format!("# mine\nweb ssh-ed25519 AAAAC3Nz\nh {}\n", ed25519(1));
    assert_eq!(fs::read_to_string(&file).unwrap(), expected);
}

#[test]
fn names_that_would_mean_something_else_are_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("known_hosts");
    for host in ["", "*", "a,b", "a b", "a\nb", "!a", "|1|a|b", "@revoked", "#a", "a?"] {
        assert!(add_line(&file, host, 22, &ed25519(1), false).is_err(), "{host}");
    }
    assert!(!file.exists());
    let error = add_line(&file, "a\nb", 22, &ed25519(1), false).unwrap_err();
    let why = "`a\\nb` can't be written as a name";
    assert_eq!(error.to_string(), format!("can't add a host key to {}: {why}", file.display()));
}

#[test]
fn keys_read_and_print() {
    let line = PLAIN.lines().nth(2).unwrap();
    let text = line.split_once(' ').unwrap().1;
    let key = PublicKey::parse(text).unwrap();
    assert_eq!(key.algorithm(), "ssh-ed25519");
    assert_eq!(PublicKey::parse(&key.to_string()), Ok(key.clone()));
    assert_eq!(PublicKey::parse(&format!("  {key}\tme@here\n")), Ok(key.clone()));
    let other_type = key.to_string().replace("ssh-ed25519", "ssh-rsa");
    assert_eq!(PublicKey::parse(&other_type), Err(KeyError::Blob));
    assert_eq!(PublicKey::parse("ssh-ed25519"), Err(KeyError::Base64));
    assert_eq!(PublicKey::parse("ssh-ed25519 !"), Err(KeyError::Base64));
    assert_eq!(PublicKey::parse(&format!("{key}\n{key}")), Err(KeyError::SeveralLines));
    assert_eq!(PublicKey::from_blob(b"\xff\xff\xff\xffx".to_vec()), None);
    assert_eq!(PublicKey::from_blob(b"\0\0\0\x0bssh-ed25519".to_vec()), None);
}

proptest! {
    #[test]
    fn any_text_is_read(text in "(\\PC|[\n\t |,!@*])*", host in "\\PC{0,20}", port: u16) {
        let known_hosts = read(&text);
        let _ = known_hosts.check(&host, port, &ed25519(1));
    }

    #[test]
    fn any_damage_to_a_real_file_is_read(at in 0_usize..6000, with in "[ \n,|!@*=a]{0,3}", cut in 0_usize..40) {
        let mut text = HASHED.to_owned();
        let at = at.min(text.len());
        text.replace_range(at..(at + cut).min(text.len()), &with);
        let _ = read(&text).lookup("web.example.org", 22, None);
    }

    #[test]
    fn what_is_added_is_found_and_nothing_else(
        host in "[A-Za-z0-9.:-]{1,30}", other in "[a-z0-9.]{1,30}", port in 1_u16.., hash: bool
    ) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("known_hosts");
        add_line(&file, &host, port, &ed25519(1), hash).unwrap();
        let known_hosts = KnownHosts::load(&[&file]);
        prop_assert!(matches!(known_hosts.check(&host, port, &ed25519(1)), Verdict::Match(_)));
        prop_assert!(matches!(known_hosts.check(&host, port, &ed25519(2)), Verdict::Changed(_)));
        if other != host.to_lowercase() {
            prop_assert_eq!(known_hosts.check(&other, port, &ed25519(1)), Verdict::Unknown);
        }
    }
}
