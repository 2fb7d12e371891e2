//! hosts.toml as users write it, right and wrong.

mod disks;
mod docs;
mod files;
mod schema;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// `ssh-keygen -q -t ed25519 -N '' -f key; cut -d' ' -f1,2 key.pub`
const ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBvMEaYrEAoJpg0YaZD5aPahfRI1O5ZQNNGGKHzSjDzv";

fn read(text: &str) -> Result<HostsFile, Vec<ConfigError>> {
    parse(text, Path::new("fleet/hosts.toml"), Some(Path::new("/home/me")), &nothing)
}

/// There are no other files.
fn nothing(_: &Path) -> std::io::Result<String> {
    Err(std::io::ErrorKind::NotFound.into())
}

fn one(text: &str) -> Host {
    let file = read(text).unwrap_or_else(|errors| panic!("{}", show(&errors)));
    assert_eq!(file.hosts.len(), 1);
    file.hosts.into_iter().next().unwrap()
}

fn show(errors: &[ConfigError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n\n")
}

/// The errors as the user sees them.
fn errors(text: &str) -> String {
    show(&read(text).unwrap_err())
}

/// The messages alone, of one host with these lines more.
fn messages_of(lines: &str) -> Vec<String> {
    let text = format!("[hosts.a]\npayload = \"p\"\ndisk = \"/dev/vda\"\n{lines}\n");
    match read(&text) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.into_iter().map(|error| error.message).collect(),
    }
}

#[test]
fn the_least_that_a_host_needs() {
    let host = one("[hosts.web1]\npayload = \"debian\"\ndisk = \"/dev/vda\"\n");
    let expected = Host {
        name: "web1".into(),
        labels: vec![],
        address: "web1".into(),
        port: None,
        user: None,
        proxy_jump: None,
        new_address: None,
        new_user: None,
        becomes: None,
        identity_files: vec![],
        known_hosts: None,
        accept_new: false,
        payload: "fleet/debian".into(),
        disk: DiskSelector::Path("/dev/vda".into()),
        disks: vec![],
        vars: BTreeMap::new(),
        secrets: BTreeMap::new(),
        reveal: None,
        mirror: None,
        snapshot: None,
        proxy: Proxy::Own,
        base: Base::default(),
        needs: None,
        kernel: Kernel::Host,
        deadlines: Deadlines::default(),
        finish: Finish::Reboot,
        authorized_keys: vec![],
        check: None,
        ssh_port_ram: None,
        raw_access: false,
        verify_key: false,
    };
    assert_eq!(host, expected);
}

