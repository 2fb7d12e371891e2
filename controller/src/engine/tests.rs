//! The bootstrap script, under the shells that hosts have.

use std::io::Write;
use std::process::{Command, Stdio};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::{script, sha256};

/// Stands in for the stage: says how it was called, and what it reads.
const FAKE: &[u8] = b"#!/bin/sh\necho \"fake $*\"\ncat\nrm -rf \"$3\"\n";

fn shells() -> Vec<Vec<&'static str>> {
    let there = |path: &str| std::path::Path::new(path).exists();
    let mut shells = vec![vec!["/bin/sh"]];
    shells.extend(["/bin/dash", "/bin/bash"].into_iter().filter(|path| there(path)).map(|path| vec![path]));
    if there("/bin/busybox") {
        shells.push(vec!["/bin/busybox", "sh"]);
    }
    shells
}

fn gz() -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(FAKE).unwrap();
    encoder.finish().unwrap()
}

/// Runs the script and feeds it `input`; returns what it wrote.
fn run(shell: &[&str], command: &str, input: &[u8]) -> String {
    assert!(rustix::process::getuid().is_root(), "the script insists on root, so this test must run as root");
    let mut child = Command::new(shell[0])
        .args(&shell[1..])
        .args(["-c", command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout).into_owned()
}

#[test]
fn the_stage_arrives_or_nothing_stays() {
    let gz = gz();
    let command = script::bootstrap(&sha256(&gz), gz.len(), std::env::consts::ARCH);
    for shell in shells() {
        let output = run(&shell, &command, &gz);
        let mut lines = output.lines();
        let first = lines.next().and_then(script::marked).unwrap_or_default();
        assert!(first.starts_with("need ") && first.len() > 10, "{shell:?}: {output}");
        let called = lines.next().unwrap_or_default();
        assert!(called.starts_with("fake serve --dir /"), "{shell:?}: {output}");

        let mut damaged = gz.clone();
        damaged[15] ^= 1;
        let output = run(&shell, &command, &damaged);
        assert!(output.contains("anemos: error the stage arrived damaged"), "{shell:?}: {output}");
        let output = run(&shell, &command, &gz[..10]);
        assert!(output.contains("10 of"), "{shell:?}: {output}");
        assert!(!std::path::Path::new("/var/lib/anemos").exists(), "{shell:?} left its directory");
    }
}

#[test]
fn another_architecture_is_refused() {
    let gz = gz();
    let command = script::bootstrap(&sha256(&gz), gz.len(), "s390x");
    let output = run(&["/bin/sh"], &command, &[]);
    assert!(output.contains("anemos: error this anemos carries a stage for s390x"), "{output}");
}

#[test]
fn a_system_tells_what_it_is() {
    for shell in shells() {
        let output = run(&shell, &script::look(), &[]);
        let said: Vec<&str> = output.lines().filter_map(script::marked).collect();
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        assert_eq!(said[0], format!("boot {}", boot_id.trim()), "{shell:?}");
        assert!(said[1].starts_with("root ") && said[2].starts_with("os "), "{shell:?}: {output}");
    }
}
