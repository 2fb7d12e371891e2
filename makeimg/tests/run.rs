//! `makeimg run`, with a stand-in for QEMU that prints how it is called. tests/e2e/makeimg.rs boots images.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use common::skipped;

const STANDIN: &str = "#!/bin/sh\nprintf '%s\\n' \"$@\"\n";

/// What it prints on stdout and stderr, with this directory, which is its PATH too, as the current one.
fn run(dir: &Path, args: &[&str]) -> (String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_makeimg"));
    let output = command.arg("run").args(args).current_dir(dir).env("PATH", dir).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (told, said) = (text(output.stdout), text(output.stderr));
    assert_eq!(output.status.code(), Some(if said.is_empty() { 0 } else { 2 }), "{said}");
    (told, said)
}

#[test]
fn qemu_is_called_and_what_is_missing_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let said = |args: &[&str]| run(dir, args).1;
    assert_eq!(said(&["web.img"]), "makeimg: there is no image web.img; `makeimg build` makes one\n");
    fs::write(dir.join("a,b.img"), "").unwrap();
    let missing = "makeimg: this machine has no qemu-system-x86_64; install it (qemu-system-x86 on Debian)\n";
    assert_eq!(said(&["a,b.img"]), missing);

    let qemu = dir.join("qemu-system-x86_64");
    fs::write(&qemu, STANDIN).unwrap();
    fs::set_permissions(&qemu, fs::Permissions::from_mode(0o755)).unwrap();
    let called = |args: &[&str]| run(dir, args).0.lines().collect::<Vec<_>>().join(" ");
    let machine =
        "-accel tcg -cpu max -m 1G -nographic -no-reboot -drive file=a,,b.img,format=raw,if=virtio,snapshot=on";
    let net = "-nic user,model=virtio-net-pci";
    assert_eq!(called(&["--accel", "tcg", "a,b.img"]), format!("{machine} {net}"));
    let forwarded = called(&["--accel", "tcg", "--ssh", "2222", "a,b.img"]);
    assert_eq!(forwarded, format!("{machine} {net},hostfwd=tcp:127.0.0.1:2222-:22"));
    let kept = called(&["--keep", "--memory", "2G", "a,b.img"]);
    assert!(kept.contains(" -m 2G ") && kept.contains(",snapshot=off "), "{kept}");

    fs::write(dir.join("web.qcow2"), "").unwrap();
    let qcow2 = called(&["--accel", "tcg", "web.qcow2"]);
    assert!(qcow2.contains("file=web.qcow2,format=qcow2,"), "{qcow2}");

    let (uefi, said) = run(dir, &["--accel", "tcg", "--uefi", "a,b.img"]);
    if uefi.is_empty() {
        skipped("this machine has no UEFI firmware (tests/install-tools.sh installs it)");
        assert_eq!(said, "makeimg: this machine has no UEFI firmware for QEMU; install it (ovmf on Debian)\n");
        return;
    }
    let uefi = uefi.lines().collect::<Vec<_>>().join(" ");
    let firmware =
        uefi.strip_prefix(&format!("{machine} -bios ")).and_then(|rest| rest.strip_suffix(&format!(" {net}")));
    assert!(firmware.is_some_and(|path| Path::new(path).is_file()), "{uefi}");
}