#[test]
fn everything_that_a_host_can_have() {
    let host = one(&format!(
        r#"
[hosts.db]
tags = ["canary", "berlin"]
address = "2001:db8::7"
port = 2222
user = "admin"
proxy_jump = "me@jump.example:24,[2001:db8::1]"
new_address = "db.example"
new_user = "dba"
become = "sudo"
identity_file = ["~/.ssh/id_a", "keys/b", "/etc/keys/c"]
known_hosts = "known_hosts"
accept_new = true
payload = "./payloads/db"
disk = {{ serial = "S3Z8NB0K", model = "Samsung 860", wwid = "naa.5002538e", min_size = "500GB", max_size = "1TiB" }}
disks = ["/dev/nvme1n1", {{ min_size = "2T" }}]
var_files = []
vars = {{ role = "db", shards = 0x10, debug = true, _x9 = "" }}
secrets = {{ "tls.key" = "secrets/tls.key" }}
reveal = "age -d -i key.txt"
mirror = "http://mirror.example/debian"
snapshot = "https://snapshot.example/@SNAPSHOTID@/"
proxy = "http://proxy.example:3128"
base = {{ urls = ["https://images.example/base.zst"], lock = "base.lock" }}
needs = ["disk", "grub"]
kernel = "locked"
deadlines = {{ build = "3h", ack = "90s" }}
finish = "kexec"
authorized_keys = ["{ED25519} me@laptop", "keys/team.pub"]
check = "systemctl is-system-running"
ssh_port_ram = 22022
raw_access = true
verify_key = true
"#
    ));
    let expected = Host {
        name: "db".into(),
        labels: vec!["berlin".into(), "canary".into()],
        address: "2001:db8::7".into(),
        port: Some(2222),
        user: Some("admin".into()),
        proxy_jump: Some("me@jump.example:24,[2001:db8::1]".into()),
        new_address: Some("db.example".into()),
        new_user: Some("dba".into()),
        becomes: Some(Become::Sudo),
        identity_files: vec!["/home/me/.ssh/id_a".into(), "fleet/keys/b".into(), "/etc/keys/c".into()],
        known_hosts: Some("fleet/known_hosts".into()),
        accept_new: true,
        payload: "fleet/payloads/db".into(),
        disk: DiskSelector::Match {
            serial: Some("S3Z8NB0K".into()),
            model: Some("Samsung 860".into()),
            wwid: Some("naa.5002538e".into()),
            min_size: Some(500_000_000_000),
            max_size: Some(1 << 40),
        },
        disks: vec![
            DiskSelector::Path("/dev/nvme1n1".into()),
            DiskSelector::Match {
                serial: None,
                model: None,
                wwid: None,
                min_size: Some(2_000_000_000_000),
                max_size: None,
            },
        ],
        vars: [("ROLE", "db"), ("SHARDS", "16"), ("DEBUG", "true"), ("_X9", "")]
            .map(|(name, value)| (name.into(), value.into()))
            .into(),
        secrets: [("tls.key".into(), PathBuf::from("fleet/secrets/tls.key"))].into(),
        reveal: Some("age -d -i key.txt".into()),
        mirror: Some("http://mirror.example/debian".into()),
        snapshot: Some("https://snapshot.example/@SNAPSHOTID@/".into()),
        proxy: Proxy::At("http://proxy.example:3128".into()),
        base: Base {
            source: BaseSource::Urls(vec!["https://images.example/base.zst".into()]),
            lock: Some("fleet/base.lock".into()),
        },
        needs: Some(vec!["disk".into(), "grub".into()]),
        kernel: Kernel::Locked,
        deadlines: Deadlines {
            build: Duration::from_secs(3 * 3600),
            ack: Duration::from_secs(90),
            ..Deadlines::default()
        },
        finish: Finish::Kexec,
        authorized_keys: vec![
            AuthorizedKey::Key(PublicKey::parse(ED25519).unwrap()),
            AuthorizedKey::File("fleet/keys/team.pub".into()),
        ],
        check: Some("systemctl is-system-running".into()),
        ssh_port_ram: Some(22022),
        raw_access: true,
        verify_key: true,
    };
    assert_eq!(host, expected);
}

#[test]
fn every_key_of_the_layer_is_in_the_test_above() {
    // Whoever adds a key is to read it there and to describe it in docs/HOSTS.md.
    let source = include_str!("mod.rs");
    for key in super::layer::KEYS {
        assert!(source.contains(&format!("\n{key} = ")), "{key}");
    }
}

