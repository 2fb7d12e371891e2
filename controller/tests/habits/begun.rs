//! `anemos init`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::desk::{Desk, Shared, text};
use crate::host::Host;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_begun_can_be_deployed() {
    let host = Host::start(31, Shared::default()).await;
    let desk = Desk::new(&[("web", &host)]);
    // The user's own ssh_config knows key and known_hosts.
    fs::create_dir(desk.path("bin")).unwrap();
    let path = std::env::var("PATH").unwrap();
    let ssh = path.split(':').map(|dir| Path::new(dir).join("ssh")).find(|ssh| ssh.exists()).unwrap();
    let at = desk.dir.path().display();
    desk.write("ssh_config", &format!("Host *\nUserKnownHostsFile {at}/known_hosts\nIdentityFile {at}/key\n"));
    desk.write("bin/ssh", &format!("#!/bin/sh\nexec {} -F {at}/ssh_config \"$@\"\n", ssh.display()));
    fs::set_permissions(desk.path("bin/ssh"), Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{path}", desk.path("bin").display());
    let run = |arguments: &[&str]| {
        let output = desk.anemos(arguments).env("PATH", &path).output().unwrap();
        (output.status.code().unwrap(), text(&output))
    };
    let place = format!("root@127.0.0.1:{}", host.address.port());

    // Whatever must be known and can't be asked is named.
    let (status, said) = run(&["init", "site"]);
    assert!(status == 2 && said.contains("give --ssh [USER@]HOST[:PORT]"), "{said}");
    let (status, said) = run(&["init", "site", "--ssh", &place, "--no-look"]);
    assert!(status == 2 && said.contains("give --disk DISK"), "{said}");
    let (status, said) = run(&["init", "site", "--ssh", &place, "--payload", "arch"]);
    assert!(status == 2 && said.contains("there is no payload `arch`"), "{said}");
    assert!(!desk.path("site").exists());

    // The host is looked at, and its only disk is the one.
    let (status, said) = run(&["init", "site", "--ssh", &place, "--payload", "hello"]);
    assert!(status == 0 && said.contains("`anemos plan site/hosts.toml` shows what would happen"), "{said}");
    let toml = desk.read("site/hosts.toml");
    assert!(toml.contains("[hosts.\"host\"]") && toml.contains("disk = { serial = \"S\" }"), "{toml}");
    assert_eq!(host.boots(), 0);
    assert_eq!(run(&["validate", "site/hosts.toml"]).0, 0);
    let (status, said) = run(&["plan", "site/hosts.toml"]);
    assert_eq!(status, 0, "{said}");

    // Nothing is written over.
    let (status, said) = run(&["init", "site", "--ssh", &place]);
    assert!(status == 2 && said.contains("site/hosts.toml is there already"), "{said}");
    assert_eq!(desk.read("site/hosts.toml"), toml);

    // What is named on the command line is named from here, and hosts.toml is there.
    let more = ["--name", "key", "--authorized-keys", "key.pub"];
    let (status, said) = run(&[&["init", "keys", "--ssh", &place][..], &more].concat());
    assert_eq!(status, 0, "{said}");
    let (status, said) = run(&["validate", "keys/hosts.toml"]);
    assert_eq!(status, 0, "{said}");
    for (more, says) in [
        (["--disk", "/dev/sdb"], "the host has no disk `/dev/sdb`; it has /dev/vda ("),
        (["--authorized-keys", "nosuch.pub"], "nosuch.pub: No such file"),
        (["--authorized-keys", "key"], "key:1: "),
    ] {
        let (status, said) = run(&[&["init", "wrong", "--ssh", &place][..], &more].concat());
        assert!(status == 2 && said.contains(says) && !desk.path("wrong").exists(), "{said}");
    }
    let more = ["--disk", "/dev/sdb", "--name", "db", "--no-look"];
    let (status, said) = run(&[&["init", "other", "--ssh", &place][..], &more].concat());
    assert!(status == 0 && desk.read("other/hosts.toml").contains("disk = \"/dev/sdb\""), "{said}");
}
