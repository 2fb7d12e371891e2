//! `anemos cp`, `anemos shell` and `anemos ssh`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use anemos_proto::event::Outcome;

use crate::desk::{Desk, Shared, Willing};
use crate::host::{Boot, Host};

/// A host whose payload fails, and whose commands run in that directory then.
fn failing(root: &Path) -> Shared {
    let outcome = Outcome::Failed { reason: "exit status 1".into(), written: true };
    Shared(Arc::new(Willing { outcome, root: Some(root.to_owned()), ..Willing::default() }))
}

fn names(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn files_go_into_ram_and_out_of_it_whole_or_not_at_all() {
    let root = tempfile::tempdir().unwrap();
    let host = Host::start(5, failing(root.path())).await;
    let desk = Desk::new(&[("web", &host)]);
    let (status, said) = desk.run(&["up", "--yes"]);
    assert!(status == 4 && host.boot() == Boot::Ram, "{said}");

    // In, with its mode, into a directory or under a name of its own. The name is nothing to a shell.
    let large = "0123456789\n".repeat(120_000);
    desk.write("it's; here", &large);
    fs::set_permissions(desk.path("it's; here"), Permissions::from_mode(0o750)).unwrap();
    fs::create_dir(root.path().join("dir")).unwrap();
    for (to, there) in [("web:dir", "dir/it's; here"), ("web:$(new) 'x'", "$(new) 'x'"), ("web:", "it's; here")] {
        let (status, said) = desk.run(&["cp", "it's; here", to]);
        assert!(status == 0 && said.is_empty(), "{to}: {said}");
        let there = root.path().join(there);
        assert_eq!(fs::read_to_string(&there).unwrap(), large);
        assert_eq!(there.metadata().unwrap().permissions().mode() & 0o777, 0o750);
    }
    assert_eq!(names(root.path()), ["$(new) 'x'", "dir", "it's; here"]);

    // Out: into a directory under the name that was asked for, and over a file that is there.
    fs::create_dir(desk.path("out")).unwrap();
    desk.write("old", "old");
    for (to, here) in [("out", "out/it's; here"), ("old", "old"), ("./a:b", "a:b")] {
        let (status, said) = desk.run(&["cp", "web:dir/it's; here", to]);
        assert_eq!(status, 0, "{to}: {said}");
        assert_eq!(desk.read(here), large);
    }
    // Nobody gets to read what could not be read before: neither by a new file, nor by one that is written over.
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    let set = |path: &Path, mode: u32| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    fs::write(root.path().join("dir/secret"), "secret").unwrap();
    set(&root.path().join("dir/secret"), 0o600);
    set(&desk.path("old"), 0o644);
    for to in ["secret", "old"] {
        let (status, said) = desk.run(&["cp", "web:dir/secret", to]);
        assert_eq!((status, mode(&desk.path(to)), desk.read(to)), (0, 0o600, "secret".into()), "{said}");
    }
    set(&root.path().join("dir/secret"), 0o644);
    assert_eq!(desk.run(&["cp", "web:dir/secret", "old"]).0, 0);
    assert_eq!(mode(&desk.path("old")), 0o600, "what is written over");
    set(&root.path().join("dir/secret"), 0o600);
    set(&desk.path("old"), 0o755);
    assert_eq!(desk.run(&["cp", "old", "web:dir/secret"]).0, 0);
    assert_eq!(mode(&root.path().join("dir/secret")), 0o600, "what is written over in RAM");
    fs::remove_file(root.path().join("dir/secret")).unwrap();

    // What the kernel makes as it is read says that it has no bytes.
    let (status, said) = desk.run(&["cp", "web:/proc/version", "version"]);
    assert!(status == 0 && desk.read("version").starts_with("Linux"), "{said}");

    // What goes wrong leaves everything as it was, and says why.
    desk.write("old", "old");
    let before = names(desk.dir.path());
    for (arguments, expected, says) in [
        (&["cp", "web:nosuch", "old"][..], 4, "web:nosuch: stat: cannot stat"),
        (&["cp", "web:dir", "old"], 4, "web:dir: it is a directory"),
        (&["cp", "web:/dev/null", "old"], 4, "it is no regular file"),
        (&["cp", "web:dir/it's; here", "old", "--max-size", "1MB"], 4, "is larger than 977 KiB; --max-size"),
        (&["cp", "web:..", "out"], 2, "has no name that a file in out could have"),
        (&["cp", "out", "web:x"], 2, "out is a directory; `tar c out | anemos shell HOST -- tar x -C DIR`"),
        (&["cp", "old", "web:no/such/x"], 4, "mktemp: failed to create file"),
        (&["cp", "old", "web:/dev/null"], 4, "it is no regular file"),
        (&["cp", "old", "new"], 2, "one of the two is HOST:PATH"),
        (&["cp", "old", "db:x"], 2, "no run has `db` in RAM"),
    ] {
        let (status, said) = desk.run(arguments);
        assert!(status == expected && said.contains(says), "{arguments:?}: {status} {said}");
        assert_eq!(desk.read("old"), "old", "{arguments:?}");
    }
    assert_eq!(names(desk.dir.path()), before);
    assert_eq!(names(root.path()), ["$(new) 'x'", "dir", "it's; here"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ssh_goes_to_whatever_runs() {
    let root = tempfile::tempdir().unwrap();
    let host = Host::start(6, failing(root.path())).await;
    let desk = Desk::new(&[("web", &host)]);
    // ssh as it is, but for where it would log in: there it says what it was told.
    let path = desk.with_ssh("case \"$*\" in *-G*) ;; *) echo \"ssh: $*\"; exit 7;; esac");
    let go = |arguments: &[&str]| {
        let output = desk.anemos(&[&["ssh"], arguments].concat()).env("PATH", &path).output().unwrap();
        (output.status.code().unwrap(), crate::desk::text(&output))
    };
    let port = host.address.port();

    let (status, said) = go(&["web", "--", "uptime", "-p"]);
    assert!(status == 7 && said.starts_with(&format!("ssh: -l root -p {port} -i ")), "{said}");
    assert!(said.contains("UserKnownHostsFile=\"") && said.ends_with(" -- 127.0.0.1 uptime -p\n"), "{said}");

    // What hosts.toml has is said, and how a command is written.
    let (status, said) = go(&["web", "uptime"]);
    assert!(status == 2 && said.contains("hosts.toml has no host `uptime`; it has web; and there is no "), "{said}");
    assert!(said.contains("; a command comes after `--`: `anemos ssh web -- uptime`"), "{said}");
    let (status, said) = go(&["nosuch"]);
    assert!(status == 2 && said.contains("hosts.toml has no host `nosuch`; it has web; and there is no "), "{said}");
    assert!(!said.contains("--`"), "{said}");
    let (status, said) = go(&["hosts.toml", "web", "uptime"]);
    assert!(status == 2 && said.contains("hosts.toml has no host `uptime`; it has web"), "{said}");
    assert!(said.contains("`anemos ssh web -- uptime`"), "{said}");

    assert_eq!(desk.run(&["up", "--yes"]).0, 4);
    let (status, said) = go(&["web", "--", "echo in RAM; exit 3"]);
    assert_eq!((status, said.as_str()), (3, "in RAM\n"));
    // Another fleet has a host of that name too: that one is not in RAM.
    let toml = desk.read("hosts.toml");
    desk.write("other.toml", &toml.replace(&format!("port = {port}"), "port = 1"));
    let (status, said) = go(&["other.toml", "web", "--", "exit 3"]);
    assert!(status == 7 && said.starts_with("ssh: -l root -p 1 "), "{said}");
    assert!(said.contains("and now it is at 127.0.0.1 port 1: that run is taken for another machine's"), "{said}");
    assert!(said.contains("; `anemos shell web --run "), "{said}");
    // Whatever hosts.toml has become.
    fs::rename(desk.path("hosts.toml"), desk.path("gone.toml")).unwrap();
    assert_eq!(go(&["web", "--", "exit 4"]).0, 4);
    let (status, said) = go(&["db"]);
    assert!(status == 2 && said.contains("no run has `db`"), "{said}");
    let (status, said) = go(&[]);
    assert!(status == 2 && said.contains("name the host to log into"), "{said}");
    let (status, said) = go(&["gone.toml", "db"]);
    assert!(status == 2 && said.contains("gone.toml has no host `db`"), "{said}");

    // It went back by itself: another key answers.
    host.turn_into(Boot::Old);
    let (status, said) = go(&["web"]);
    assert!(status == 7 && said.contains("; trying its system") && said.starts_with("ssh: -l root"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ssh_knows_the_keys_of_a_new_system() {
    let host = Host::start(7, Shared::default()).await;
    let desk = Desk::new(&[("web", &host)]);
    assert_eq!(desk.run(&["up", "--yes"]).0, 0);
    desk.write("known_hosts", "");
    let (status, said) = desk.run(&["-v", "ssh", "web", "--", "true check"]);
    // The played host has its key still, and takes any of ours.
    assert_eq!(status, 0, "{said}");
    // Not for a host of that name at another address, though the same one answers there.
    let toml = desk.read("hosts.toml").replace("127.0.0.1", "localhost");
    desk.write("other.toml", &toml);
    let (status, said) = desk.run(&["ssh", "other.toml", "web", "--", "true check"]);
    assert!(status == 255 && said.contains("Host key verification failed"), "{said}");
}