#[test]
fn defaults_go_under_hosts_and_tables_are_merged_by_key() {
    let file = read(
        r#"
[defaults]
payload = "debian"
disk = "/dev/sda"
disks = ["/dev/sdb"]
user = "root"
vars = { suite = "trixie", role = "none" }
deadlines = { build = "1h", boot = "2m" }
secrets = { a = "a" }
base = "build"

[hosts.z]
vars = { role = "web" }
deadlines = { build = "2h" }
secrets = { b = "b" }
base = { lock = "my.lock" }

[hosts.a]
disk = { serial = "X" }
disks = []
user = "toor"
"#,
    )
    .unwrap_or_else(|errors| panic!("{}", show(&errors)));
    let names: Vec<&str> = file.hosts.iter().map(|host| host.name.as_str()).collect();
    assert_eq!(names, ["z", "a"], "in the order of the file");
    let get = |name: &str| file.hosts.iter().find(|host| host.name == name).unwrap();
    let (z, a) = (get("z"), get("a"));
    assert_eq!(z.vars, [("SUITE".into(), "trixie".into()), ("ROLE".into(), "web".into())].into());
    assert_eq!(z.deadlines.build, Duration::from_secs(7200));
    assert_eq!(z.deadlines.boot, Duration::from_secs(120));
    assert_eq!(z.deadlines.ack, Deadlines::default().ack);
    assert_eq!(z.secrets.keys().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(z.base, Base { source: BaseSource::Auto, lock: Some("fleet/my.lock".into()) }, "replaced as a whole");
    assert_eq!(z.disks.len(), 1);
    assert_eq!(a.disk.to_string(), "serial `X`");
    assert_eq!(a.disks, []);
    assert_eq!(a.user.as_deref(), Some("toor"));
    assert_eq!(a.vars["ROLE"], "none");
    assert_eq!(a.base.source, BaseSource::Build);
}

#[test]
fn all_errors_are_shown_each_at_its_place() {
    let text = r#"[defaults]
payload = "debian"
adress = "10.0.0.1"

[hosts.web1]
dsik = "/dev/vda"
port = 70000
user = 3
deadlines = { build = "2 x", bot = "1m" }

[hosts.-web2]
disk = { serail = "X" }
finish = "rebot"
"#;
    let expected = r#"fleet/hosts.toml:3:1: unknown key `adress` in [defaults]
  |
3 | adress = "10.0.0.1"
  | ^^^^^^ did you mean `address`?

fleet/hosts.toml:6:1: unknown key `dsik` in [hosts.web1]
  |
6 | dsik = "/dev/vda"
  | ^^^^ did you mean `disk`?

fleet/hosts.toml:7:8: `port` must be a port number (1 to 65535), not 70000
  |
7 | port = 70000
  |        ^^^^^

fleet/hosts.toml:8:8: `user` must be a user's name, not an integer
  |
8 | user = 3
  |        ^

fleet/hosts.toml:9:23: `deadlines.build`: `2 x` is not a duration: ADVICE
  |
9 | deadlines = { build = "2 x", bot = "1m" }
  |                       ^^^^^

fleet/hosts.toml:9:30: unknown key `bot` in `deadlines`
  |
9 | deadlines = { build = "2 x", bot = "1m" }
  |                              ^^^ did you mean `boot`?

fleet/hosts.toml:11:8: host name `-web2` must begin with a letter, a digit or `_`
   |
11 | [hosts.-web2]
   |        ^^^^^

fleet/hosts.toml:12:10: unknown key `serail` in `disk`
   |
12 | disk = { serail = "X" }
   |          ^^^^^^ did you mean `serial`?

fleet/hosts.toml:13:10: `finish` must be one of "reboot", "kexec", "poweroff", "hold", not "rebot"
   |
13 | finish = "rebot"
   |          ^^^^^^^ did you mean "reboot"?"#;
    let advice = "write a number and s, m, h or d, such as \"90s\", \"10m\" or \"1h30m\"";
    assert_eq!(errors(text), expected.replace("ADVICE", advice));
}

#[test]
fn what_must_be_said_is_asked_for() {
    let expected = r#"hosts.toml:1:8: host `web` has no `payload`
  |
1 | [hosts.web]
  |        ^^^ add payload = "DIRECTORY", here or under [defaults]

hosts.toml:1:8: host `web` has no `disk`: what may be overwritten must be said
  |
1 | [hosts.web]
  |        ^^^ add disk = "/dev/…" or disk = { serial = "…" }"#;
    assert_eq!(show(&parse("[hosts.web]\n", Path::new("hosts.toml"), None, &nothing).unwrap_err()), expected);
}

#[test]
fn a_text_that_is_not_toml_has_only_that_error() {
    let expected = "fleet/hosts.toml:2:13: invalid basic string, expected `\"`
  |
2 | payload = \"p
  |             ^";
    assert_eq!(errors("[hosts.a]\npayload = \"p\ndsik = 3\n"), expected);
}

#[test]
fn duplicates_are_named_and_the_rest_is_still_checked() {
    let text = "[hosts.a]\npayload = \"p\"\ndisk = \"/dev/vda\"\npayload = \"q\"\nprot = 1\n\n[hosts.a]\n";
    let expected = "fleet/hosts.toml:4:1: `payload` is given twice
  |
4 | payload = \"q\"
  | ^^^^^^^

fleet/hosts.toml:5:1: unknown key `prot` in [hosts.a]
  |
5 | prot = 1
  | ^^^^ did you mean `port`?

fleet/hosts.toml:7:8: `a` is given twice
  |
7 | [hosts.a]
  |        ^";
    assert_eq!(errors(text), expected);
}

#[test]
fn two_hosts_at_one_address_are_one_machine() {
    let text = "[defaults]\npayload=\"p\"\ndisk=\"/dev/sda\"\n[hosts.a]\naddress=\"10.0.0.1\"\n[hosts.b]\n\
                address=\"10.0.0.1\"\n";
    let expected = "fleet/hosts.toml:6:8: hosts `a` and `b` are the same machine: both are at 10.0.0.1
  |
6 | [hosts.b]
  |        ^";
    assert_eq!(errors(text), expected);
    let elsewhere = text.replace("[hosts.b]", "[hosts.b]\nport=2222");
    assert!(read(&elsewhere).is_ok(), "another port may be another machine");
}

#[test]
fn long_and_hostile_lines_are_shown_safely() {
    let text = format!("[hosts.a]\npayload=\"p\"\ndisk=\"/dev/sda\"\nauthorized_keys = [\"{}\", 7]\n", "k".repeat(400));
    let shown = errors(&text);
    assert!(shown.lines().filter(|line| line.contains(" | ")).all(|line| line.chars().count() < 110), "{shown}");
    assert!(shown.ends_with("4 | …kkkkkkkkkkkkkkkkk\", 7]\n  |                      ^"), "{shown}");
    // TOML refuses an escape character; the line that has it is shown without.
    let shown = errors("[hosts.a]\nuser = \"\u{1b}[2J\"\n");
    assert!(!shown.contains('\u{1b}') && shown.contains('\u{fffd}'), "{shown}");
}

#[test]
fn a_private_key_is_not_repeated() {
    let shown = errors(
        "[hosts.a]\npayload=\"p\"\ndisk=\"/dev/sda\"\n\
         authorized_keys = [\"-----BEGIN OPENSSH PRIVATE KEY-----\\nc2VjcmV0\"]\n",
    );
    let expected = "fleet/hosts.toml:4:20: `authorized_keys` has a private key in it: put the public one there";
    assert_eq!(shown, expected);
}

#[test]
fn wrong_values_say_what_is_wrong() {
    for (lines, message) in [
        (
            "address = \"10.0.0.1:22\"",
            "`address`: `10.0.0.1:22` has a port in it: write address = \"10.0.0.1\" and port = 22",
        ),
        ("address = \"[::1]:22\"", "`address`: `[::1]:22` has a port in it: write address = \"::1\" and port = 22"),
        ("address = \"root@h\"", "`address`: `root@h` has a user in it: write address = \"h\" and user = \"root\""),
        ("address = \"-oProxyCommand=x\"", "`address`: `-oProxyCommand=x` is not a host name or an IP address"),
        ("address = \"\"", "`address` is empty"),
        ("port = 0", "`port` must be a port number (1 to 65535), not 0"),
        ("port = \"22\"", "`port` must be a port number (1 to 65535), not a string"),
        ("accept_new = \"yes\"", "`accept_new` must be true or false, not a string"),
        ("kernel = \"mine\"", "`kernel` must be one of \"host\", \"locked\", not \"mine\""),
        (
            "mirror = \"ftp://x/\"",
            "`mirror`: `ftp://x/` is not a URL that can be fetched: it must begin with http:// or https://",
        ),
        (
            "proxy = \"http://me:word@proxy.example:3128\"",
            "`proxy`: `http://me:word@proxy.example:3128` has a user or password in it, which would end up in logs",
        ),
        (
            "proxy = \"proxy.example:3128\"",
            "`proxy`: `proxy.example:3128` is not a URL that can be fetched: it must begin with http:// or https://",
        ),
        ("mirror = \"http:///x\"", "`mirror`: `http:///x` is not a URL"),
        ("snapshot = \"http://x/\"", "`snapshot`: `http://x/` must have @SNAPSHOTID@ where the time goes"),
        (
            "vars = { \"a-b\" = 1 }",
            "`vars.a-b`: a variable's name is letters, digits and `_`, and doesn't begin with a digit",
        ),
        ("vars = { a = 1, A = 2 }", "`vars.A` is given twice: each is ANEMOS_VAR_A to the payload"),
        ("vars = { a = 1.5 }", "`vars.a` must be a string, an integer or a boolean, not a float"),
        (
            "vars = { a = 99999999999999999999 }",
            "`vars.a`: 99999999999999999999 is too large a number; write it as a string",
        ),
        (
            "secrets = { \"../x\" = \"f\" }",
            "`secrets.../x`: a secret's name is a file name of letters, digits, `.`, `_` and `-`",
        ),
        ("secrets = { a = \"~you/x\" }", "`secrets.a`: only `~/…` is understood, not `~you/x`"),
        ("deadlines = { ack = 90 }", "`deadlines.ack` must be a duration, not a bare number"),
        (
            "base = { source = \"build\", urls = [\"http://x/y\"] }",
            "`base.urls` is a source of its own: leave out `base.source`",
        ),
        ("base = { urls = [] }", "`base.urls` is an empty list"),
        ("identity_file = []", "`identity_file` is an empty list"),
        (
            "proxy_jump = \"a b\"",
            "`proxy_jump`: `a b` is not [USER@]HOST[:PORT], or several of these with commas between",
        ),
        (
            "proxy_jump = \"a,\"",
            "`proxy_jump`: `a,` has a part that can't be read: `` is no jump host: a name is missing",
        ),
        ("disks = \"/dev/sdb\"", "`disks` must be a list of disks, not a string"),
        ("disks = [\"sdb\"]", "`disks`: `sdb` is not the path of a disk: it must begin with /dev/"),
        (
            "disks = [\"/dev/disk/by-id/x\"]",
            "`disks`: `/dev/disk/by-id/x` is a link that udev makes: name the disk itself, or by \
             { serial = \"…\" } or { wwid = \"…\" }",
        ),
        ("disks = [\"/dev/../etc/passwd\"]", "`disks`: `/dev/../etc/passwd` is not the path of a disk"),
        ("disks = [{}]", "`disks` says nothing about the disk: give one of serial, model, wwid, min_size, max_size"),
        (
            "disks = [{ min_size = \"2T\", max_size = \"1T\" }]",
            "`disks`: min_size is more than max_size, so no disk can match",
        ),
        (
            "disks = [{ min_size = \"big\" }]",
            "`disks.min_size`: `big` is not a size: write a number and a unit, such as \"500GB\" or \"2TiB\"",
        ),
        (
            "authorized_keys = [\"ssh-ed25519 AAAA\"]",
            "`authorized_keys`: neither the path of a .pub file nor a public key: the key is cut short or of \
             another kind than it says",
        ),
        (
            "authorized_keys = [\"id_ed25519\"]",
            "`authorized_keys`: neither the path of a .pub file nor a public key: `id_ed25519` is not a kind of \
             public key (options before the key are not supported)",
        ),
    ] {
        assert_eq!(messages_of(lines), [message], "{lines}");
    }
    let in_defaults = errors("[defaults]\naddress = \"h\"\n[hosts.a]\npayload = \"p\"\ndisk = \"/dev/sda\"\n");
    assert!(in_defaults.contains("`address` belongs to one host: it can't be in [defaults]"), "{in_defaults}");
}

#[test]
fn right_values_are_taken() {
    for lines in [
        "address = \"fe80::1%eth0\"",
        "address = \"web-1.example.org\"",
        "base = \"upload\"",
        "base = { source = \"build\" }",
        "mirror = \"http://[::1]:8080/debian\"",
        "identity_file = \"id\"",
        "disks = [\"/dev/cciss/c0d0\"]",
        "authorized_keys = [\"key with space.pub\"]",
    ] {
        assert_eq!(messages_of(lines), [""; 0], "{lines}");
    }
}

#[test]
fn a_secret_may_not_be_in_the_payload() {
    let text =
        "[defaults]\npayload = \"p\"\ndisk = \"/dev/sda\"\n\n[hosts.a]\nsecrets = { s = \"p/keys/s\", t = \"pp/t\" }\n";
    let expected = "fleet/hosts.toml:6:17: fleet/p/keys/s is secret, but inside the payload: \
it would be sent with it; move it elsewhere
  |
6 | secrets = { s = \"p/keys/s\", t = \"pp/t\" }
  |                 ^^^^^^^^^^";
    assert_eq!(errors(text), expected);
    for path in ["../fleet/p/keys/s", "./p/../p/keys/s"] {
        let error = errors(&text.replace("p/keys/s", path));
        assert!(error.contains("p/keys/s is secret, but inside the payload"), "{path}: {error}");
    }
}

#[test]
fn an_imgbuild_s_secrets_are_opened_in_one_place() {
    let reveal = "reveal = \"pass show web\"";
    assert_eq!(messages_of(reveal), [""; 0]);
    let both = messages_of(&format!("{reveal}\nvars = {{ reveal = \"age -d\" }}"));
    assert!(both.len() == 1 && both[0].contains("and `vars.reveal`, by which the host does"), "{both:?}");
    let taken = messages_of("secrets = { \"revealed.a\" = \"a\" }");
    assert!(taken.len() == 1 && taken[0].contains("a secret's name is"), "{taken:?}");
}

#[test]
fn groups_and_tags_become_labels() {
    let text = "[defaults]\npayload = \"p\"\ndisk = \"/dev/sda\"\ntags = [\"prod\"]\n\
                [groups]\nweb = [\"web*\"]\nall-but-db = [\"@web\", \"mail\", \"mail\"]\nb = [\"@berlin\"]\n\
                [hosts.web1]\n[hosts.web2]\ntags = [\"berlin\"]\n[hosts.db]\ntags = []\n[hosts.mail]\n";
    let file = read(text).unwrap_or_else(|errors| panic!("{}", show(&errors)));
    let labels = |name: &str| file.hosts.iter().find(|host| host.name == name).unwrap().labels.join(" ");
    assert_eq!(labels("web1"), "all-but-db prod web");
    assert_eq!(labels("web2"), "all-but-db b berlin web");
    assert_eq!(labels("db"), "");
    assert_eq!(labels("mail"), "all-but-db prod");
    let picked = |words: &[&str], exclude: &[&str]| {
        let parse = |words: &[&str]| words.iter().map(|word| word.parse().unwrap()).collect();
        let selection = Selection { hosts: parse(words), limit: Vec::new(), exclude: parse(exclude) };
        file.pick(&selection).map(|hosts| hosts.iter().map(|host| host.name.as_str()).collect::<Vec<_>>().join(" "))
    };
    assert_eq!(picked(&["@web", "db"], &["@berlin"]).as_deref(), Ok("web1 db"));
    assert_eq!(picked(&["wbe1"], &[]).unwrap_err(), "fleet/hosts.toml has no host `wbe1`; did you mean `web1`?");
}

#[test]
fn a_group_of_nobody_is_an_error() {
    let with = |groups: &str| {
        format!("[groups]\n{groups}\n[hosts.web1]\ntags = [\"prod\"]\npayload = \"p\"\ndisk = \"/dev/vda\"\n")
    };
    let messages = |groups: &str| match read(&with(groups)) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.into_iter().map(|error| error.message).collect(),
    };
    assert_eq!(
        errors(&with("web = [\"wbe1\"]")),
        "fleet/hosts.toml:2:8: `groups.web`: there is no host `wbe1`\n  |\n2 | web = [\"wbe1\"]\n  |        ^^^^^^ \
         did you mean `web1`?"
    );
    assert_eq!(messages("web = [\"web*\"]"), [""; 0]);
    // A group that stands below is not there yet, and neither is itself.
    assert_eq!(messages("a = [\"@b\"]\nb = [\"web1\"]"), ["`groups.a`: there is no group or tag `@b`"]);
    assert_eq!(messages("a = [\"@a\"]"), ["`groups.a`: there is no group or tag `@a`"]);
    assert_eq!(messages("prod = [\"web1\"]"), ["`prod` is a tag as well: `@prod` must mean one thing"]);
    assert_eq!(messages("\"a b\" = [\"web1\"]"), ["group name `a b` may have only letters, digits, `.`, `_` and `-`"]);
    assert_eq!(
        messages("a = \"web1\""),
        ["`groups.a` must be a list of hosts, such as [\"web*\", \"db1\"], not a string"]
    );
    assert_eq!(messages("a = [\"web[\"]").len(), 1);
    assert_eq!(messages_of("tags = [\"a b\"]"), ["`tags`: `a b` may have only letters, digits, `.`, `_` and `-`"]);
    assert_eq!(messages_of("tags = \"a\""), ["`tags` must be a list of words, not a string"]);
}

#[test]
fn loading_looks_at_the_files_that_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hosts.toml");
    let text = "[hosts.a]\npayload = \"p\"\ndisk = \"/dev/sda\"\nsecrets = { s = \"s\" }\nidentity_file = \"p\"\n\
                known_hosts = \"not-yet\"\n";
    fs::write(&path, text).unwrap();
    let shown = load(&path).unwrap_err().to_string().replace(&dir.path().display().to_string(), "DIR");
    let expected = "DIR/hosts.toml:2:11: no directory DIR/p
  |
2 | payload = \"p\"
  |           ^^^

DIR/hosts.toml:4:17: no file DIR/s
  |
4 | secrets = { s = \"s\" }
  |                 ^^^

DIR/hosts.toml:5:17: no file DIR/p
  |
5 | identity_file = \"p\"
  |                 ^^^";
    assert_eq!(shown, expected);

    fs::create_dir(dir.path().join("p")).unwrap();
    fs::write(dir.path().join("real"), "x").unwrap();
    symlink("real", dir.path().join("s")).unwrap();
    let shown = load(&path).unwrap_err().to_string();
    assert!(shown.contains("/p is not a file") && !shown.contains("no "), "{shown}");
    fs::write(&path, text.replace("identity_file = \"p\"", "")).unwrap();
    assert_eq!(load(&path).unwrap().hosts[0].payload, dir.path().join("p"));

    let missing = load(&dir.path().join("nowhere.toml")).unwrap_err();
    assert!(missing.to_string().ends_with("/nowhere.toml: No such file or directory (os error 2)"), "{missing}");
    assert!(missing.to_string().starts_with("can't read "), "{missing}");
    fs::write(&path, b"\xff").unwrap();
    assert!(load(&path).unwrap_err().to_string().ends_with("/hosts.toml is not UTF-8 text"));
}

#[test]
fn keys_are_read_from_pub_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("team.pub");
    let read = |text: &str| {
        fs::write(&path, text).unwrap();
        let result = AuthorizedKey::File(path.clone()).read();
        result.map_err(|error| error.to_string().replace(&dir.path().display().to_string(), "DIR"))
    };
    assert_eq!(read(&format!("# team\n\n{ED25519} me\n{ED25519}\n")), Ok(vec![ED25519.into(), ED25519.into()]));
    assert_eq!(read("\n"), Err("DIR/team.pub: there is no key in it".into()));
    assert_eq!(
        read(&format!("{ED25519}\ncommand=\"x\" {ED25519}\n")),
        Err("DIR/team.pub:2: `command=\"x\"` is not a kind of public key (options before the key are not supported)"
            .into())
    );
    assert_eq!(AuthorizedKey::Key(PublicKey::parse(ED25519).unwrap()).read(), Ok(vec![ED25519.into()]));
}

#[test]
fn suggestions_are_near_or_absent() {
    let nearest = |name| table::nearest(name, super::layer::KEYS);
    assert_eq!(nearest("hostname"), Some("address"));
    assert_eq!(nearest("identity-file"), Some("identity_file"));
    assert_eq!(nearest("IdentityFile"), Some("identity_file"));
    assert_eq!(nearest("timeouts"), Some("deadlines"));
    assert_eq!(nearest("secret"), Some("secrets"));
    assert_eq!(nearest("colour"), None);
    assert_eq!(nearest("x"), None);
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused_with_errors_that_print(text in "\\PC{0,200}") {
        if let Err(errors) = read(&text) {
            prop_assert!(!errors.is_empty());
            prop_assert!(!show(&errors).is_empty());
        }
    }

    #[test]
    fn any_damage_to_a_good_file_is_read_or_refused(
            at in 0_usize..400, with in "[\\PC\n\t\u{1b}]{0,4}", cut in 0_usize..20
        ) {
        let good = format!(
            "[defaults]\npayload = \"p\"\ndisk = {{ serial = \"ä\" }}\n\n[hosts.a]\naddress = \"10.0.0.1\"\n\
             vars = {{ x = 1 }}\ndeadlines = {{ boot = \"2m\" }}\n\
             authorized_keys = [\"{ED25519}\"]\nbase = {{ urls = [\"http://x/\"] }}\n"
        );
        let mut chars: Vec<char> = good.chars().collect();
        let at = at.min(chars.len());
        let end = (at + cut).min(chars.len());
        chars.splice(at..end, with.chars());
        if let Err(errors) = read(&chars.into_iter().collect::<String>()) {
            prop_assert!(!show(&errors).is_empty());
        }
    }
}
